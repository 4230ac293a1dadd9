"""Activations: functions of one tensor, and nn.PReLU."""

from __future__ import annotations

from typing import Any

from edgekit.core.packages import require
from edgekit.train.layers import filled
from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "hard_sigmoid"]

_PLAIN = {
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Softsign": "nn.functional.softsign",
    "Mish": "nn.functional.mish",
    "HardSwish": "nn.functional.hardswish",
    "Erf": "erf",
}


def plain(op: Op) -> Any:
    return op.call(_PLAIN[op.type], op.tensor(0))


def clip(op: Op) -> Any:
    low, high = (_bound(op, i) for i in (1, 2))
    if isinstance(low, (float, int)) and low == 0 and high == 6:
        return op.call("nn.functional.relu6", op.tensor(0))
    if low is None and high is None:
        return op.tensor(0)
    return op.call("clamp", op.tensor(0), low, high)


def _bound(op: Op, position: int) -> Any:
    array = op.constant(position)
    if array is None:
        return op.tensor(position)
    number = array.reshape(-1)[0]
    return float(number) if array.dtype.kind == "f" else int(number)


def leaky_relu(op: Op) -> Any:
    return op.call("nn.functional.leaky_relu", op.tensor(0), op.attribute("alpha", 0.01))


def elu(op: Op) -> Any:
    return op.call("nn.functional.elu", op.tensor(0), op.attribute("alpha", 1.0))


def celu(op: Op) -> Any:
    return op.call("nn.functional.celu", op.tensor(0), op.attribute("alpha", 1.0))


def selu(op: Op) -> Any:
    alpha = op.attribute("alpha", 1.67326319217681884765625)
    gamma = op.attribute("gamma", 1.05070102214813232421875)
    return op.call("mul", op.call("nn.functional.elu", op.tensor(0), alpha), gamma)


def softplus(op: Op) -> Any:
    return op.call("nn.functional.softplus", op.tensor(0), 1.0, 1e9)  # torch's is linear above 20


def thresholded(op: Op) -> Any:
    return op.call("nn.functional.threshold", op.tensor(0), op.attribute("alpha", 1.0), 0.0)


def hard_sigmoid(x: Any, slope: float, offset: float) -> Any:
    """max(0, min(1, slope * x + offset)), the operator HardSigmoid."""
    return (x * slope + offset).clamp(0.0, 1.0)


def emit_hard_sigmoid(op: Op) -> Any:
    return op.call(hard_sigmoid, op.tensor(0), op.attribute("alpha", 0.2), op.attribute("beta", 0.5))


def gelu(op: Op) -> Any:
    return op.call("nn.functional.gelu", op.tensor(0), approximate=op.attribute("approximate", "none"))


def softmax(op: Op) -> Any:
    name = "softmax" if op.type == "Softmax" else "log_softmax"
    return op.call(name, op.tensor(0), op.attribute("axis", -1))


def shrink(op: Op) -> Any:
    bias, limit = op.attribute("bias", 0.0), op.attribute("lambd", 0.5)
    if bias == limit:
        return op.call("nn.functional.softshrink", op.tensor(0), limit)
    if bias == 0.0:
        return op.call("nn.functional.hardshrink", op.tensor(0), limit)
    raise op.refuse(f"bias {bias} and lambd {limit}: equal values or a bias of 0 are known")


def prelu(op: Op) -> Any:
    slope = op.constant(1)
    channels = op.shape(0)[1] if len(op.shape(0)) > 1 else 0
    if slope is None or slope.size not in (1, channels) or not _per_channel(slope, len(op.shape(0))):
        table = op.tensor(1) if slope is None else op.builder.parameter(
            op.name(1), node=op.node.name, position=1
        )  # fmt: skip
        x = op.tensor(0)
        return op.call("where", op.call("gt", x, 0), x, op.call("mul", x, table))
    return filled(op, require("torch").nn.PReLU(slope.size), op.tensor(0), kind="prelu")


def _per_channel(slope: Any, rank: int) -> bool:
    """Whether an operand that broadcasts from the right has its values along axis 1."""
    shape = (1,) * (rank - slope.ndim) + slope.shape
    return slope.size == 1 or (len(shape) == rank and shape[1] == slope.size)


OPERATORS: dict[str, Emitter] = {
    **dict.fromkeys(_PLAIN, plain),
    "Clip": clip,
    "LeakyRelu": leaky_relu,
    "Elu": elu,
    "Celu": celu,
    "Selu": selu,
    "Softplus": softplus,
    "ThresholdedRelu": thresholded,
    "HardSigmoid": emit_hard_sigmoid,
    "Gelu": gelu,
    "Softmax": softmax,
    "LogSoftmax": softmax,
    "Shrink": shrink,
    "PRelu": prelu,
}
