"""Normalizations, composed of float operators that XNNPACK takes."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]


def _constants(op: Op, *indices: int) -> list[Array]:
    values = [op.constant(index) for index in indices]
    if any(value is None for value in values):
        raise Refusal(f"{op.node.op_type} with computed parameters", "only constants are lowered")
    return [value.astype(np.float64) for value in values if value is not None]


def _mul(op: Op, a: Tensor, b: Tensor) -> Tensor:
    return op.emit("MUL", [a, b], a.shape, fused_activation_function="NONE")


def batch_normalization(op: Op) -> None:
    """x * (scale / sqrt(variance + epsilon)) + (bias - mean * that)."""
    if op.attr("training_mode", 0):
        raise Refusal("BatchNormalization in training mode", "export the model in inference mode")
    scale, bias, mean, variance = _constants(op, 1, 2, 3, 4)
    factor = scale / np.sqrt(variance + op.attr("epsilon", 1e-5))
    x = op.input()
    shape = (1, -1) + (1,) * (len(x.shape) - 2)
    y = _mul(op, x, op.const(factor.reshape(shape).astype(np.float32)))
    offset = op.const((bias - mean * factor).reshape(shape).astype(np.float32))
    op.result(op.emit("ADD", [y, offset], x.shape, fused_activation_function=op.activation))


def layer_normalization(op: Op) -> None:
    """(x - mean) * rsqrt(mean((x - mean)^2) + epsilon) * scale + bias over the axes from `axis` on."""
    if any(name for name in op.node.outputs[1:]):
        raise Refusal(
            "LayerNormalization with its mean or deviation as output", "only the first output is lowered"
        )
    x = op.input()
    rank = len(x.shape)
    first = op.attr("axis", -1) % rank
    reduced = (*x.shape[:first], *(1,) * (rank - first))
    axes = op.indices(range(first, rank))
    mean = op.emit("MEAN", [x, axes], reduced, keep_dims=True)
    centred = op.emit("SUB", [x, mean], x.shape, fused_activation_function="NONE")
    variance = op.emit("MEAN", [op.emit("SQUARE", [centred], x.shape), axes], reduced, keep_dims=True)
    moved = op.emit(
        "ADD", [variance, op.scalar(op.attr("epsilon", 1e-5))], reduced, fused_activation_function="NONE"
    )
    y = _mul(op, centred, op.emit("RSQRT", [moved], reduced))
    y = _mul(op, y, op.expand(op.input(1), rank))
    if op.has(2):
        y = op.emit("ADD", [y, op.expand(op.input(2), rank)], x.shape, fused_activation_function="NONE")
    op.result(y)


OPERATORS = {
    "BatchNormalization": Lowering(emit=batch_normalization, fuses=True),
    "LayerNormalization": Lowering(emit=layer_normalization),
}
