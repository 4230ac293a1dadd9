"""Slice, Split and Gather."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.moving import first_quantized
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]


def cut(op: Op, x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """x[begin : begin + size] in every dimension."""
    if tuple(size) == x.shape:
        return x
    return op.move("SLICE", x, size, op.indices(begin), op.indices(size))


def slice_(op: Op) -> None:
    x, rank = op.input(), len(op.shape())
    starts, ends = op.ints(1), op.ints(2)
    axes = [axis % rank for axis in op.ints(3, range(len(starts)))]
    steps = op.ints(4, (1,) * len(starts))
    ranges = [range(dim) for dim in x.shape]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        ranges[axis] = range(x.shape[axis])[slice(start, _end(end, x.shape[axis], step), step)]
    begin = [r.start for r in ranges]
    if all(r.step == 1 for r in ranges):
        op.result(cut(op, x, begin, op.out_shape()))
        return
    end_mask = sum(1 << axis for axis, r in enumerate(ranges) if r.stop < 0)
    stops = [max(r.stop, 0) for r in ranges]
    strides = [r.step for r in ranges]
    parameters = [op.indices(values) for values in (begin, stops, strides)]
    masks = {
        "begin_mask": 0,
        "end_mask": end_mask,
        "ellipsis_mask": 0,
        "new_axis_mask": 0,
        "shrink_axis_mask": 0,
    }
    op.result(op.move("STRIDED_SLICE", x, op.out_shape(), *parameters, **masks))


def _end(end: int, dim: int, step: int) -> int | None:
    """ONNX ends before -dim mean "past the first element" when walking backwards."""
    return None if step < 0 and end < -dim else end


def split(op: Op) -> None:
    x = op.input()
    axis = op.attr("axis", 0) % len(x.shape)
    begin = [0] * len(x.shape)
    for index, name in enumerate(op.step.outputs):
        shape = op.out_shape(index) if name else ()
        if name:
            op.result(cut(op, x, begin, shape), index)
            begin[axis] += shape[axis]


def gather(op: Op) -> None:
    """GATHER; a constant single index is a SLICE, which XNNPACK takes and transposes pass."""
    x = op.input()
    axis = op.attr("axis", 0) % len(x.shape)
    indices = op.constant(1)
    dim = x.shape[axis]
    if indices is None:
        where = op.builder.value(op.node.inputs[1])
        wrap = op.const(np.full((1,) * len(where.shape), dim, where.dtype))
        where = op.emit("FLOOR_MOD", [where, wrap], where.shape, dtype=where.dtype)  # -1 is the last one
        op.result(op.move("GATHER", x, op.out_shape(), where, axis=axis, batch_dims=0))
        return
    if indices.size and (indices.min() < -dim or indices.max() >= dim):
        raise Refusal(f"Gather index outside [-{dim}, {dim - 1}]", "correct the model")
    indices = np.where(indices < 0, indices + dim, indices).astype(np.int32)
    if indices.size == 1:
        begin = [0] * len(x.shape)
        begin[axis] = int(indices.item())
        size = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        op.result(op.reshape(cut(op, x, begin, size), op.out_shape()))
        return
    op.result(op.move("GATHER", x, op.out_shape(), op.const(indices), axis=axis, batch_dims=0))


_ANY = ("float32", "int32", "int64", "bool", "int8", "uint8", "int16")

OPERATORS = {
    "Slice": Lowering(emit=slice_, integer=first_quantized, moves=True, dtypes=_ANY),
    "Split": Lowering(emit=split, integer=first_quantized, moves=True, dtypes=_ANY),
    "Gather": Lowering(emit=gather, integer=first_quantized, moves=True, dtypes=_ANY),
}
