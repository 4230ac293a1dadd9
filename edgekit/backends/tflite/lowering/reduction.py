"""Reductions over axes, and ArgMax."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.backends.tflite.lowering.rules import quantized
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS"]


def _axes(op: Op) -> tuple[int, ...]:
    """The axes, from the input (opset 13 or 18 on) or the attribute; empty means all, or none by request."""
    rank = len(op.shape())
    axes = op.ints(1, ()) or op.attr("axes", ())
    if not axes:
        return () if op.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))


def reduce(kind: str) -> Callable[[Op], None]:
    """A reduction; over no axis it is the identity."""

    def emit(op: Op) -> None:
        x, axes = op.input(), _axes(op)
        if not axes:
            op.result(x)
            return
        dtype = "" if op.integer else x.dtype
        keep = bool(op.attr("keepdims", 1))
        op.result(op.emit(kind, [x, op.indices(axes)], op.out_shape(), dtype=dtype, keep_dims=keep))

    return emit


def arg(kind: str) -> Callable[[Op], None]:
    """ARG_MAX and ARG_MIN: the first of equals, as int64."""

    def emit(op: Op) -> None:
        if op.attr("select_last_index", 0):
            raise Refusal(f"{op.node.op_type} with select_last_index", "the engine picks the first of equals")
        x = op.input()
        axis = op.attr("axis", 0) % len(x.shape)
        axis_tensor = op.const(np.asarray(axis, np.int32))
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        y = op.emit(kind, [x, axis_tensor], shape, dtype="int64", output_type="int64")
        op.result(op.reshape(y, op.out_shape()))

    return emit


def _plain(rule: Callable[[Site], bool]) -> Callable[[Site], bool]:
    """The rule, where the axes are given and at least one is reduced (the identity stays in float)."""
    return lambda site: rule(site) and not site.node.attributes.get("noop_with_empty_axes", 0)


def _data_same(site: Site) -> bool:
    return quantized(site, 0)


_NUMBERS = ("float32", "int32", "int64")

OPERATORS = {
    "ReduceMean": Lowering(emit=reduce("MEAN"), integer=_plain(_data_same), dtypes=_NUMBERS),
    "ReduceSum": Lowering(emit=reduce("SUM"), integer=_plain(_data_same), dtypes=_NUMBERS),
    "ReduceMax": Lowering(emit=reduce("REDUCE_MAX"), integer=_plain(_data_same), moves=True, dtypes=_NUMBERS),
    "ReduceMin": Lowering(emit=reduce("REDUCE_MIN"), dtypes=_NUMBERS),
    "ReduceProd": Lowering(emit=reduce("REDUCE_PROD"), dtypes=_NUMBERS),
    "ArgMax": Lowering(emit=arg("ARG_MAX"), dtypes=_NUMBERS),
    "ArgMin": Lowering(emit=arg("ARG_MIN"), dtypes=_NUMBERS),
}
