"""Constant nodes become initializers: one place for every constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.core.large_tensors import is_hollow
from edgekit.core.packages import require
from edgekit.graph.result import PassResult

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Turn the Constant nodes of the main graph into initializers.

    Before: Constant nodes of any value form but strings and sparse tensors; data in any field.
    After: initializers under the same names, their data in `raw_data`.
    Must not change: values, dtypes, names; Constant nodes inside subgraphs; a Constant that is itself an
    output of the graph.
    """
    onnx = require("onnx")
    graph = model.graph
    outputs = {value.name for value in graph.output}
    lifted: list[TensorProto] = []
    kept: list[NodeProto] = []
    for node in graph.node:
        tensor = _tensor(node) if node.op_type == "Constant" and node.output[0] not in outputs else None
        if tensor is None:
            kept.append(node)
        else:
            lifted.append(tensor)
    packed = [
        t for t in (*graph.initializer, *lifted)
        if not t.HasField("raw_data") and not is_hollow(t) and t.data_type != onnx.TensorProto.STRING
    ]  # fmt: skip
    if not lifted and not packed:
        return PassResult(model=model, modified=False)
    for tensor in packed:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    nodes = [type(n).FromString(n.SerializeToString()) for n in kept]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(lifted)
    return PassResult(model=model, modified=True)


def _tensor(node: NodeProto) -> TensorProto | None:
    onnx = require("onnx")
    item = node.attribute[0]
    tensor: TensorProto
    if item.name == "value":
        tensor = onnx.TensorProto()
        tensor.CopyFrom(item.t)
    elif item.name in ("value_float", "value_floats"):
        value = onnx.helper.get_attribute_value(item)
        tensor = onnx.helper.make_tensor("", onnx.TensorProto.FLOAT, _dims(value), _flat(value))
    elif item.name in ("value_int", "value_ints"):
        value = onnx.helper.get_attribute_value(item)
        tensor = onnx.helper.make_tensor("", onnx.TensorProto.INT64, _dims(value), _flat(value))
    else:
        return None
    tensor.name = node.output[0]
    tensor.ClearField("doc_string")
    return tensor


def _dims(value: object) -> list[int]:
    return [len(value)] if isinstance(value, (list, tuple)) else []


def _flat(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
