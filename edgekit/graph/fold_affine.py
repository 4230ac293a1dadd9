"""A constant factor or offset for each channel goes into the weights of the layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.graph.fold_batchnorm import channel_shape, layer_before, replace_layer, scaled
from edgekit.graph.result import PassResult
from edgekit.graph.walk import constants

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Fold Mul and Add with a constant into the Conv or ConvTranspose that feeds them alone.

    Before: x -> Conv(W, b) -> Mul(k) -> Add(c) -> y, k and c one number, or one a channel
    After: x -> Conv(W * k, b * k + c) -> y; computed in float64 and rounded once to the dtype of W.
    Must not change: names of inputs and outputs, other readers of the same weights (they keep the old ones),
    a constant that varies over pixels.
    """
    modified = False
    layers = {n.output[0] for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose")}
    for node in list(model.graph.node):
        plain = node.op_type in ("Mul", "Add") and not node.domain
        if plain and layers.intersection(node.input) and _fold(node, model.graph):
            layers.add(node.output[0])
            modified = True
    return PassResult(model=model, modified=modified)


def _fold(node: NodeProto, graph: GraphProto) -> bool:
    values = constants(graph)
    known = [i for i, name in enumerate(node.input) if name in values]
    if len(known) != 1:
        return False
    data = node.input[1 - known[0]]
    layer = layer_before(node, data, graph)
    if layer is None or layer.op_type not in ("Conv", "ConvTranspose"):
        return False
    bias_name = layer.input[2] if len(layer.input) > 2 else ""
    weight = values.get(layer.input[1])
    if weight is None or (bias_name and bias_name not in values):
        return False
    channels = weight.shape[0] if layer.op_type == "Conv" else weight.shape[1]
    operand = _each_channel(values[node.input[known[0]]], channels, weight.ndim)
    shape = channel_shape(layer, weight, channels)
    if operand is None or shape is None:
        return False
    factor = operand if node.op_type == "Mul" else np.ones(channels)
    offset = operand if node.op_type == "Add" else np.zeros(channels)
    bias = values[bias_name].astype(np.float64) if bias_name else np.zeros(channels)
    new_weight = scaled(weight, 1.0, factor.reshape(shape))
    new_bias = (bias * factor + offset).astype(weight.dtype)
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return False
    replace_layer(layer, graph, node, data, new_weight, new_bias)
    return True


def _each_channel(value: NDArray[Any], channels: int, rank: int) -> NDArray[np.float64] | None:
    """One number a channel, or None where the constant broadcasts otherwise against [N, C, *spatial]."""
    if value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(d != 1 for axis, d in enumerate(shape) if axis != 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(value.astype(np.float64).ravel(), (channels,))
