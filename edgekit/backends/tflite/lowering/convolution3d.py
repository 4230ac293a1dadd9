"""Convolutions of volumes, (N, C, D, H, W): CONV_3D and its transpose, in float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor, size_of
from edgekit.backends.tflite.op import Op, Refusal

__all__ = ["block_diagonal", "conv3d", "conv3d_transpose"]

_LAST, _FIRST = (0, 2, 3, 4, 1), (0, 4, 1, 2, 3)


def block_diagonal(values: Array, group: int) -> Array:
    """The weights of a grouped convolution as those of a plain one: zeros between the groups.

    `values` is ONNX's (O, I / group, …), or (I, O / group, …) of a transposed one.
    """
    if group == 1:
        return values
    first, second = values.shape[0] // group, values.shape[1]
    dense = np.zeros((values.shape[0], second * group, *values.shape[2:]), values.dtype)
    for g in range(group):
        rows = slice(g * first, (g + 1) * first)
        dense[rows, g * second : (g + 1) * second] = values[rows]
    return dense


def _weights(op: Op) -> Array:
    values = op.constant(1)
    if values is None or (op.has(2) and op.constant(2) is None):
        raise Refusal("the weights are computed", "only constant weights are lowered in three dimensions")
    return block_diagonal(values, op.attr("group", 1))


def _bias(op: Op, y: Tensor) -> Tensor:
    values = op.constant(2)
    if values is None:
        return y
    return op.emit("ADD", [y, op.const(values)], y.shape, fused_activation_function="NONE")


def _options(strides: Sequence[int], dilations: Sequence[int]) -> dict[str, Any]:
    return {
        "padding": "VALID",
        **{f"stride_{name}": step for name, step in zip("dhw", strides, strict=True)},
        **{f"dilation_{name}_factor": step for name, step in zip("dhw", dilations, strict=True)},
        "fused_activation_function": "NONE",
    }


def conv3d(op: Op) -> None:
    """An explicit PAD, then VALID windows."""
    weight = _weights(op)
    strides, dilations = op.attr("strides", (1, 1, 1)), op.attr("dilations", (1, 1, 1))
    x, shape = op.transpose(op.input(), _LAST), op.out_shape()
    rows = np.zeros((5, 2), np.int32)
    for i in range(3):
        extent = (weight.shape[i + 2] - 1) * dilations[i] + 1
        total = (shape[i + 2] - 1) * strides[i] + extent - x.shape[i + 1]
        before = _before(op, i, max(total, 0))
        rows[i + 1] = before, max(total - before, 0)
    if rows.any():
        padded = tuple(d + int(r.sum()) for d, r in zip(x.shape, rows, strict=True))
        x = op.move("PAD", x, padded, op.const(rows))
    filters = op.const(weight.transpose(2, 3, 4, 1, 0), name=op.node.inputs[1])
    last = (shape[0], *shape[2:], shape[1])
    y = op.emit("CONV_3D", [x, filters], last, **_options(strides, dilations))
    op.result(op.transpose(_bias(op, y), _FIRST))


def _before(op: Op, axis: int, total: int) -> int:
    auto = op.attr("auto_pad", "NOTSET")
    if auto == "NOTSET":
        return int(op.attr("pads", (0,) * 6)[axis])
    return 0 if auto == "VALID" else total // 2 if auto == "SAME_UPPER" else total - total // 2


def conv3d_transpose(op: Op) -> None:
    """VALID with the full output, then a SLICE."""
    if op.attr("auto_pad", "NOTSET") != "NOTSET" or op.attr("output_shape", ()):
        raise Refusal("a transposed convolution of volumes with output_shape or auto_pad", "give pads")
    weight = _weights(op)
    if max(op.attr("dilations", (1, 1, 1))) > 1 or max(op.attr("output_padding", (0, 0, 0))) > 0:
        raise Refusal("a dilated or output-padded transposed convolution of volumes", "pad with Pad")
    strides, x, shape = op.attr("strides", (1, 1, 1)), op.transpose(op.input(), _LAST), op.out_shape()
    full = [(i - 1) * s + k for i, s, k in zip(x.shape[1:4], strides, weight.shape[2:], strict=True)]
    size = (shape[0], *full, shape[1])
    filters = op.const(weight.transpose(2, 3, 4, 1, 0), name=op.node.inputs[1])
    options = _options(strides, (1, 1, 1))
    y = op.emit("CONV_3D_TRANSPOSE", [op.indices(size), filters, x], size, **options)
    begin, last = (0, *op.attr("pads", (0,) * 6)[:3], 0), (shape[0], *shape[2:], shape[1])
    if size_of(last) != size_of(size):
        y = op.move("SLICE", y, last, op.indices(begin), op.indices(last))
    op.result(op.transpose(_bias(op, y), _FIRST))
