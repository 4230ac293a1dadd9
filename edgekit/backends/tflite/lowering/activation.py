"""Activation functions. Without an int8 kernel in XNNPACK they are computed in float between quantizers."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import add, apply, div, minimum, mul, select, sub, view
from edgekit.backends.tflite.lowering.elementwise import NARROW, convert, unary, widened
from edgekit.backends.tflite.lowering.functions import compare, log1p
from edgekit.backends.tflite.lowering.rules import fixed_output, rescales
from edgekit.backends.tflite.op import Op
from edgekit.backends.tflite.plan import Lowering, clip_bounds

__all__ = ["OPERATORS"]

_BUILTIN = {(0.0, float("inf")): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


def clip(op: Op) -> None:
    """Relu and Clip that nothing absorbed."""
    x = op.input()
    if x.dtype != "float32":
        op.result(_clip_whole(op, x))
        return
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


def _clip_whole(op: Op, x: Tensor) -> Tensor:
    """Whole numbers, in as many bits as the kernels take."""
    (wide,) = widened(op, [x])
    for index, kind in ((1, "MAXIMUM"), (2, "MINIMUM")):
        if op.has(index):
            bound = convert(op, op.builder.value(op.node.inputs[index]), wide.dtype)
            wide = op.emit(kind, [wide, view(op, bound, ())], x.shape, dtype=wide.dtype)
    return convert(op, wide, x.dtype)


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
    tail = apply(op, "EXP", apply(op, "NEG", apply(op, "ABS", x)))
    op.result(add(op, apply(op, "RELU", x), log1p(op, tail)))


def mish(op: Op) -> None:
    """x * tanh(softplus(x)) as x * n / (n + 2) with n = e * (e + 2), e = exp(x): 1 in float32 from 20 on."""
    x, two = op.input(), op.scalar(2.0)
    grown = apply(op, "EXP", minimum(op, x, op.scalar(20.0)))
    n = mul(op, grown, add(op, grown, two))
    op.result(mul(op, x, div(op, n, add(op, n, two))))


def celu(op: Op) -> None:
    """max(x, 0) + alpha * elu(min(x, 0) / alpha)."""
    x, alpha = op.input(), op.scalar(op.attr("alpha", 1.0))
    below = apply(op, "ELU", div(op, minimum(op, x, op.scalar(0.0)), alpha))
    op.result(add(op, apply(op, "RELU", x), mul(op, alpha, below)))


def softsign(op: Op) -> None:
    x = op.input()
    op.result(div(op, x, add(op, op.scalar(1.0), apply(op, "ABS", x))))


def swish(op: Op) -> None:
    x, alpha = op.input(), op.attr("alpha", 1.0)
    scaled = x if alpha == 1.0 else mul(op, x, op.scalar(alpha))
    op.result(mul(op, x, apply(op, "LOGISTIC", scaled)))


def thresholded_relu(op: Op) -> None:
    x = op.input()
    op.result(select(op, compare(op, "GREATER", x, op.scalar(op.attr("alpha", 1.0))), x, op.scalar(0.0)))


def shrink(op: Op) -> None:
    """max(x - lambd, 0) + min(x + lambd, 0) where bias is lambd, else a choice of three."""
    x, end, bias = op.input(), op.attr("lambd", 0.5), op.attr("bias", 0.0)
    if bias == end and end >= 0:
        upper = apply(op, "RELU", sub(op, x, op.scalar(end)))
        op.result(add(op, upper, minimum(op, add(op, x, op.scalar(end)), op.scalar(0.0))))
        return
    upper = compare(op, "GREATER", x, op.scalar(end))
    lower = compare(op, "LESS", x, op.scalar(-end))
    inner = select(op, upper, sub(op, x, op.scalar(bias)), op.scalar(0.0))
    op.result(select(op, lower, add(op, x, op.scalar(bias)), inner))


def hardmax(op: Op) -> None:
    """1 at the first of the largest along an axis, else 0."""
    x = op.input()
    axis = op.attr("axis", -1) % len(x.shape)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    where = op.const(np.asarray(axis, np.int32))
    first = op.emit("ARG_MAX", [x, where], shape, dtype="int32", output_type="int32")
    places = np.arange(x.shape[axis], dtype=np.int32).reshape(-1, *(1,) * (len(x.shape) - axis - 1))
    kept = op.reshape(first, (*x.shape[:axis], 1, *x.shape[axis + 1 :]))
    chosen = compare(op, "EQUAL", kept, op.expand(op.const(places), len(x.shape)))
    op.result(convert(op, chosen, "float32"))


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
    "Clip": Lowering(emit=clip, dtypes=("float32", "int32", "int64", *NARROW)),
    "LeakyRelu": Lowering(emit=leaky_relu, integer=rescales),
    "PRelu": Lowering(emit=prelu),
    "Elu": Lowering(emit=elu),
    "Selu": Lowering(emit=selu),
    "Sigmoid": Lowering(emit=unary("LOGISTIC"), integer=fixed_output(1 / 256, -128)),
    "Tanh": Lowering(emit=unary("TANH"), integer=fixed_output(1 / 128, 0)),
    "HardSigmoid": Lowering(emit=hard_sigmoid),
    "HardSwish": Lowering(emit=unary("HARD_SWISH")),
    "Gelu": Lowering(emit=gelu),
    "Mish": Lowering(emit=mish),
    "Celu": Lowering(emit=celu),
    "Softsign": Lowering(emit=softsign),
    "Swish": Lowering(emit=swish),
    "ThresholdedRelu": Lowering(emit=thresholded_relu),
    "Shrink": Lowering(emit=shrink),
    "Hardmax": Lowering(emit=hardmax),
    "Softplus": Lowering(emit=softplus),
    "Softmax": Lowering(emit=softmax),
    "LogSoftmax": Lowering(emit=softmax),
}
