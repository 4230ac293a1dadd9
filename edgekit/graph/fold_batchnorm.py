"""BatchNormalization goes into the weights of the layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core.packages import require
from edgekit.graph.result import PassResult
from edgekit.graph.walk import attribute, constants, graph_reads, node_reads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply", "channel_shape", "layer_before", "replace_layer", "scaled"]

_ROWS_BYTES = 1 << 22  # of the weight that are scaled at once
_EPSILON = 1e-5  # the default of the operator's specification


def apply(model: ModelProto) -> PassResult:
    """Fold BatchNormalization in inference mode into the Conv, ConvTranspose or Gemm that feeds it alone.

    Before: x -> Conv(W, b) -> BatchNormalization(scale, shift, mean, var) -> y
    After: x -> Conv(W * k, (b - mean) * k + shift) -> y, k = scale / sqrt(var + epsilon) per output channel;
    computed in float64 and rounded once to the dtype of W.
    Must not change: names of inputs and outputs, other readers of the same weights (they keep the old ones),
    a BatchNormalization in training mode or whose parameters are no constants.

    Source: Jacob et al., https://arxiv.org/abs/1712.05877, section 3.2.
    """
    modified = False
    for node in list(model.graph.node):
        if node.op_type == "BatchNormalization" and not node.domain and _fold(node, model.graph):
            modified = True
    return PassResult(model=model, modified=modified)


def _fold(norm: NodeProto, graph: GraphProto) -> bool:
    values = constants(graph)
    layer = layer_before(norm, norm.input[0], graph)
    if layer is None or attribute(norm, "training_mode", 0) or any(norm.output[1:]):
        return False
    parameters = [values.get(name) for name in norm.input[1:5]]
    bias_name = layer.input[2] if len(layer.input) > 2 else ""
    weight = values.get(layer.input[1])
    if weight is None or any(p is None for p in parameters) or (bias_name and bias_name not in values):
        return False
    scale, shift, mean, var = (np.asarray(p, dtype=np.float64) for p in parameters)
    factor = scale / np.sqrt(var + attribute(norm, "epsilon", _EPSILON))
    shape = channel_shape(layer, weight, len(factor))
    if shape is None:
        return False
    if layer.op_type == "Gemm":
        alpha, beta = attribute(layer, "alpha", 1.0), attribute(layer, "beta", 1.0)
    else:
        alpha, beta = 1.0, 1.0
    bias: NDArray[np.float64] = values[bias_name].astype(np.float64) * beta if bias_name else np.zeros(1)
    if bias.size not in (1, len(factor)) or bias.shape[-1:] not in ((), (1,), (len(factor),)):
        return False  # a bias of its own for each row of the batch
    new_weight = scaled(weight, alpha, factor.reshape(shape))
    new_bias = np.broadcast_to((bias - mean) * factor + shift, (1, len(factor))).reshape(-1)
    data = norm.input[0]
    replace_layer(layer, graph, norm, data, new_weight, new_bias.astype(weight.dtype))
    return True


def scaled(weight: NDArray[Any], by: float, factor: NDArray[np.float64]) -> NDArray[Any]:
    """The weight times `by` times a factor of its rank, in float64, rounded once; a few rows at a time."""
    made = np.empty(weight.shape, weight.dtype)
    factors = np.broadcast_to(factor, weight.shape)
    rows = max(1, _ROWS_BYTES // max(1, weight[:1].nbytes))
    for at in range(0, len(weight), rows):
        part = slice(at, at + rows)
        made[part] = (weight[part].astype(np.float64) * by * factors[part]).astype(weight.dtype)
    return made


def layer_before(node: NodeProto, name: str, graph: GraphProto) -> NodeProto | None:
    """The Conv, ConvTranspose or Gemm whose result `name` is read by `node` alone."""
    outputs = {value.name for value in graph.output}
    readers = [n for n in graph.node if name in node_reads(n)]
    makers = [n for n in graph.node if name in n.output]
    if len(makers) != 1 or len(readers) != 1 or name in outputs or list(node.input).count(name) != 1:
        return None
    layer = makers[0]
    return layer if layer.op_type in ("Conv", "ConvTranspose", "Gemm") and not layer.domain else None


def channel_shape(layer: NodeProto, weight: NDArray[Any], channels: int) -> tuple[int, ...] | None:
    """The shape that lays one factor an output channel along the right axes of the weight, or None.

    Conv weights are [out, in/groups, ...]; ConvTranspose weights are [in, out/groups, ...], where output
    channel c of group g belongs to the rows of that group: only one group is folded.
    """
    if layer.op_type == "Conv":
        axis = 0
    elif layer.op_type == "ConvTranspose":
        if attribute(layer, "group", 1) != 1:
            return None
        axis = 1
    else:
        axis = 0 if attribute(layer, "transB", 0) else 1
    if weight.shape[axis] != channels:
        return None
    return tuple(channels if i == axis else 1 for i in range(weight.ndim))


def replace_layer(
    layer: NodeProto,
    graph: GraphProto,
    node: NodeProto,
    data: str,
    weight: NDArray[Any],
    bias: NDArray[Any],
) -> None:
    """Give `layer` these parameters and the output of `node`, which read its result `data` and goes."""
    onnx = require("onnx")
    old_bias = layer.input[2] if len(layer.input) > 2 else ""
    names = [layer.input[1], old_bias or f"{node.output[0]}_bias"]
    del layer.input[1:]
    taken = graph_reads(graph) | {t.name for t in graph.initializer}
    for old, value in zip(names, (weight, bias), strict=True):
        shared = old in graph_reads(graph)
        name = old
        while shared and name in taken:
            name += "_folded"
        if not shared:
            for tensor in [t for t in graph.initializer if t.name == old]:
                graph.initializer.remove(tensor)
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        layer.input.append(name)
        taken.add(name)
    for item in [a for a in layer.attribute if a.name in ("alpha", "beta") and layer.op_type == "Gemm"]:
        layer.attribute.remove(item)
    output = node.output[0]
    for i, name in enumerate(layer.output):
        if name == data:
            layer.output[i] = output
    graph.node.remove(node)
