"""Look-ups: nn.Embedding, gather, scatter, order."""

from __future__ import annotations

import operator
from typing import Any

from edgekit.core.packages import require
from edgekit.train.layers import filled
from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "gather_elements", "index_axis", "look_up"]


def index_axis(x: Any, indices: Any, axis: int) -> Any:
    """Slices of x along an axis at integer indices of any shape; negative ones count from the end."""
    size = x.shape[axis]
    flat = indices.reshape(-1)
    chosen = x.index_select(axis, flat.where(flat >= 0, flat + size).long())
    return chosen.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def look_up(indices: Any, rows: int) -> Any:
    """Indices of a table, negative ones counted from its end, as int64."""
    return indices.where(indices >= 0, indices + rows).long()


def gather(op: Op) -> Any:
    table, chosen = op.constant(0), op.constant(1)
    axis = op.attribute("axis", 0) % len(op.shape(0))
    if table is not None and table.ndim == 2 and axis == 0 and table.dtype.kind == "f" and chosen is None:
        module = require("torch").nn.Embedding(*table.shape)
        rows = op.call(look_up, op.tensor(1), table.shape[0])
        return filled(op, module, rows, kind="embedding")
    if chosen is not None and chosen.ndim == 0:
        return op.call("select", op.tensor(0), axis, int(chosen))
    return op.call(index_axis, op.tensor(0), op.tensor(1), axis)


def gather_elements(x: Any, indices: Any, axis: int) -> Any:
    """Elements of x along an axis, as the operator GatherElements."""
    return x.gather(axis, look_up(indices, x.shape[axis]))


def emit_gather_elements(op: Op) -> Any:
    axis = op.attribute("axis", 0) % len(op.shape(0))
    return op.call(gather_elements, op.tensor(0), op.tensor(1), axis)


def top_k(op: Op) -> Any:
    k = op.integers(1)[0]
    axis = op.attribute("axis", -1)
    found = op.call(
        "topk", op.tensor(0), k, axis, bool(op.attribute("largest", 1)), bool(op.attribute("sorted", 1))
    )
    return [op.call(operator.getitem, found, i) for i in (0, 1)]


def trilu(op: Op) -> Any:
    k = op.integers(1)[0] if op.has(1) else 0
    return op.call("triu" if op.attribute("upper", 1) else "tril", op.tensor(0), k)


OPERATORS: dict[str, Emitter] = {
    "Gather": gather,
    "GatherElements": emit_gather_elements,
    "TopK": top_k,
    "Trilu": trilu,
}
