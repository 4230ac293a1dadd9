"""The weights of recurrent operators: coded where a policy stores integers, computed with in float."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from edgekit.quantize.graph_index import GraphIndex, attribute

__all__ = ["CHANNEL_AXIS", "RECURRENT_OPS", "recurrent_weights"]

RECURRENT_OPS = ("LSTM", "GRU", "RNN")
CHANNEL_AXIS = 1  # of W and R: [directions, gates * hidden, inputs]; both directions share a row's scale
_WEIGHTS = (1, 2)  # the inputs W and R
_SHORTEST_ROW = 8  # elements; the scale of a shorter row costs what its codes save


def recurrent_weights(
    index: GraphIndex, ops: Collection[str], *, one_step: bool = True
) -> Iterator[tuple[Any, int]]:
    """Each node of `ops` with the position of an input that is worth coding: W [D, G*H, I] or R.

    Without `one_step`, not those whose sequence is one step long: a caller hands their state on from call to
    call, and what the codes are off adds up without an end.
    """
    for node in index.model.graph.node:
        if node.op_type not in ops or node.op_type not in RECURRENT_OPS:
            continue
        time = 1 if attribute(node, "layout", 0) else 0
        if not one_step and index.shapes.get(node.input[0], (0, 0))[time] == 1:
            continue
        for position in _WEIGHTS:
            name = node.input[position]
            if index.is_float_constant(name) and index.constants[name].shape[2] >= _SHORTEST_ROW:
                yield node, position
