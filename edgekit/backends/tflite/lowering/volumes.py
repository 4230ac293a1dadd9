"""Windows in any number of dimensions and with dilations: each axis on its own, as slices that are combined.

The largest of a window is the largest of the largest along each axis, and so is its sum; exact, and in codes
where only the largest is picked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor, size_of
from edgekit.backends.tflite.lowering.compose import add, apply, maximum, mul, select
from edgekit.backends.tflite.lowering.elementwise import convert
from edgekit.backends.tflite.lowering.functions import compare
from edgekit.backends.tflite.op import Op

__all__ = ["global_lp_pool", "lp_pool", "pool_average", "pool_largest", "pool_with_indices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """The windows along one axis: `before` and `after` are ONNX's pads, what ceil_mode adds not included."""

    axis: int
    size: int
    out: int
    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def taps(self) -> range:
        """The first element of each tap, counted from the first padded one."""
        return range(0, self.kernel * self.dilation, self.dilation)

    def counts(self, *, padding: bool) -> Array:
        """How many elements each window holds, with or without those of the padding."""
        low, high = (-self.before, self.size + self.after) if padding else (0, self.size)
        first = np.arange(self.out) * self.stride - self.before
        places = first[:, None] + np.asarray(self.taps)[None]
        return np.asarray(((places >= low) & (places < high)).sum(1))


def _rows(op: Op) -> list[_Row]:
    shape, out = op.shape(), op.out_shape()
    spatial = len(shape) - 2
    kernel = op.attr("kernel_shape", (1,) * spatial)
    strides, dilations = op.attr("strides", (1,) * spatial), op.attr("dilations", (1,) * spatial)
    pads, auto = op.attr("pads", (0,) * (2 * spatial)), op.attr("auto_pad", "NOTSET")
    rows = []
    for i in range(spatial):
        extent = (kernel[i] - 1) * dilations[i] + 1
        before, after = pads[i], pads[i + spatial]
        if auto != "NOTSET":
            total = max((out[i + 2] - 1) * strides[i] + extent - shape[i + 2], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
            after = total - before
        row = _Row(
            axis=i + 2,
            size=shape[i + 2],
            out=out[i + 2],
            kernel=kernel[i],
            stride=strides[i],
            dilation=dilations[i],
            before=before,
            after=after,
        )
        rows.append(row)
    return rows


def _combined(
    op: Op, x: Tensor, rows: Sequence[_Row], fill: float, combine: Callable[[Op, Tensor, Tensor], Tensor]
) -> Tensor:
    """Every window reduced by `combine`; what lies outside the input is `fill`."""
    x = _filled(op, x, rows, fill)
    for row in rows:
        parts = [_every(op, x, row, tap) for tap in row.taps]
        total = parts[0]
        for part in parts[1:]:
            total = combine(op, total, part)
        x = total
    return x


def _filled(op: Op, x: Tensor, rows: Sequence[_Row], fill: float) -> Tensor:
    pads = np.zeros((len(x.shape), 2), np.int32)
    for row in rows:
        need = (row.out - 1) * row.stride + row.taps[-1] + 1
        pads[row.axis] = row.before, max(need - row.size - row.before, 0)
    if not pads.any():
        return x
    shape = [dim + int(pair.sum()) for dim, pair in zip(x.shape, pads, strict=True)]
    value = op.const(np.asarray(fill, x.dtype), x.quant)
    return op.move("PADV2", x, shape, op.const(pads), value)


def _every(op: Op, x: Tensor, row: _Row, first: int) -> Tensor:
    """x[first :: stride] along the axis of the row, as many as there are windows."""
    shape = (*x.shape[: row.axis], row.out, *x.shape[row.axis + 1 :])
    if shape == x.shape:
        return x
    begin = [first if axis == row.axis else 0 for axis in range(len(shape))]
    if row.stride == 1:
        return op.move("SLICE", x, shape, op.indices(begin), op.indices(shape))
    steps = [row.stride if axis == row.axis else 1 for axis in range(len(shape))]
    ends = [b + (n - 1) * s + 1 for b, n, s in zip(begin, shape, steps, strict=True)]
    masks = ("begin_mask", "end_mask", "ellipsis_mask", "new_axis_mask", "shrink_axis_mask")
    parameters = [op.indices(values) for values in (begin, ends, steps)]
    return op.move("STRIDED_SLICE", x, shape, *parameters, **dict.fromkeys(masks, 0))


def pool_largest(op: Op) -> None:
    """MaxPool."""
    x = op.input()
    lowest = -np.inf if x.dtype == "float32" else float(np.iinfo(x.dtype).min)
    op.result(_combined(op, x, _rows(op), lowest, maximum))


def pool_with_indices(op: Op) -> None:
    """MaxPool and where in the whole input each largest lies: the first of equals.

    The taps of a window are compared in order, so what is kept beside the largest is the place of its tap.
    """
    x, rows = op.input(), _rows(op)
    strides = _place_strides(op)
    padded = _filled(op, x, rows, -np.inf)
    best, where = None, op.const(np.zeros((), np.int32))
    for taps in product(*(row.taps for row in rows)):
        part = padded
        for row, tap in zip(rows, taps, strict=True):
            part = _every(op, part, row, tap)
        offset = sum(tap * step for tap, step in zip(taps, strides[2:], strict=True))
        if best is None:
            best = part
            continue
        larger = compare(op, "GREATER", part, best)
        where = select(op, larger, op.const(np.asarray(offset, np.int32)), where)
        best = maximum(op, best, part)
    assert best is not None
    op.result(best, 0)
    places = np.indices(op.out_shape())
    first = places[0] * strides[0] + places[1] * strides[1]
    for number, row in enumerate(rows, 2):
        first = first + (places[number] * row.stride - row.before) * strides[number]
    op.result(convert(op, add(op, op.const(first.astype(np.int32)), where), "int64"), 1)


def _place_strides(op: Op) -> list[int]:
    """From one index to the next in the flattened input; storage_order 1 counts columns first."""
    shape = op.shape()
    steps = [size_of(shape[axis + 1 :]) for axis in range(len(shape))]
    if op.attr("storage_order", 0):
        steps[2:] = [size_of(shape[2:axis]) for axis in range(2, len(shape))]
    return steps


def pool_average(op: Op) -> None:
    """AveragePool."""
    rows, x = _rows(op), op.input()
    total = _combined(op, x, rows, 0.0, add)
    counts = np.ones((1,) * len(x.shape))
    for row in rows:
        shape = [-1 if axis == row.axis else 1 for axis in range(len(x.shape))]
        counts = counts * row.counts(padding=bool(op.attr("count_include_pad", 0))).reshape(shape)
    op.result(mul(op, total, op.const((1 / counts).astype(np.float32))))


def lp_pool(op: Op) -> None:
    """The p-norm of every window."""
    x, p = op.input(), op.attr("p", 2)
    powers = _power(op, apply(op, "ABS", x), float(p))
    op.result(_power(op, _combined(op, powers, _rows(op), 0.0, add), 1 / p))


def _power(op: Op, x: Tensor, exponent: float) -> Tensor:
    if exponent == 1:
        return x
    special = {2.0: "SQUARE", 0.5: "SQRT"}.get(exponent)
    if special:
        return apply(op, special, x)
    return op.emit("POW", [x, op.const(np.full((1,) * len(x.shape), exponent, np.float32))], x.shape)


def global_lp_pool(op: Op) -> None:
    """The p-norm of every channel."""
    x, p = op.input(), op.attr("p", 2)
    powers = _power(op, apply(op, "ABS", x), float(p))
    axes = op.indices(range(2, len(x.shape)))
    op.result(_power(op, op.emit("SUM", [powers, axes], op.out_shape(), keep_dims=True), 1 / p))
