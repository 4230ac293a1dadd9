"""An ONNX file as its graph and its weights, apart: no later step copies the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends.tflite.ir import Array
from edgekit.core.packages import require

__all__ = ["read_apart"]

_WEIGHT_BYTES = 4096  # more than any shape, scale or list of axes takes


def read_apart(path: Path) -> tuple[Any, dict[str, Array]]:
    """The ModelProto, its large initializers without their bytes, and those as arrays by name.

    Every pass over a ModelProto (shape inference, inlining) copies it whole, several times; and a field that
    is cleared keeps its memory until the message goes, so the graph is read back from its own short bytes.
    """
    onnx = require("onnx", needed_for="reading the graph to lower")
    model = onnx.load(str(path))
    kinds = {getattr(onnx.TensorProto, name) for name in ("FLOAT", "FLOAT16", "INT8", "UINT8")}
    weights: dict[str, Array] = {}
    for tensor in model.graph.initializer:
        if tensor.data_type in kinds and len(tensor.raw_data) > _WEIGHT_BYTES:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
            weights[tensor.name] = np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims))
            tensor.ClearField("raw_data")
    return (type(model).FromString(model.SerializeToString()), weights) if weights else (model, weights)
