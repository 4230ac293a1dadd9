"""Gathering and scattering by index, and what compares indices: TopK, OneHot, Trilu.

Indices are made linear: one number for an element, or for a row, of the flattened data. Negative ones wrap
around as ONNX says. LiteRT's SCATTER_ND adds into zeros, so a mask of what was written selects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor, size_of
from edgekit.backends.tflite.lowering.compose import (
    add,
    concat,
    cut,
    maximum,
    minimum,
    mul,
    select,
    sub,
    view,
)
from edgekit.backends.tflite.lowering.elementwise import convert
from edgekit.backends.tflite.lowering.functions import compare
from edgekit.backends.tflite.lowering.moving import first_quantized
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering
from edgekit.core.packages import require

__all__ = ["OPERATORS", "rows_of"]

_SEGMENTS = {"mul": "UNSORTED_SEGMENT_PROD", "max": "UNSORTED_SEGMENT_MAX", "min": "UNSORTED_SEGMENT_MIN"}


def _strides(shape: Sequence[int]) -> Array:
    """Elements from one index to the next, for each dimension."""
    return np.asarray([size_of(shape[axis + 1 :]) for axis in range(len(shape))], np.int64)


def _wrapped(op: Op, index: int, dims: Array) -> Tensor:
    """Input `index` as int32 in [0, dims); `dims` broadcasts to it."""
    values = op.constant(index)
    if values is not None:
        if values.size and (np.any(values < -dims) or np.any(values >= dims)):
            raise Refusal(f"{op.node.op_type} with an index out of range", "correct the model")
        return op.const(np.where(values < 0, values + dims, values).astype(np.int32))
    x = op.builder.value(op.node.inputs[index])
    sizes = dims.reshape((1,) * (len(x.shape) - dims.ndim) + dims.shape).astype(x.dtype)
    return convert(op, op.emit("FLOOR_MOD", [x, op.const(sizes)], x.shape, dtype=x.dtype), "int32")


def rows_of(op: Op, x: Tensor, index: Tensor) -> Tensor:
    """x[index] along the first axis."""
    return op.move("GATHER", x, (*index.shape, *x.shape[1:]), index, axis=0, batch_dims=0)


def _element_index(op: Op, index: int, axis: int, shape: Sequence[int]) -> Tensor:
    """Where GatherElements and ScatterElements look: one linear index for each element of input `index`."""
    strides, own = _strides(shape), op.shape(index)
    places = np.indices(own)
    fixed = sum(places[d] * strides[d] for d in range(len(own)) if d != axis) + np.zeros(own, np.int64)
    along = _wrapped(op, index, np.asarray(shape[axis]))
    scaled = mul(op, along, op.const(np.asarray(strides[axis], np.int32)))
    return add(op, scaled, op.const(fixed.astype(np.int32)))


def _row_index(op: Op, index: int, dims: Sequence[int]) -> Tensor:
    """Linear indices of the tuples along the last axis of input `index`, without that axis."""
    parts = _wrapped(op, index, np.asarray(dims, np.int64))
    strides = _strides(dims).astype(np.int32)
    if parts.data is not None:
        return op.const((parts.data * strides).sum(-1).astype(np.int32))
    scaled = mul(op, parts, op.const(strides.reshape((1,) * (len(parts.shape) - 1) + (-1,))))
    axes = op.indices([len(parts.shape) - 1])
    return op.emit("SUM", [scaled, axes], parts.shape[:-1], dtype="int32", keep_dims=False)


def gather_elements(op: Op) -> None:
    x = op.input()
    axis = op.attr("axis", 0) % len(x.shape)
    where = _element_index(op, 1, axis, x.shape)
    op.result(rows_of(op, view(op, x, (x.size,)), where))


def gather_nd(op: Op) -> None:
    x, index, batch = op.input(), op.shape(1), op.attr("batch_dims", 0)
    dims = x.shape[batch : batch + index[-1]]
    rest = x.shape[batch + index[-1] :]
    where = _row_index(op, 1, dims)
    if batch:
        first = np.arange(size_of(x.shape[:batch])) * size_of(dims)
        first = first.reshape(*x.shape[:batch], *(1,) * (len(where.shape) - batch))
        where = add(op, where, op.const(first.astype(np.int32)))
    rows = view(op, x, (size_of(x.shape[:batch]) * size_of(dims), *rest))
    op.result(op.reshape(rows_of(op, rows, where), op.out_shape()))


def scatter_elements(op: Op) -> None:
    data, updates = op.input(0), op.input(2)
    axis = op.attr("axis", 0) % len(data.shape)
    where = _element_index(op, 1, axis, data.shape)
    y = _scatter(op, view(op, data, (data.size, 1)), where, view(op, updates, (updates.size, 1)))
    op.result(op.reshape(y, data.shape))


def scatter_nd(op: Op) -> None:
    data, updates, depth = op.input(0), op.input(2), op.shape(1)[-1]
    where = _row_index(op, 1, data.shape[:depth])
    rows, width = size_of(data.shape[:depth]), size_of(data.shape[depth:])
    y = _scatter(op, view(op, data, (rows, width)), where, view(op, updates, (where.size, width)))
    op.result(op.reshape(y, data.shape))


def _scatter(op: Op, data: Tensor, where: Tensor, updates: Tensor) -> Tensor:
    """Rows of `data` replaced by, or combined with, the rows of `updates` at the indices `where`."""
    reduction = op.attr("reduction", "none")
    if reduction == "none" and where.data is not None:
        source = np.arange(data.shape[0], dtype=np.int32)
        source[where.data.ravel()] = np.arange(data.shape[0], data.shape[0] + where.size)
        return rows_of(op, concat(op, [data, updates], 0), op.const(source))
    if data.dtype == "bool":
        raise Refusal(f"{op.node.op_type} of bool with computed indices", "cast to int32")
    column = view(op, where, (where.size, 1))
    if reduction == "add":
        return add(op, data, _added(op, column, updates, data.shape))
    ones = op.const(np.ones((where.size, 1), np.int32))
    written = _added(op, column, ones, (data.shape[0], 1))
    touched = compare(op, "GREATER", written, op.const(np.zeros((), np.int32)))
    if reduction == "none":
        return select(op, touched, _added(op, column, updates, data.shape), data)
    if data.dtype == "int64":
        raise Refusal(f"{op.node.op_type} of int64 with reduction {reduction!r}", "cast to int32")
    count = op.const(np.asarray(data.shape[0], np.int32))
    line = view(op, where, (where.size,))
    segments = op.emit(_SEGMENTS[reduction], [updates, line, count], data.shape, dtype=data.dtype)
    combine = {"mul": mul, "max": maximum, "min": minimum}[reduction]
    return select(op, touched, combine(op, data, segments), data)


def _added(op: Op, where: Tensor, updates: Tensor, shape: Sequence[int]) -> Tensor:
    return op.emit("SCATTER_ND", [where, updates, op.indices(shape)], shape, dtype=updates.dtype)


def top_k(op: Op) -> None:
    """TOPK_V2 along the last axis; the smallest are the largest of the order turned round."""
    x = op.input()
    rank, smallest = len(x.shape), not op.attr("largest", 1)
    axis = op.attr("axis", -1) % rank
    k = op.out_shape(0 if op.step.outputs[0] else 1)[axis]
    perm = (*(i for i in range(rank) if i != axis), axis)
    last = _turned(op, op.transpose(x, perm), turn=smallest)
    shape = (*last.shape[:-1], k)
    values, indices = (Tensor(name=op.name, shape=shape, dtype=dtype) for dtype in (x.dtype, "int32"))
    count = op.const(np.asarray(k, np.int32))
    op.builder.operator("TOPK_V2", [last, count], [values, indices], origin=op.node.name)
    back = tuple(int(i) for i in np.argsort(perm))
    if op.step.outputs[0]:
        op.result(op.transpose(_turned(op, values, turn=smallest), back), 0)
    if len(op.step.outputs) > 1 and op.step.outputs[1]:
        op.result(op.transpose(convert(op, indices, "int64"), back), 1)


def _turned(op: Op, x: Tensor, *, turn: bool) -> Tensor:
    """In the opposite order: -x, and -1 - x for whole numbers, of which the least has no negative."""
    if not turn:
        return x
    return sub(op, op.const(np.asarray(0 if x.dtype == "float32" else -1, x.dtype)), x)


def one_hot(op: Op) -> None:
    x = convert(op, op.input(), "int32")
    rank = len(op.out_shape())
    axis = op.attr("axis", -1) % rank
    depth = op.out_shape()[axis]
    x = op.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]))
    negative = compare(op, "LESS", x, op.const(np.asarray(0, np.int32)))
    x = select(op, negative, add(op, x, op.const(np.asarray(depth, np.int32))), x)
    places = np.arange(depth, dtype=np.int32).reshape([-1 if d == axis else 1 for d in range(rank)])
    chosen = compare(op, "EQUAL", x, op.const(places))
    values = op.builder.value(op.node.inputs[2])
    off, on = (view(op, cut(op, values, 0, place, 1), ()) for place in (0, 1))
    op.result(select(op, chosen, on, off))


def trilu(op: Op) -> None:
    x = op.input()
    rows, columns = x.shape[-2:]
    diagonal = np.arange(columns, dtype=np.int32)[None, :] - np.arange(rows, dtype=np.int32)[:, None]
    if not op.has(1) or op.known(1):
        (k,) = op.ints(1, (0,))
        mask = op.const(diagonal >= k if op.attr("upper", 1) else diagonal <= k)
    else:
        moved = convert(op, op.reshape(op.builder.value(op.node.inputs[1]), (1, 1)), "int32")
        kept = "GREATER_EQUAL" if op.attr("upper", 1) else "LESS_EQUAL"
        mask = compare(op, kept, op.const(diagonal), moved)
    op.result(select(op, op.expand(mask, len(x.shape)), x, op.const(np.zeros((), x.dtype))))


def eye_like(op: Op) -> None:
    rows, columns = op.shape()
    op.result(op.const(np.eye(rows, columns, op.attr("k", 0), op.out_dtype())))


def constant_of_shape(op: Op) -> None:
    """The shape may be computed: it is that of the result."""
    value = op.node.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else require("onnx").numpy_helper.to_array(value)
    op.result(op.const(np.full(op.out_shape(), fill.item(), op.out_dtype())))


def reverse_sequence(op: Op) -> None:
    x = op.input()
    options = {"seq_dim": op.attr("time_axis", 0), "batch_dim": op.attr("batch_axis", 1)}
    op.result(op.move("REVERSE_SEQUENCE", x, x.shape, op.builder.value(op.node.inputs[1]), **options))


_ANY = ("float32", "int32", "int64", "bool")
_NUMBERS = ("float32", "int32", "int64")

OPERATORS = {
    "GatherElements": Lowering(emit=gather_elements, integer=first_quantized, moves=True, dtypes=_ANY),
    "GatherND": Lowering(emit=gather_nd, integer=first_quantized, moves=True, dtypes=_ANY),
    "Scatter": Lowering(emit=scatter_elements, dtypes=_ANY),
    "ScatterElements": Lowering(emit=scatter_elements, dtypes=_ANY),
    "ScatterND": Lowering(emit=scatter_nd, dtypes=_ANY),
    "TopK": Lowering(emit=top_k, dtypes=_NUMBERS),
    "OneHot": Lowering(emit=one_hot, dtypes=_NUMBERS),
    "Trilu": Lowering(emit=trilu, dtypes=_ANY),
    "ConstantOfShape": Lowering(emit=constant_of_shape, dtypes=_NUMBERS),
    "EyeLike": Lowering(emit=eye_like, dtypes=_ANY),
    "ReverseSequence": Lowering(emit=reverse_sequence, dtypes=("float32", "int32", "int64")),
}
