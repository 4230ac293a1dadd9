"""Reductions over axes, running sums, and ArgMax."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import add, apply, maximum, mul, select, sub
from edgekit.backends.tflite.lowering.elementwise import convert
from edgekit.backends.tflite.lowering.functions import compare
from edgekit.backends.tflite.lowering.rules import quantized
from edgekit.backends.tflite.op import Op
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS"]


def _axes(op: Op) -> tuple[int, ...]:
    """The axes, from the input (opset 13 or 18 on) or the attribute; empty means all, or none by request.

    Computed ones are those that the shape of the result leaves no choice about.
    """
    rank = len(op.shape())
    if op.has(1) and not op.known(1):
        return _implied(op)
    axes = op.ints(1, ()) or op.attr("axes", ())
    if not axes:
        return () if op.attr("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))


def _implied(op: Op) -> tuple[int, ...]:
    shape, out = op.shape(), op.out_shape()
    if op.attr("noop_with_empty_axes", 0):
        op.ints(1)
    if op.attr("keepdims", 1):
        return tuple(axis for axis, dim in enumerate(out) if dim == 1)
    every = combinations(range(len(shape)), len(shape) - len(out))
    fitting = [axes for axes in every if tuple(d for i, d in enumerate(shape) if i not in axes) == out]
    if len(fitting) != 1:
        op.ints(1)
    return fitting[0]


def reduce(kind: str, boolean: str = "") -> Callable[[Op], None]:
    """A reduction; over no axis it is the identity. `boolean` is the kernel for bool."""

    def emit(op: Op) -> None:
        x, axes = op.input(), _axes(op)
        if not axes:
            op.result(x)
            return
        dtype = "" if op.integer else x.dtype
        keep = bool(op.attr("keepdims", 1))
        used = boolean if x.dtype == "bool" else kind
        op.result(op.emit(used, [x, op.indices(axes)], op.out_shape(), dtype=dtype, keep_dims=keep))

    return emit


def _total(op: Op, x: Tensor) -> Tensor:
    """The sum over the axes, in the shape of the result."""
    axes = _axes(op)
    if not axes:
        return x
    keep = bool(op.attr("keepdims", 1))
    return op.emit("SUM", [x, op.indices(axes)], op.out_shape(), dtype=x.dtype, keep_dims=keep)


def _size(op: Op, x: Tensor) -> Tensor:
    if x.dtype == "float32":
        return apply(op, "ABS", x)
    return maximum(op, x, sub(op, op.const(np.asarray(0, x.dtype)), x))


def reduce_l1(op: Op) -> None:
    op.result(_total(op, _size(op, op.input())))


def reduce_l2(op: Op) -> None:
    x = op.input()
    op.result(apply(op, "SQRT", _total(op, mul(op, x, x))))


def reduce_sum_square(op: Op) -> None:
    x = op.input()
    op.result(_total(op, mul(op, x, x)))


def reduce_log_sum(op: Op) -> None:
    op.result(apply(op, "LOG", _total(op, op.input())))


def reduce_log_sum_exp(op: Op) -> None:
    """log(sum(exp(x - m))) + m with m the largest, or 0 where that is infinite; never below the largest."""
    x, axes = op.input(), _axes(op)
    if not axes:
        op.result(x)
        return
    kept = tuple(1 if axis in axes else dim for axis, dim in enumerate(x.shape))
    largest = op.emit("REDUCE_MAX", [x, op.indices(axes)], kept, keep_dims=True)
    endless = compare(op, "EQUAL", apply(op, "ABS", largest), op.scalar(float("inf")))
    base = select(op, endless, op.scalar(0.0), largest)
    total = _total(op, apply(op, "EXP", sub(op, x, base)))
    value = add(op, apply(op, "LOG", total), op.reshape(base, total.shape))
    op.result(maximum(op, value, op.reshape(largest, total.shape)))


def cumulative_sum(op: Op) -> None:
    x = op.input()
    if op.known(1):
        where = op.const(np.asarray(op.ints(1)[0] % len(x.shape), np.int32))
    else:
        where = op.reshape(convert(op, op.builder.value(op.node.inputs[1]), "int32"), ())
    exclusive, reverse = bool(op.attr("exclusive", 0)), bool(op.attr("reverse", 0))
    op.result(op.emit("CUMSUM", [x, where], x.shape, dtype=x.dtype, exclusive=exclusive, reverse=reverse))


def arg(kind: str) -> Callable[[Op], None]:
    """ARG_MAX and ARG_MIN: the first of equals, as int64; the last one is the first backwards."""

    def emit(op: Op) -> None:
        x = op.input()
        axis = op.attr("axis", 0) % len(x.shape)
        axis_tensor = op.const(np.asarray(axis, np.int32))
        shape = x.shape[:axis] + x.shape[axis + 1 :]
        last = bool(op.attr("select_last_index", 0))
        if last:
            x = op.move("REVERSE_V2", x, x.shape, op.indices([axis]))
        y = op.emit(kind, [x, axis_tensor], shape, dtype="int64", output_type="int64")
        if last:
            y = sub(op, op.const(np.asarray(x.shape[axis] - 1, np.int64)), y)
        op.result(op.reshape(y, op.out_shape()))

    return emit


def _plain(rule: Callable[[Site], bool]) -> Callable[[Site], bool]:
    """The rule, where the axes are given and at least one is reduced (the identity stays in float)."""
    return lambda site: rule(site) and not site.node.attributes.get("noop_with_empty_axes", 0)


def _data_same(site: Site) -> bool:
    return quantized(site, 0)


_NUMBERS = ("float32", "int32", "int64")

_WHOLE = (*_NUMBERS, "bool")

OPERATORS = {
    "ReduceMean": Lowering(emit=reduce("MEAN"), integer=_plain(_data_same)),
    "ReduceSum": Lowering(emit=reduce("SUM"), integer=_plain(_data_same), dtypes=_NUMBERS),
    "ReduceMax": Lowering(
        emit=reduce("REDUCE_MAX", "REDUCE_ANY"), integer=_plain(_data_same), moves=True, dtypes=_WHOLE
    ),
    "ReduceMin": Lowering(emit=reduce("REDUCE_MIN", "REDUCE_ALL"), dtypes=_WHOLE),
    "ReduceProd": Lowering(emit=reduce("REDUCE_PROD"), dtypes=_NUMBERS),
    "ReduceL1": Lowering(emit=reduce_l1, dtypes=_NUMBERS),
    "ReduceL2": Lowering(emit=reduce_l2),
    "ReduceSumSquare": Lowering(emit=reduce_sum_square, dtypes=_NUMBERS),
    "ReduceLogSum": Lowering(emit=reduce_log_sum),
    "ReduceLogSumExp": Lowering(emit=reduce_log_sum_exp),
    "CumSum": Lowering(emit=cumulative_sum, dtypes=_NUMBERS),
    "ArgMax": Lowering(emit=arg("ARG_MAX"), dtypes=("float32", "int32")),
    "ArgMin": Lowering(emit=arg("ARG_MIN"), dtypes=("float32", "int32")),
}
