"""Normalizations: modules where scale and offset are constants."""

from __future__ import annotations

from typing import Any

from edgekit.core.packages import require
from edgekit.train.layers import filled
from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "lp_normalize"]


def _constants(op: Op, positions: range) -> None:
    for position in positions:
        if op.has(position) and op.constant(position) is None:
            raise op.refuse(f"its input {position} ({op.name(position)!r}) is computed, not a constant")


def batch_norm(op: Op) -> Any:
    _constants(op, range(1, 5))
    if op.attribute("training_mode", 0):
        raise op.refuse("it is in training mode in the file", "export the model in inference mode")
    nn = require("torch").nn
    rank, channels = len(op.shape(0)), op.shape(1)[0]
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    if rank not in kinds:
        raise op.refuse(f"a tensor of {rank} axes; 2 to 5 are known")
    momentum = 1.0 - op.attribute("momentum", 0.9)
    module = kinds[rank](channels, eps=op.attribute("epsilon", 1e-5), momentum=round(momentum, 7))
    return filled(op, module, op.tensor(0), kind="batch_norm")


def layer_norm(op: Op) -> Any:
    _constants(op, range(1, 3))
    shape = op.shape(0)
    axis = op.attribute("axis", -1) % len(shape)
    if len(op.node.output) > 1 and any(op.node.output[1:]):
        raise op.refuse("its mean and deviation are read")
    size = list(shape[axis:])
    arrays = [op.constant(i) for i in (1, 2) if op.has(i)]
    if any(a is not None and a.size != _product(size) for a in arrays):
        raise op.refuse("its scale or offset is broadcast")
    module = require("torch").nn.LayerNorm(size, eps=op.attribute("epsilon", 1e-5), bias=op.has(2))
    return filled(op, module, op.tensor(0), kind="norm")


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def instance_norm(op: Op) -> Any:
    _constants(op, range(1, 3))
    nn = require("torch").nn
    rank = len(op.shape(0))
    if rank not in (3, 4, 5):
        raise op.refuse(f"a tensor of {rank} axes; 3 to 5 are known")
    kind = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)[rank - 3]
    module = kind(op.shape(1)[0], eps=op.attribute("epsilon", 1e-5), affine=True)
    return filled(op, module, op.tensor(0), kind="norm")


def lp_normalize(x: Any, axis: int, p: int) -> Any:
    """x over its norm along an axis, as the operator LpNormalization; 0 where the norm is 0."""
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else (x * x).sum(axis, keepdim=True).sqrt()
    return x / norm.where(norm != 0, norm + 1)


def lp_normalization(op: Op) -> Any:
    return op.call(lp_normalize, op.tensor(0), op.attribute("axis", -1), op.attribute("p", 2))


def lrn(op: Op) -> Any:
    size, alpha = op.attribute("size"), op.attribute("alpha", 1e-4)
    if size % 2 == 0:
        raise op.refuse(f"windows of {size} channels; odd sizes are known")
    beta, bias = op.attribute("beta", 0.75), op.attribute("bias", 1.0)
    return op.call("nn.functional.local_response_norm", op.tensor(0), size, alpha, beta, bias)


OPERATORS: dict[str, Emitter] = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "LpNormalization": lp_normalization,
    "LRN": lrn,
}
