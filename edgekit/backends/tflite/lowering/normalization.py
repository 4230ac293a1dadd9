"""Normalizations, composed of float operators that XNNPACK takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor, size_of
from edgekit.backends.tflite.lowering.compose import add, apply, div, maximum, mul, sub, view
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]


def _constants(op: Op, *indices: int) -> list[Array]:
    values = [op.constant(index) for index in indices]
    if any(value is None for value in values):
        raise Refusal(f"{op.node.op_type} with computed parameters", "only constants are lowered")
    return [value.astype(np.float64) for value in values if value is not None]


def batch_normalization(op: Op) -> None:
    """x * (scale / sqrt(variance + epsilon)) + (bias - mean * that)."""
    if op.attr("training_mode", 0):
        raise Refusal("BatchNormalization in training mode", "export the model in inference mode")
    x = op.input()
    shape = (1, -1) + (1,) * (len(x.shape) - 2)
    if any(op.constant(index) is None for index in (1, 2, 3, 4)):
        op.result(_computed_batch(op, x, (1, x.shape[1], *shape[2:])))
        return
    scale, bias, mean, variance = _constants(op, 1, 2, 3, 4)
    factor = scale / np.sqrt(variance + op.attr("epsilon", 1e-5))
    y = mul(op, x, op.const(factor.reshape(shape).astype(np.float32)))
    offset = op.const((bias - mean * factor).reshape(shape).astype(np.float32))
    op.result(op.emit("ADD", [y, offset], x.shape, fused_activation_function=op.activation))


def _computed_batch(op: Op, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    scale, bias, mean, variance = (view(op, op.input(index), shape) for index in (1, 2, 3, 4))
    moved = add(op, variance, op.scalar(op.attr("epsilon", 1e-5)))
    return add(op, mul(op, sub(op, x, mean), div(op, scale, apply(op, "SQRT", moved))), bias)


def _mean(op: Op, x: Tensor, axes: Sequence[int]) -> Tensor:
    shape = tuple(1 if axis in axes else dim for axis, dim in enumerate(x.shape))
    return op.emit("MEAN", [x, op.indices(axes)], shape, keep_dims=True)


def _standardized(op: Op, x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + epsilon) over the axes, the mean, and one over that root."""
    mean = _mean(op, x, axes)
    centred = sub(op, x, mean)
    variance = _mean(op, apply(op, "SQUARE", centred), axes)
    inverse = apply(op, "RSQRT", add(op, variance, op.scalar(op.attr("epsilon", 1e-5))))
    return mul(op, centred, inverse), mean, inverse


def layer_normalization(op: Op) -> None:
    """(x - mean) * rsqrt(mean((x - mean)^2) + epsilon) * scale + bias over the axes from `axis` on."""
    x = op.input()
    rank = len(x.shape)
    y, *statistics = _standardized(op, x, range(op.attr("axis", -1) % rank, rank))
    y = mul(op, y, op.expand(op.input(1), rank))
    op.result(add(op, y, op.expand(op.input(2), rank)) if op.has(2) else y)
    for index, value in enumerate(statistics, 1):
        if index < len(op.step.outputs) and op.step.outputs[index]:
            op.result(value, index)


def rms_normalization(op: Op) -> None:
    """x * rsqrt(mean(x * x) + epsilon) * scale over the axes from `axis` on."""
    x = op.input()
    rank = len(x.shape)
    power = _mean(op, apply(op, "SQUARE", x), range(op.attr("axis", -1) % rank, rank))
    inverse = apply(op, "RSQRT", add(op, power, op.scalar(op.attr("epsilon", 1e-5))))
    op.result(mul(op, mul(op, x, inverse), op.expand(op.input(1), rank)))


def instance_normalization(op: Op) -> None:
    """Over the places of each channel of each picture."""
    x = op.input()
    y, *_ = _standardized(op, x, range(2, len(x.shape)))
    op.result(_per_channel(op, y, x.shape[1]))


def group_normalization(op: Op) -> None:
    """Over the places of a group of channels; before opset 21 scale and bias are one for each group."""
    x, groups = op.input(), op.attr("num_groups", 1)
    parts = view(op, x, (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:]))
    y, *_ = _standardized(op, parts, range(2, len(parts.shape)))
    if size_of(op.shape(1)) == x.shape[1]:
        op.result(_per_channel(op, view(op, y, x.shape), x.shape[1]))
    else:
        op.result(view(op, _per_channel(op, y, groups), x.shape))


def _per_channel(op: Op, y: Tensor, count: int) -> Tensor:
    """y * scale + bias along the second axis."""
    shape = (1, count, *(1,) * (len(y.shape) - 2))
    return add(op, mul(op, y, view(op, op.input(1), shape)), view(op, op.input(2), shape))


def lp_normalization(op: Op) -> None:
    """x over its norm along an axis; zeros stay zeros."""
    x, p = op.input(), op.attr("p", 2)
    axis = op.attr("axis", -1) % len(x.shape)
    shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    parts = apply(op, "ABS" if p == 1 else "SQUARE", x)
    norm = op.emit("SUM", [parts, op.indices([axis])], shape, keep_dims=True)
    norm = norm if p == 1 else apply(op, "SQRT", norm)
    op.result(div(op, x, maximum(op, norm, op.scalar(float(np.finfo(np.float32).tiny)))))


def mean_variance_normalization(op: Op) -> None:
    """(x - mean) / (deviation + 1e-9); the body ONNX gives this function forgets the default of `axes`."""
    x = op.input()
    axes = sorted(axis % len(x.shape) for axis in op.attr("axes", (0, 2, 3)))
    centred = sub(op, x, _mean(op, x, axes))
    deviation = apply(op, "SQRT", _mean(op, apply(op, "SQUARE", centred), axes))
    op.result(div(op, centred, add(op, deviation, op.scalar(1e-9))))


def local_response_normalization(op: Op) -> None:
    """x / (bias + alpha / size * (sum of squares of `size` channels)) ^ beta."""
    size = op.attr("size", 1)
    x = op.input()
    if size % 2 == 0 or len(x.shape) != 4:
        raise Refusal("LRN of an even size or not of pictures", "use an odd size over (N, C, H, W)")
    last = op.transpose(x, (0, 2, 3, 1))
    y = op.emit(
        "LOCAL_RESPONSE_NORMALIZATION",
        [last],
        last.shape,
        radius=size // 2,
        bias=float(op.attr("bias", 1.0)),
        alpha=float(op.attr("alpha", 1e-4)) / size,
        beta=float(op.attr("beta", 0.75)),
    )
    op.result(op.transpose(y, (0, 3, 1, 2)))


OPERATORS = {
    "BatchNormalization": Lowering(emit=batch_normalization, fuses=True),
    "LayerNormalization": Lowering(emit=layer_normalization),
    "RMSNormalization": Lowering(emit=rms_normalization),
    "InstanceNormalization": Lowering(emit=instance_normalization),
    "GroupNormalization": Lowering(emit=group_normalization),
    "LpNormalization": Lowering(emit=lp_normalization),
    "MeanVarianceNormalization": Lowering(emit=mean_variance_normalization),
    "LRN": Lowering(emit=local_response_normalization),
}
