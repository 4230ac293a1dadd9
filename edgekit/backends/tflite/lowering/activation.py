"""Activation functions. Without an int8 kernel in XNNPACK they are computed in float between quantizers."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.elementwise import unary
from edgekit.backends.tflite.lowering.rules import fixed_output, rescales
from edgekit.backends.tflite.op import Op
from edgekit.backends.tflite.plan import Lowering, clip_bounds

__all__ = ["OPERATORS"]

_BUILTIN = {(0.0, float("inf")): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


def clip(op: Op) -> None:
    """Relu and Clip that nothing absorbed."""
    x = op.input()
    bounds = clip_bounds(op.builder.source, op.node)
    if bounds is None:
        op.result(_computed_clip(op, x))
    elif bounds in _BUILTIN:
        op.result(op.emit(_BUILTIN[bounds], [x], x.shape))
    else:
        op.result(_clamp(op, x, *bounds))


def _clamp(op: Op, x: Tensor, low: float, high: float) -> Tensor:
    if low > -float("inf"):
        x = op.emit("MAXIMUM", [x, op.scalar(low)], x.shape)
    if high < float("inf"):
        x = op.emit("MINIMUM", [x, op.scalar(high)], x.shape)
    return x


def _computed_clip(op: Op, x: Tensor) -> Tensor:
    for index, kind in ((1, "MAXIMUM"), (2, "MINIMUM")):
        if op.has(index):
            x = op.emit(kind, [x, op.input(index)], x.shape)
    return x


def leaky_relu(op: Op) -> None:
    x = op.input()
    op.result(op.emit("LEAKY_RELU", [x], x.shape, alpha=float(op.attr("alpha", 0.01))))


def prelu(op: Op) -> None:
    """max(x, 0) + slope * min(x, 0) unless the slope is one constant for each channel."""
    x, slope = op.input(), op.expand(op.input(1), len(op.shape()))
    rank = len(x.shape)
    channels = rank >= 2 and slope.size == slope.shape[1]
    if slope.data is not None and channels and rank == 4:
        op.result(op.emit("PRELU", [x, slope], x.shape))
        return
    positive = op.emit("RELU", [x], x.shape)
    negative = op.emit("MINIMUM", [x, op.scalar(0.0)], x.shape)
    scaled = op.emit("MUL", [negative, slope], x.shape, fused_activation_function="NONE")
    op.result(op.emit("ADD", [positive, scaled], x.shape, fused_activation_function="NONE"))


def elu(op: Op) -> None:
    x, alpha = op.input(), float(op.attr("alpha", 1.0))
    if alpha == 1.0:
        op.result(op.emit("ELU", [x], x.shape))
    else:
        op.result(_scaled_elu(op, x, alpha, 1.0))


def selu(op: Op) -> None:
    alpha = float(op.attr("alpha", 1.6732632423543772))
    op.result(_scaled_elu(op, op.input(), alpha, float(op.attr("gamma", 1.0507009873554805))))


def _scaled_elu(op: Op, x: Tensor, alpha: float, gamma: float) -> Tensor:
    """gamma * (max(x, 0) + alpha * elu(min(x, 0)))."""
    positive = op.emit("RELU", [x], x.shape)
    negative = op.emit("MINIMUM", [x, op.scalar(0.0)], x.shape)
    negative = op.emit("ELU", [negative], x.shape)
    negative = op.emit("MUL", [negative, op.scalar(alpha)], x.shape, fused_activation_function="NONE")
    total = op.emit("ADD", [positive, negative], x.shape, fused_activation_function="NONE")
    if gamma == 1.0:
        return total
    return op.emit("MUL", [total, op.scalar(gamma)], x.shape, fused_activation_function="NONE")


def hard_sigmoid(op: Op) -> None:
    """clip(alpha * x + beta, 0, 1)."""
    x = op.input()
    scaled = op.emit(
        "MUL", [x, op.scalar(float(op.attr("alpha", 0.2)))], x.shape, fused_activation_function="NONE"
    )
    moved = op.emit(
        "ADD", [scaled, op.scalar(float(op.attr("beta", 0.5)))], x.shape, fused_activation_function="NONE"
    )
    op.result(_clamp(op, moved, 0.0, 1.0))


def gelu(op: Op) -> None:
    x = op.input()
    op.result(op.emit("GELU", [x], x.shape, approximate=op.attr("approximate", "none") == "tanh"))


def softplus(op: Op) -> None:
    """log(1 + exp(x)) as max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    x = op.input()
    positive = op.emit("RELU", [x], x.shape)
    negative = op.emit("NEG", [op.emit("ABS", [x], x.shape)], x.shape)
    grown = op.emit(
        "ADD",
        [op.emit("EXP", [negative], x.shape), op.scalar(1.0)],
        x.shape,
        fused_activation_function="NONE",
    )
    log = op.emit("LOG", [grown], x.shape)
    op.result(op.emit("ADD", [positive, log], x.shape, fused_activation_function="NONE"))


def softmax(op: Op) -> None:
    kind = "SOFTMAX" if op.node.op_type == "Softmax" else "LOG_SOFTMAX"
    x = op.input()
    rank = len(x.shape)
    axis = op.attr("axis", -1) % rank
    perm = (*(i for i in range(rank) if i != axis), axis)
    last = op.transpose(x, perm)
    if kind == "SOFTMAX":
        y = op.emit(kind, [last], last.shape, beta=1.0)
    else:
        y = op.emit(kind, [last], last.shape)
    op.result(op.transpose(y, tuple(int(i) for i in np.argsort(perm))))


OPERATORS = {
    "Relu": Lowering(emit=clip),
    "Clip": Lowering(emit=clip),
    "LeakyRelu": Lowering(emit=leaky_relu, integer=rescales),
    "PRelu": Lowering(emit=prelu),
    "Elu": Lowering(emit=elu),
    "Selu": Lowering(emit=selu),
    "Sigmoid": Lowering(emit=unary("LOGISTIC"), integer=fixed_output(1 / 256, -128)),
    "Tanh": Lowering(emit=unary("TANH"), integer=fixed_output(1 / 128, 0)),
    "HardSigmoid": Lowering(emit=hard_sigmoid),
    "HardSwish": Lowering(emit=unary("HARD_SWISH")),
    "Gelu": Lowering(emit=gelu),
    "Softplus": Lowering(emit=softplus),
    "Softmax": Lowering(emit=softmax),
    "LogSoftmax": Lowering(emit=softmax),
}
