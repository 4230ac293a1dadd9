"""Which channel each value of a flattened tensor comes from, whatever order its axes were brought to."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.graph.walk import dimensions

__all__ = ["flattened_channels"]

_MOVES = ("Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")


def flattened_channels(model: Any, tensor: str, count: int) -> NDArray[np.int64] | None:
    """The channel, 0 to `count` - 1, of every place of the last axis of `tensor`, an ONNX model's.

    Moves are followed upwards to the tensor [n, count, ...] that they start from. Frameworks that keep
    channels last write a Transpose before they flatten: neighbours then come from different channels, else
    from one. None: `tensor` is moved from no such tensor, or its places do not belong to one channel each.
    """
    onnx = require("onnx", needed_for="pruning")
    producer = {o: node for node in model.graph.node for o in node.output}
    shapes = {v.name: dimensions(v) for v in (*model.graph.input, *model.graph.value_info)}
    path: list[Any] = []
    start = tensor
    while start in producer and producer[start].op_type in _MOVES:
        path.insert(0, producer[start])
        start = producer[start].input[0]
    shape = [d for d in shapes.get(start) or () if isinstance(d, int)]
    if not path or len(shape) < 2 or shape[1] != count or len(shape) != len(shapes[start] or ()):
        return None
    labels = np.broadcast_to(np.arange(count).reshape(1, -1, *[1] * (len(shape) - 2)), shape)
    used = {name for node in path for name in node.input}
    graph = onnx.helper.make_graph(
        path, "moves", [onnx.helper.make_tensor_value_info(start, onnx.TensorProto.INT64, shape)],
        [onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.INT64, None)],
        initializer=[t for t in model.graph.initializer if t.name in used],
    )  # fmt: skip
    moves = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    run = require("onnx.reference", needed_for="pruning").ReferenceEvaluator(moves).run
    found = np.asarray(run(None, {start: labels.astype(np.int64)})[0])
    rows = found.reshape(-1, found.shape[-1])
    return rows[0] if (rows == rows[0]).all() else None
