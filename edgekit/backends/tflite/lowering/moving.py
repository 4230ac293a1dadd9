"""Operators that move values without computing: reshapes, transposes, concatenation, padding, blocks."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor
from edgekit.backends.tflite.lowering.compose import concat, cut
from edgekit.backends.tflite.lowering.elementwise import operands
from edgekit.backends.tflite.lowering.rules import quantized, same_scales
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS", "first_quantized", "picked"]

_MIRROR_RANK = 5
_RUNS = 5  # operands of one CONCATENATION in XNNPACK


def first_quantized(site: Site) -> bool:
    """The data operand is an activation; the others are parameters."""
    return quantized(site, 0)


def reshape(op: Op) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: shapes are static, so all are one RESHAPE."""
    op.result(op.reshape(op.input(), op.out_shape()))


def identity(op: Op) -> None:
    """Identity, and Dropout in inference mode, whose mask is all true."""
    if op.node.op_type == "Dropout" and op.has(2):
        training = op.constant(2)
        if training is None or bool(training.item()):
            raise Refusal("Dropout in training mode", "export the model in inference mode")
    op.result(op.input())
    if len(op.step.outputs) > 1 and op.step.outputs[1]:
        op.builder.values[op.step.outputs[1]] = op.const(np.ones(op.out_shape(1), bool))


def transpose(op: Op) -> None:
    x = op.input()
    op.result(op.transpose(x, op.attr("perm", tuple(reversed(range(len(x.shape)))))))


def concatenate(op: Op) -> None:
    parts = [op.input(index) for index in range(len(op.node.inputs))]
    parts = [part for part in parts if part.size] or parts[:1]
    axis = op.attr("axis", 0) % len(op.out_shape())
    if len(parts) == 1:
        op.result(parts[0])
        return
    dtype = "" if op.integer else parts[0].dtype
    y = op.emit(
        "CONCATENATION", parts, op.out_shape(), dtype=dtype, axis=axis, fused_activation_function="NONE"
    )
    op.result(y)


def _pad_rows(op: Op) -> Array:
    """ONNX's pads as rows (before, after), one for each dimension."""
    rank = len(op.shape())
    pads = op.ints(1) if op.has(1) else op.attr("pads", ())
    axes = [axis % rank for axis in op.ints(3, range(rank))]
    rows = np.zeros((rank, 2), np.int32)
    for position, axis in enumerate(axes):
        rows[axis] = pads[position], pads[position + len(axes)]
    return rows


def pad(op: Op) -> None:
    """Negative pads cut first."""
    x, rows, mode = op.input(), _pad_rows(op), op.attr("mode", "constant")
    if rows.min(initial=0) < 0:
        begin = np.maximum(-rows[:, 0], 0)
        size = [int(n) for n in np.asarray(x.shape) - begin - np.maximum(-rows[:, 1], 0)]
        if min(size) < 1:
            raise Refusal("Pad that cuts everything off", "LiteRT has no empty tensors")
        x = op.move("SLICE", x, size, op.indices([int(n) for n in begin]), op.indices(size))
        rows = np.maximum(rows, 0)
    if mode == "reflect" and len(x.shape) <= _MIRROR_RANK and np.all(rows.max(axis=1) < np.asarray(x.shape)):
        op.result(op.move("MIRROR_PAD", x, op.out_shape(), op.const(rows), mode="REFLECT"))
        return
    if mode != "constant":
        for axis, (before, after) in enumerate(rows):
            x = picked(op, x, axis, _sources(x.shape[axis], int(before), int(after), mode))
        op.result(x)
        return
    value = op.constant(2)
    if not op.has(2) or (value is not None and value.item() == 0):
        op.result(op.move("PAD", x, op.out_shape(), op.const(rows)))
        return
    fill = (
        op.builder.value(op.node.inputs[2]) if value is None else op.const(np.asarray(value.item(), x.dtype))
    )
    op.result(
        op.move("PADV2", x, op.out_shape(), op.const(rows), op.reshape(fill, ()) if fill.shape else fill)
    )


def _sources(size: int, before: int, after: int, mode: str) -> Array:
    """Which element of the dimension each place of the padded one shows."""
    places = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)  # reflect: 0 1 2 1 0 1 2 …
    places = places % period
    return np.minimum(places, period - places)


def picked(op: Op, x: Tensor, axis: int, sources: Array) -> Tensor:
    """x[sources] along an axis: few runs of neighbours are slices that XNNPACK joins, else it is a GATHER."""
    if np.array_equal(sources, np.arange(x.shape[axis])):
        return x
    runs = np.split(sources, np.flatnonzero(np.diff(sources) != 1) + 1)
    if len(runs) <= _RUNS:
        parts = [cut(op, x, axis, int(run[0]), len(run)) for run in runs]
        return concat(op, parts, axis)
    shape = (*x.shape[:axis], len(sources), *x.shape[axis + 1 :])
    indices = op.const(sources.astype(np.int32))
    return op.move("GATHER", x, shape, indices, axis=axis, batch_dims=0)


def center_crop_pad(op: Op) -> None:
    """Each dimension cut or padded with zeros to its size, the odd element behind."""
    x, rank = op.input(), len(op.shape())
    for axis in (axis % rank for axis in op.attr("axes", tuple(range(rank)))):
        x = _centred(op, x, axis, op.out_shape()[axis])
    op.result(x)


def _centred(op: Op, x: Tensor, axis: int, size: int) -> Tensor:
    missing = size - x.shape[axis]
    if missing <= 0:
        return cut(op, x, axis, -missing // 2, size)
    rows = np.zeros((len(x.shape), 2), np.int32)
    rows[axis] = missing // 2, missing - missing // 2
    return op.move("PAD", x, (*x.shape[:axis], size, *x.shape[axis + 1 :]), op.const(rows))


def _pad_rule(site: Site) -> bool:
    """Zeros (the zero point) and reflections keep the codes as they are."""
    if not quantized(site, 0):
        return False
    if site.node.attributes.get("mode", "constant") != "constant":
        return True
    value = site.constant(2)
    quant = site.inputs[2] if len(site.inputs) > 2 else None
    return value is None or bool(np.all(value == 0) if quant is None else np.all(value == quant.zero_point))


def depth_to_space(op: Op) -> None:
    """ONNX's CRD order is LiteRT's after the channels are reordered; DCR is LiteRT's own."""
    x, block = op.input(), op.attr("blocksize", 1)
    n, c, h, w = x.shape
    if op.attr("mode", "DCR") == "CRD":
        parts = op.reshape(x, (n, c // block**2, block, block, h, w))
        x = op.reshape(op.transpose(parts, (0, 1, 4, 2, 5, 3)), op.out_shape())
        op.result(x)
        return
    y = op.transpose(x, (0, 2, 3, 1))
    y = op.move("DEPTH_TO_SPACE", y, (n, h * block, w * block, c // block**2), block_size=block)
    op.result(op.transpose(y, (0, 3, 1, 2)))


def space_to_depth(op: Op) -> None:
    if op.attr("mode", "DCR") != "DCR":
        raise Refusal(f"SpaceToDepth with mode {op.attr('mode', '')!r}", "DCR is lowered")
    x, block = op.input(), op.attr("blocksize", 1)
    n, c, h, w = x.shape
    y = op.transpose(x, (0, 2, 3, 1))
    y = op.move("SPACE_TO_DEPTH", y, (n, h // block, w // block, c * block**2), block_size=block)
    op.result(op.transpose(y, (0, 3, 1, 2)))


def expand(op: Op) -> None:
    (x,), shape = operands(op, 0), op.out_shape()
    if x.shape == shape:
        op.result(x)
    else:
        op.result(op.move("BROADCAST_TO", x, shape, op.indices(shape)))


def tile(op: Op) -> None:
    x, out = op.input(), op.out_shape()
    counts = [n // dim for n, dim in zip(out, x.shape, strict=True)]
    op.result(op.move("TILE", x, op.out_shape(), op.indices(counts)) if max(counts) > 1 else x)


_BLOCKS = ("float32", "int32", "int64", "int8", "uint8")
_ANY = (*_BLOCKS, "bool", "int16")

OPERATORS = {
    "Reshape": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Flatten": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Squeeze": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Unsqueeze": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Identity": Lowering(emit=identity, integer=first_quantized, moves=True, dtypes=_ANY),
    "Dropout": Lowering(emit=identity, integer=first_quantized, moves=True, dtypes=_ANY),
    "Transpose": Lowering(emit=transpose, integer=first_quantized, moves=True, dtypes=_ANY),
    "Concat": Lowering(emit=concatenate, integer=same_scales, moves=True, dtypes=_ANY),
    "Pad": Lowering(emit=pad, integer=_pad_rule, moves=True, dtypes=_ANY),
    "CenterCropPad": Lowering(emit=center_crop_pad, integer=first_quantized, moves=True, dtypes=_ANY),
    "DepthToSpace": Lowering(emit=depth_to_space, integer=first_quantized, moves=True, dtypes=_BLOCKS),
    "SpaceToDepth": Lowering(emit=space_to_depth, integer=first_quantized, moves=True, dtypes=_BLOCKS),
    "Tile": Lowering(emit=tile, integer=first_quantized, moves=True, dtypes=_ANY),
    "Expand": Lowering(emit=expand, integer=first_quantized, moves=True, dtypes=_ANY),
}
