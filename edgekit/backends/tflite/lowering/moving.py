"""Operators that move values without computing: reshapes, transposes, concatenation, padding, blocks."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Array
from edgekit.backends.tflite.lowering.elementwise import operands
from edgekit.backends.tflite.lowering.rules import quantized, same_scales
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS", "first_quantized"]


def first_quantized(site: Site) -> bool:
    """The data operand is an activation; the others are parameters."""
    return quantized(site, 0)


def reshape(op: Op) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze: shapes are static, so all are one RESHAPE."""
    op.result(op.reshape(op.input(), op.out_shape()))


def identity(op: Op) -> None:
    if op.node.op_type == "Dropout" and len(op.node.outputs) > 1 and op.node.outputs[1]:
        raise Refusal("Dropout with a mask output", "export the model in inference mode")
    training = op.constant(2) if op.node.op_type == "Dropout" and op.has(2) else None
    if training is not None and bool(training.item()):
        raise Refusal("Dropout in training mode", "export the model in inference mode")
    op.result(op.input())


def transpose(op: Op) -> None:
    x = op.input()
    op.result(op.transpose(x, op.attr("perm", tuple(reversed(range(len(x.shape)))))))


def concat(op: Op) -> None:
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
    pads = op.ints(1)
    axes = [axis % rank for axis in op.ints(3, range(rank))]
    rows = np.zeros((rank, 2), np.int32)
    for position, axis in enumerate(axes):
        rows[axis] = pads[position], pads[position + len(axes)]
    if rows.min() < 0:
        raise Refusal(f"negative pads {pads}", "write the cut as a Slice")
    return rows


def pad(op: Op) -> None:
    x, rows, mode = op.input(), _pad_rows(op), op.attr("mode", "constant")
    if mode == "reflect":
        if np.any(rows.max(axis=1) >= np.asarray(x.shape)):
            raise Refusal("reflected padding as large as the dimension", "pad less at a time")
        op.result(op.move("MIRROR_PAD", x, op.out_shape(), op.const(rows), mode="REFLECT"))
        return
    if mode != "constant":
        raise Refusal(f"Pad with mode {mode!r}", "constant and reflect are lowered")
    value = op.constant(2)
    if op.has(2) and value is None:
        raise Refusal("Pad with a computed value", "make the value constant")
    fill = 0.0 if value is None else float(value.item())
    if fill == 0.0:
        op.result(op.move("PAD", x, op.out_shape(), op.const(rows)))
        return
    constant = op.const(np.asarray(fill, x.dtype))
    op.result(op.move("PADV2", x, op.out_shape(), op.const(rows), constant))


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


_ANY = ("float32", "int32", "int64", "bool")

OPERATORS = {
    "Reshape": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Flatten": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Squeeze": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Unsqueeze": Lowering(emit=reshape, integer=first_quantized, moves=True, dtypes=_ANY),
    "Identity": Lowering(emit=identity, integer=first_quantized, moves=True, dtypes=_ANY),
    "Dropout": Lowering(emit=identity, integer=first_quantized, moves=True, dtypes=_ANY),
    "Transpose": Lowering(emit=transpose, integer=first_quantized, moves=True, dtypes=_ANY),
    "Concat": Lowering(emit=concat, integer=same_scales, moves=True, dtypes=_ANY),
    "Pad": Lowering(emit=pad, integer=_pad_rule, moves=True, dtypes=_ANY),
    "DepthToSpace": Lowering(emit=depth_to_space, integer=first_quantized, moves=True, dtypes=_ANY),
    "SpaceToDepth": Lowering(emit=space_to_depth, integer=first_quantized, moves=True, dtypes=_ANY),
    "Expand": Lowering(emit=expand, integer=first_quantized, moves=True, dtypes=_ANY),
}
