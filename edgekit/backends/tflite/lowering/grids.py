"""Sampling at computed places: AffineGrid, GridSample, and Col2Im."""

from __future__ import annotations

from itertools import product

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor, size_of
from edgekit.backends.tflite.lowering.compose import add, apply, cut, linear, maximum, minimum, mul, sub, view
from edgekit.backends.tflite.lowering.elementwise import convert
from edgekit.backends.tflite.lowering.functions import compare
from edgekit.backends.tflite.lowering.indexing import rows_of
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]

_EXACT = 1 << 24  # whole numbers up to here are exact in float32


def affine_grid(op: Op) -> None:
    """The matrix times every place of a fixed grid, whose x comes first."""
    theta, (_, *sizes, _) = op.input(), op.out_shape()
    if op.attr("align_corners", 0) and min(sizes) == 1:
        raise Refusal("AffineGrid of aligned corners over one place", "its definition divides by zero there")
    lines = []
    for size in sizes:
        ends = 1.0 if op.attr("align_corners", 0) else 1 - 1 / size
        lines.append(np.linspace(-ends, ends, size))
    places = np.meshgrid(*lines, indexing="ij")[::-1]
    base = np.stack([*places, np.ones_like(places[0])], -1).reshape(-1, len(sizes) + 1)
    y = op.transpose(linear(op, theta, op.const(base.astype(np.float32))), (0, 2, 1))
    op.result(op.reshape(y, op.out_shape()))


def grid_sample(op: Op) -> None:
    """The weighted sum over the corners around every place; their rows are gathered by linear index."""
    mode = op.attr("mode", "linear")
    if mode not in ("linear", "bilinear", "nearest"):
        raise Refusal(f"GridSample with mode {mode!r}", "linear and nearest are lowered")
    x, grid = op.input(0), op.input(1)
    batch, channels, *sizes = x.shape
    if batch * size_of(sizes) >= _EXACT:
        raise Refusal("GridSample of more than 2^24 places", "sample a smaller picture")
    count = len(sizes)
    places = []
    for number, size in enumerate(sizes):
        part = cut(op, grid, -1, count - 1 - number, 1)
        places.append(_place(op, op.reshape(part, part.shape[:-1]), size))
    last = op.transpose(x, (0, *range(2, 2 + count), 1))
    rows = op.reshape(last, (batch * size_of(sizes), channels))
    total: Tensor | None = None
    lower = [apply(op, "ROUND" if mode == "nearest" else "FLOOR", place) for place in places]
    for corner in product((0, 1), repeat=count) if mode != "nearest" else [(0,) * count]:
        indices, weight = [], None
        for place, base, size, far in zip(places, lower, sizes, corner, strict=True):
            share = None
            if mode != "nearest":
                upper = sub(op, place, base)
                share = upper if far else sub(op, op.scalar(1.0), upper)
            index = add(op, base, op.scalar(1.0)) if far else base
            inside, index = _inside(op, index, size)
            indices.append(index)
            for factor in (share, inside):
                weight = factor if weight is None else weight if factor is None else mul(op, weight, factor)
        found = rows_of(op, rows, _linear(op, indices, sizes, batch))
        if weight is not None:
            found = mul(op, found, view(op, weight, (*weight.shape, 1)))
        total = found if total is None else add(op, total, found)
    assert total is not None
    op.result(op.transpose(total, (0, count + 1, *range(1, count + 1))))


def _place(op: Op, g: Tensor, size: int) -> Tensor:
    """From [-1, 1] to elements, and back into the picture where the padding is its border or reflection."""
    align, padding = bool(op.attr("align_corners", 0)), op.attr("padding_mode", "zeros")
    slope, offset = ((size - 1) / 2, (size - 1) / 2) if align else (size / 2, (size - 1) / 2)
    place = add(op, mul(op, g, op.scalar(slope)), op.scalar(offset))
    if padding == "reflection":
        low, span = (0.0, float(size - 1)) if align else (-0.5, float(size))
        place = apply(op, "ABS", sub(op, place, op.scalar(low)))
        period = op.const(np.full((1,) * len(place.shape), max(2 * span, 1.0), np.float32))
        place = op.emit("FLOOR_MOD", [place, period], place.shape)
        place = add(op, minimum(op, place, sub(op, op.scalar(2 * span), place)), op.scalar(low))
    return place if padding == "zeros" else _clamped(op, place, size)


def _clamped(op: Op, x: Tensor, size: int) -> Tensor:
    return minimum(op, maximum(op, x, op.scalar(0.0)), op.scalar(size - 1))


def _inside(op: Op, index: Tensor, size: int) -> tuple[Tensor | None, Tensor]:
    """1 where the index lies in the picture (None: everywhere that counts), and the index moved into it."""
    moved = _clamped(op, index, size)
    if op.attr("padding_mode", "zeros") != "zeros":
        return None, moved
    return convert(op, compare(op, "EQUAL", index, moved), "float32"), moved


def _linear(op: Op, indices: list[Tensor], sizes: list[int], batch: int) -> Tensor:
    """The row of every sample in the flattened pictures."""
    shape = indices[0].shape
    first = np.arange(batch, dtype=np.float32).reshape(-1, *(1,) * (len(shape) - 1)) * size_of(sizes)
    total = op.const(first)
    for axis, index in enumerate(indices):
        total = add(op, mul(op, index, op.scalar(size_of(sizes[axis + 1 :]))), total)
    return convert(op, total, "int32")


def col2im(op: Op) -> None:
    """Every block is added to the picture at its place: SCATTER_ND adds where places repeat."""
    x, image, block = op.input(), op.ints(1), op.ints(2)
    count = len(image)
    pads, ones = op.attr("pads", (0,) * (2 * count)), (1,) * count
    padded = [size + pads[i] + pads[i + count] for i, size in enumerate(image)]
    where = _block_places(padded, block, op.attr("strides", ones), op.attr("dilations", ones))
    n, channels = x.shape[0], x.shape[1] // size_of(block)
    parts = op.transpose(op.reshape(x, (n, channels, *where.shape)), (2, 3, 0, 1))
    updates = op.reshape(parts, (where.size, n * channels))
    index = op.const(where.reshape(-1, 1).astype(np.int32))
    shape = (size_of(padded), n * channels)
    y = op.emit("SCATTER_ND", [index, updates, op.indices(shape)], shape)
    y = op.reshape(y, (*padded, n * channels))
    if tuple(padded) != image:
        size = (*image, n * channels)
        y = op.move("SLICE", y, size, op.indices((*pads[:count], 0)), op.indices(size))
    y = op.transpose(y, (count, *range(count)))
    op.result(op.reshape(y, op.out_shape()))


def _block_places(
    padded: list[int], block: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
) -> Array:
    """(elements of a block, blocks): linear places in the padded picture."""
    total = np.zeros((1, 1), np.int64)
    for size, k, stride, dilation in zip(padded, block, strides, dilations, strict=True):
        blocks = (size - (k - 1) * dilation - 1) // stride + 1
        along = np.arange(k)[:, None] * dilation + np.arange(blocks)[None] * stride
        total = total[:, None, :, None] * size + along[None, :, None, :]
        total = total.reshape(total.shape[0] * k, -1)
    return total


OPERATORS = {
    "AffineGrid": Lowering(emit=affine_grid),
    "GridSample": Lowering(emit=grid_sample),
    "Col2Im": Lowering(emit=col2im),
}
