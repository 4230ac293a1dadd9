"""What a fake-quantized module learned, as the QDQ graph it was made from: nothing is calibrated again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.errors import StepError
from edgekit.train.quantized.graph import Quantized
from edgekit.train.to_graph import written

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["trained_graph"]


def trained_graph(quantized: Quantized) -> ModelProto:
    """The QDQ graph with the codes, scales and float constants that the module holds now.

    Structure, names and zero points are those of the graph the module was made from; before the first step
    of training it is that graph to the last bit, where weights were not shared. Raises `StepError` for values
    that are not finite.
    """
    onnx = require("onnx")
    proto = onnx.ModelProto()
    proto.CopyFrom(quantized.proto)
    nodes = {n.name: n for n in proto.graph.node}
    values: dict[str, NDArray[Any]] = {}
    for name, quantizer in quantized.activations.items():
        values[nodes[name].input[1]] = _array(quantizer.scale)
    for name, quantizer in quantized.weights.items():
        node = nodes[name]
        values[node.input[0]] = _array(quantizer.codes()).astype(np.int8)
        values[node.input[1]] = _array(quantizer.scale)
    for name, quantizer in quantized.biases.items():
        node = nodes[name]
        values[node.input[0]] = _array(quantizer.codes()).astype(np.int32)
        values[node.input[1]] = np.array(_array(quantizer.scale))
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            array = values[tensor.name].reshape(tuple(tensor.dims))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return written(quantized.module, proto, where="training")


def _array(tensor: Any) -> NDArray[Any]:
    array = np.asarray(tensor.detach().cpu().numpy())
    if not np.isfinite(array).all():
        raise StepError(
            "the trained weights or scales are not finite",
            where="training",
            hint="take a lower learning rate",
        )
    return array
