"""Pooling over windows and over the whole picture."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.geometry import Windows, windows
from edgekit.backends.tflite.ir import Array, Quant, Tensor
from edgekit.backends.tflite.lowering.convolution import (
    begin_pads,
    channels_first,
    channels_last,
    pad_spatial,
    plane,
)
from edgekit.backends.tflite.lowering.rules import MAX_REQUANTIZATION, quantized, same_scales
from edgekit.backends.tflite.lowering.volumes import (
    global_lp_pool,
    lp_pool,
    pool_average,
    pool_largest,
    pool_with_indices,
)
from edgekit.backends.tflite.op import Op
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS"]

_NON_NEGATIVE = ("RELU", "RELU6", "LOGISTIC")


def _windows(op: Op, x: Tensor) -> tuple[Windows, tuple[int, int], tuple[int, int], tuple[int, ...]]:
    """Placement, kernel, strides, and the shape (N, H, W, C) of the result."""
    rank = len(op.shape())
    spatial = rank - 2
    kernel = plane(op.attr("kernel_shape", ()), 1)
    strides = plane(op.attr("strides", (1,) * spatial), 1)
    out = plane(op.out_shape()[2:], 1)
    size = (x.shape[1], x.shape[2])
    begin = begin_pads(op, size, kernel)
    place = windows(size, out, kernel=kernel, strides=strides, dilations=(1, 1), begin=begin)
    return place, kernel, strides, (x.shape[0], *out, x.shape[3])


def _pool(
    op: Op,
    kind: str,
    x: Tensor,
    place: Windows,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    shape: tuple[int, ...],
) -> Tensor:
    return op.emit(
        kind,
        [x],
        shape,
        padding=place.padding,
        stride_h=strides[0],
        stride_w=strides[1],
        filter_height=kernel[0],
        filter_width=kernel[1],
        fused_activation_function="NONE",
    )


def _plain(op: Op) -> bool:
    """Whether LiteRT has the windows: over a line or a picture, without dilations."""
    rank = len(op.shape())
    return rank in (3, 4) and max(op.attr("dilations", (1,))) == 1


def max_pool(op: Op) -> None:
    if len(op.step.node.outputs) > 1 and op.step.node.outputs[1]:
        pool_with_indices(op)
        return
    if not _plain(op):
        pool_largest(op)
        return
    x = channels_last(op, op.input())
    place, kernel, strides, shape = _windows(op, x)
    if place.needs_pad:
        x = _pad_lowest(op, x, place)
    y = _pool(op, "MAX_POOL_2D", x, place, kernel, strides, shape)
    op.result(channels_first(op, y, len(op.shape())))


def _pad_lowest(op: Op, x: Tensor, place: Windows) -> Tensor:
    """Pad with a value that no maximum picks: zero where nothing is negative, else the lowest one (PADV2)."""
    if x.quant is not None and x.quant.zero_point == -128:
        return pad_spatial(op, x, place.pads)
    if x.dtype == "float32" and _never_negative(op, op.node.inputs[0]):
        return pad_spatial(op, x, place.pads)
    rows = np.asarray([(0, 0), *place.pads, (0, 0)], np.int32)
    shape = tuple(d + int(r.sum()) for d, r in zip(x.shape, rows, strict=True))
    limits = np.finfo(x.dtype) if x.dtype == "float32" else np.iinfo(x.dtype)
    lowest = np.asarray(limits.min, x.dtype)
    return op.move("PADV2", x, shape, op.const(rows), op.const(lowest, x.quant))


def _never_negative(op: Op, name: str) -> bool:
    tensor = op.builder.value(name)
    for producer in reversed(op.builder.graph.operators):
        if tensor in producer.outputs:
            if producer.kind in ("TRANSPOSE", "RESHAPE", "MAX_POOL_2D"):
                source = producer.inputs[0]
                assert source is not None
                tensor = source
                continue
            fused = producer.options.get("fused_activation_function", "")
            return producer.kind in _NON_NEGATIVE or fused in _NON_NEGATIVE
    return False


def average_pool(op: Op) -> None:
    """AVERAGE_POOL_2D in float; in integers a depthwise convolution with weights 1/n, which XNNPACK takes."""
    if not _plain(op):
        pool_average(op)
        return
    x = channels_last(op, op.input())
    place, kernel, strides, shape = _windows(op, x)
    count_pads = bool(op.attr("count_include_pad", 0))
    rank = len(op.shape())
    if op.integer:
        if place.needs_pad:
            x = pad_spatial(op, x, place.pads)
        op.result(channels_first(op, _mean_convolution(op, x, place, kernel, strides, shape), rank))
        return
    if (place.padding == "VALID" and not place.needs_pad) or (place.padding == "SAME" and not count_pads):
        y = _pool(op, "AVERAGE_POOL_2D", x, place, kernel, strides, shape)
    else:
        y = _padded_average(op, x, kernel, strides, shape)
    op.result(channels_first(op, y, rank))


def _padded_average(
    op: Op, x: Tensor, kernel: tuple[int, int], strides: tuple[int, int], shape: tuple[int, ...]
) -> Tensor:
    """Zeros added by PAD, then the mean; without count_include_pad it is scaled by n / (pixels inside)."""
    size = (x.shape[1], x.shape[2])
    begin = begin_pads(op, size, kernel)
    after = [
        max((o - 1) * s + k - i - b, 0)
        for o, s, k, i, b in zip(shape[1:3], strides, kernel, size, begin, strict=True)
    ]
    padded = pad_spatial(op, x, ((begin[0], after[0]), (begin[1], after[1])))
    y = _pool(op, "AVERAGE_POOL_2D", padded, Windows(padding="VALID"), kernel, strides, shape)
    declared = _declared_pads(op) if op.attr("count_include_pad", 0) else None
    factor = _pad_factor(size, begin, kernel, strides, (shape[1], shape[2]), declared)
    if np.all(factor == 1):
        return y
    return op.emit("MUL", [y, op.const(factor)], shape, fused_activation_function="NONE")


def _declared_pads(op: Op) -> tuple[int, int]:
    """ONNX's padding behind the picture: it counts under count_include_pad, what ceil_mode adds does not."""
    spatial = len(op.shape()) - 2
    return plane(op.attr("pads", (0,) * (2 * spatial))[spatial:], 0)


def _pad_factor(
    size: tuple[int, int],
    begin: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    out: tuple[int, int],
    declared_after: tuple[int, int] | None,
) -> Array:
    """Window size over the number of positions that count, shape (1, H, W, 1)."""
    counts = []
    for axis in range(2):
        first = np.arange(out[axis]) * strides[axis] - begin[axis]
        low, high = 0, size[axis]
        if declared_after is not None:
            low, high = -begin[axis], size[axis] + declared_after[axis]
        counts.append(np.minimum(first + kernel[axis], high) - np.maximum(first, low))
    inside = np.outer(counts[0], counts[1]).astype(np.float32)
    return (np.float32(kernel[0] * kernel[1]) / inside)[None, :, :, None]


def _mean_convolution(
    op: Op,
    x: Tensor,
    place: Windows,
    kernel: tuple[int, int],
    strides: tuple[int, int],
    shape: tuple[int, ...],
) -> Tensor:
    assert x.quant is not None
    channels = x.shape[3]
    scale = float(np.float32(1.0 / (kernel[0] * kernel[1])))
    ones = op.const(np.ones((1, *kernel, channels), np.int8), Quant(scales=(scale,)))
    bias_scale = float(np.float32(x.quant.scale) * np.float32(scale))
    bias = op.const(np.zeros(channels, np.int32), Quant(scales=(bias_scale,)))
    return op.emit(
        "DEPTHWISE_CONV_2D",
        [x, ones, bias],
        shape,
        padding=place.padding,
        stride_h=strides[0],
        stride_w=strides[1],
        dilation_h_factor=1,
        dilation_w_factor=1,
        depth_multiplier=1,
        fused_activation_function="NONE",
    )


def _average_rule(site: Site) -> bool:
    """Integer where every window counts the same pixels."""
    attributes, x, y = site.node.attributes, site.inputs[0], site.output
    if x is None or y is None or not quantized(site, 0) or attributes.get("ceil_mode", 0):
        return False
    if len(attributes.get("kernel_shape", ())) > 2 or max(attributes.get("dilations", (1,))) > 1:
        return False
    padded = any(attributes.get("pads", ())) or attributes.get("auto_pad", "NOTSET").startswith("SAME")
    plain = not padded or (attributes.get("count_include_pad", 0) and any(attributes.get("pads", ())))
    kernel = attributes.get("kernel_shape", (1,))
    return bool(plain) and x.scale / float(np.prod(kernel)) / y.scale < MAX_REQUANTIZATION


def _picks(site: Site) -> bool:
    """MaxPool keeps codes; with indices it is computed in float."""
    return same_scales(site) and not any(site.node.outputs[1:])


def global_pool(op: Op) -> None:
    kind = "MEAN" if op.node.op_type == "GlobalAveragePool" else "REDUCE_MAX"
    x = op.input()
    axes = op.indices(range(2, len(x.shape)))
    op.result(op.emit(kind, [x, axes], op.out_shape(), keep_dims=True))


OPERATORS = {
    "MaxPool": Lowering(emit=max_pool, integer=_picks, moves=True),
    "AveragePool": Lowering(emit=average_pool, integer=_average_rule),
    "GlobalAveragePool": Lowering(emit=global_pool, integer=lambda site: quantized(site, 0)),
    "LpPool": Lowering(emit=lp_pool),
    "GlobalLpPool": Lowering(emit=global_lp_pool),
    "GlobalMaxPool": Lowering(emit=global_pool, integer=same_scales, moves=True),
}
