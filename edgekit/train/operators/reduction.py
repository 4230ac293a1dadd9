"""Reductions over axes."""

from __future__ import annotations

from typing import Any

from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "cumulative"]

_PLAIN = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "amax",
    "ReduceMin": "amin",
    "ReduceLogSumExp": "logsumexp",
}


def _axes(op: Op) -> list[int]:
    rank = len(op.shape(0))
    given = op.integers(1) if op.has(1) else list(op.attribute("axes", []))
    if not given and op.attribute("noop_with_empty_axes", 0):
        return []
    return sorted(a % rank for a in given) or list(range(rank))


def reduce(op: Op) -> Any:
    axes, keep, x = _axes(op), bool(op.attribute("keepdims", 1)), op.tensor(0)
    if op.type in ("ReduceL2", "ReduceSumSquare"):
        x = op.call("mul", x, x)
    elif op.type == "ReduceL1":
        x = op.call("abs", x)
    if axes:
        x = op.call(_PLAIN.get(op.type, "sum"), x, axes, keep)
    if op.type == "ReduceL2":
        return op.call("sqrt", x)
    return op.call("log", x) if op.type == "ReduceLogSum" else x


def reduce_prod(op: Op) -> Any:
    x, keep = op.tensor(0), bool(op.attribute("keepdims", 1))
    for axis in reversed(_axes(op)):
        x = op.call("prod", x, axis, keep)
    return x


def arg(op: Op) -> Any:
    if op.attribute("select_last_index", 0):
        raise op.refuse("the last of several equal values is asked for")
    name = op.type.lower()
    return op.call(name, op.tensor(0), op.attribute("axis", 0), bool(op.attribute("keepdims", 1)))


def cumulative(x: Any, axis: int, exclusive: bool, reverse: bool) -> Any:
    """Running sums along an axis, as the operator CumSum."""
    x = x.flip(axis) if reverse else x
    y = x.cumsum(axis)
    y = y - x if exclusive else y
    return y.flip(axis) if reverse else y


def cumsum(op: Op) -> Any:
    axis = op.integers(1)[0] % len(op.shape(0))
    exclusive, reverse = bool(op.attribute("exclusive", 0)), bool(op.attribute("reverse", 0))
    return op.call(cumulative, op.tensor(0), axis, exclusive, reverse)


OPERATORS: dict[str, Emitter] = {
    **dict.fromkeys((*_PLAIN, "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"), reduce),
    "ReduceProd": reduce_prod,
    "ArgMax": arg,
    "ArgMin": arg,
    "CumSum": cumsum,
}
