"""Operators that draw random numbers: no two runs agree, so nothing can be proven about their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.errors import Reason
from edgekit.graph.walk import all_graphs, constants

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

__all__ = ["random_nodes"]

_RANDOM = frozenset({
    "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike",
})  # fmt: skip


def random_nodes(model: ModelProto) -> list[Reason]:
    """One reason for every node whose output is random, Dropout in training mode included."""
    known = constants(model.graph)
    return [
        Reason(
            node=f"{node.name} ({node.op_type})",
            why="its output is random, so no answer of an artifact could be compared with the source's",
            hint="export the model in inference mode, or make the random values an input",
        )
        for graph in all_graphs(model.graph)
        for node in graph.node
        if node.op_type in _RANDOM or _drops(node, known)
    ]


def _drops(node: NodeProto, known: dict[str, NDArray[Any]]) -> bool:
    """Whether it is a Dropout that may drop values: training, with a ratio that is not known to be 0."""
    if node.op_type != "Dropout" or len(node.input) < 3 or not node.input[2]:
        return False
    training = known.get(node.input[2])
    if training is not None and not training.any():
        return False
    ratio = known.get(node.input[1]) if node.input[1] else None
    return ratio is None or bool(ratio.any())
