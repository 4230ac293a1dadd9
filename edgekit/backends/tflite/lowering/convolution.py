"""Conv and ConvTranspose in one and two dimensions; three have a file of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from edgekit.backends.tflite.geometry import windows
from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.convolution3d import block_diagonal, conv3d, conv3d_transpose
from edgekit.backends.tflite.lowering.rules import weighted
from edgekit.backends.tflite.lowering.weights import bias_tensor
from edgekit.backends.tflite.op import Op, Refusal, Weight
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS", "begin_pads", "channels_first", "channels_last", "pad_spatial"]


def channels_last(op: Op, x: Tensor) -> Tensor:
    """(N, C, H, W) or (N, C, L) as (N, H, W, C); a line becomes a picture of height 1."""
    if len(x.shape) == 4:
        return op.transpose(x, (0, 2, 3, 1))
    line = op.transpose(x, (0, 2, 1))
    return op.reshape(line, (line.shape[0], 1, *line.shape[1:]))


def channels_first(op: Op, y: Tensor, rank: int) -> Tensor:
    """The inverse of `channels_last`."""
    if rank == 4:
        return op.transpose(y, (0, 3, 1, 2))
    return op.transpose(op.reshape(y, (y.shape[0], *y.shape[2:])), (0, 2, 1))


def plane(values: tuple[int, ...], fill: int) -> tuple[int, int]:
    """A spatial attribute as (height, width)."""
    return (values[0], values[1]) if len(values) == 2 else (fill, values[0])


def begin_pads(op: Op, size: tuple[int, int], kernel: tuple[int, int]) -> tuple[int, int]:
    """ONNX's padding before the first row and column, `auto_pad` worked out."""
    auto = op.attr("auto_pad", "NOTSET")
    rank = len(op.shape()) - 2
    if auto == "VALID":
        return 0, 0
    if auto == "NOTSET":
        pads = op.attr("pads", (0,) * (2 * rank))
        if min(pads) < 0:
            raise Refusal(f"negative pads {pads}", "write the cut as a Slice")
        return plane(pads[:rank], 0)
    strides = plane(op.attr("strides", (1,) * rank), 1)
    dilations = plane(op.attr("dilations", (1,) * rank), 1)
    total = []
    for i, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total.append(max((-(-i // s) - 1) * s + (k - 1) * d + 1 - i, 0))
    upper = auto == "SAME_UPPER"
    return (total[0] + (not upper)) // 2, (total[1] + (not upper)) // 2


def pad_spatial(op: Op, x: Tensor, pads: tuple[tuple[int, int], tuple[int, int]]) -> Tensor:
    """Zeros (the zero point, in codes) around the picture `x` (N, H, W, C)."""
    rows = np.asarray([(0, 0), *pads, (0, 0)], np.int32)
    shape = tuple(d + int(r.sum()) for d, r in zip(x.shape, rows, strict=True))
    return op.move("PAD", x, shape, op.const(rows))


def _kernel_shape(op: Op) -> tuple[int, ...]:
    """The shape of the weights, a line as a picture of height 1."""
    first, second, *kernel = op.shape(1)
    return (first, second, *kernel) if len(kernel) == 2 else (first, second, 1, *kernel)


def _computed(op: Op) -> bool:
    return not op.known(1)


def _filters(op: Op, weight: Weight | None, perm: tuple[int, ...]) -> Tensor:
    """The weights in LiteRT's order of axes; computed ones (None) are transposed when the model runs."""
    if weight is not None:
        return op.const(weight.values, weight.quant, name=op.node.inputs[1])
    return op.transpose(op.reshape(op.input(1), _kernel_shape(op)), perm)


def _bias(op: Op, x: Tensor, weight: Weight | None, count: int) -> Tensor:
    if not op.integer and op.has(2) and op.constant(2) is None:
        return op.input(2)
    weight = weight or Weight(values=np.zeros(0, np.float32))
    return bias_tensor(op, 2, x=x, weight=weight, count=count)


def conv(op: Op) -> None:
    rank = len(op.shape())
    if rank == 5:
        conv3d(op)
        return
    if rank not in (3, 4):
        raise Refusal(f"a convolution in {rank - 2} dimensions", "1, 2 and 3 are lowered")
    outputs, group_inputs, *kernel_dims = _kernel_shape(op)
    kernel = (kernel_dims[0], kernel_dims[1])
    group = op.attr("group", 1)
    x = channels_last(op, op.input())
    shape = op.out_shape()
    out = plane(shape[2:], 1)
    strides = plane(op.attr("strides", (1,) * (rank - 2)), 1)
    dilations = plane(op.attr("dilations", (1,) * (rank - 2)), 1)
    size = (x.shape[1], x.shape[2])
    place = windows(
        size, out, kernel=kernel, strides=strides, dilations=dilations, begin=begin_pads(op, size, kernel)
    )
    if place.needs_pad:
        x = pad_spatial(op, x, place.pads)
    depthwise = group > 1 and group_inputs == 1
    perm = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
    weight = None if _computed(op) else op.weight(1).reshape(_kernel_shape(op), axis=0).transpose(perm)
    options: dict[str, Any] = {
        "padding": place.padding,
        "stride_h": strides[0],
        "stride_w": strides[1],
        "dilation_h_factor": dilations[0],
        "dilation_w_factor": dilations[1],
        "fused_activation_function": op.activation,
        **({"depth_multiplier": outputs // group} if depthwise else {}),
    }
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    operands = [x, _filters(op, weight, perm), _bias(op, x, weight, outputs)]
    op.result(channels_first(op, op.emit(kind, operands, (shape[0], *out, outputs), **options), rank))


def conv_transpose(op: Op) -> None:
    """VALID with the full output, then a SLICE: SAME places some strides and kernels wrongly."""
    rank = len(op.shape())
    if rank == 5:
        conv3d_transpose(op)
        return
    if rank not in (3, 4):
        raise Refusal(f"a transposed convolution in {rank - 2} dimensions", "1, 2 and 3 are lowered")
    dilations = plane(op.attr("dilations", (1,) * (rank - 2)), 1)
    weight = _transposed_weight(op, dilations)
    outputs, kernel = op.out_shape()[1], _kernel_shape(op)[2:]
    kernel = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    x = channels_last(op, op.input())
    strides = plane(op.attr("strides", (1,) * (rank - 2)), 1)
    out = plane(op.out_shape()[2:], 1)
    begin = _transposed_begin(op, x, out, strides, (kernel[0], kernel[1]))
    full = [(i - 1) * s + k for i, s, k in zip(x.shape[1:3], strides, kernel, strict=True)]
    full = [max(f, b + o) for f, b, o in zip(full, begin, out, strict=True)]
    if any(f >= (i - 1) * s + k + s for f, i, s, k in zip(full, x.shape[1:3], strides, kernel, strict=True)):
        raise Refusal(
            "output_padding reaches a whole stride beyond the kernel", "use a smaller output_padding"
        )
    size = (x.shape[0], *full, outputs)
    perm = (1, 2, 3, 0)
    weight = None if weight is None else weight.transpose(perm)
    y = op.emit(
        "TRANSPOSE_CONV",
        [op.indices(size), _filters(op, weight, perm), x, _bias(op, x, weight, outputs)],
        size,
        padding="VALID",
        stride_h=strides[0],
        stride_w=strides[1],
        fused_activation_function=op.activation,
    )
    if tuple(full) != out:
        final = (x.shape[0], *out, outputs)
        y = op.move("SLICE", y, final, op.indices((0, *begin, 0)), op.indices(final))
    op.result(channels_first(op, y, rank))


def _transposed_weight(op: Op, dilations: tuple[int, int]) -> Weight | None:
    """ONNX's (I, O, H, W) with groups and dilations written out as zeros; None when it is computed."""
    group = op.attr("group", 1)
    if _computed(op):
        if group != 1 or dilations != (1, 1):
            raise Refusal("computed weights with groups or dilations", "make the weights constant")
        return None
    weight = op.weight(1).reshape(_kernel_shape(op), axis=1)
    quant = weight.quant
    if quant is not None and len(quant.scales) > 1:
        quant = replace(quant, scales=quant.scales * group)
    return _dilated(Weight(values=block_diagonal(weight.values, group), quant=quant), dilations)


def _dilated(weight: Weight, dilations: tuple[int, int]) -> Weight:
    """The kernel with zeros between its taps: the engine's operator has no dilation."""
    if dilations == (1, 1):
        return weight
    i, o, h, w = weight.values.shape
    grid = np.zeros((i, o, (h - 1) * dilations[0] + 1, (w - 1) * dilations[1] + 1), weight.values.dtype)
    grid[:, :, :: dilations[0], :: dilations[1]] = weight.values
    return replace(weight, values=grid)


def _transposed_begin(
    op: Op, x: Tensor, out: tuple[int, int], strides: tuple[int, int], kernel: tuple[int, int]
) -> tuple[int, int]:
    """Rows and columns cut before the result (ONNX ConvTranspose, `output_shape` and `auto_pad` included)."""
    rank = len(op.shape()) - 2
    auto = op.attr("auto_pad", "NOTSET")
    if auto == "NOTSET" and not op.attr("output_shape", ()):
        return plane(op.attr("pads", (0,) * (2 * rank))[:rank], 0)
    if auto == "VALID" and not op.attr("output_shape", ()):
        return 0, 0
    extra = plane(op.attr("output_padding", (0,) * rank), 0)
    begin = []
    for i, o, s, k, e in zip(x.shape[1:3], out, strides, kernel, extra, strict=True):
        total = max((i - 1) * s + e + k - o, 0)
        begin.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
    return begin[0], begin[1]


def _planar(rule: Callable[[Site], bool]) -> Callable[[Site], bool]:
    """The rule, for lines and pictures: CONV_3D is float only."""
    return lambda site: len(site.graph.shapes[site.node.inputs[0]]) < 5 and rule(site)


OPERATORS = {
    "Conv": Lowering(emit=conv, integer=_planar(weighted(lambda site: 0)), fuses=True),
    "ConvTranspose": Lowering(emit=conv_transpose, integer=_planar(weighted(lambda site: 1)), fuses=True),
}
