"""Constant nodes become initializers: one place for every constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(t), t.name)
        for t in (*graph.initializer, *lifted)
        if not t.HasField("raw_data") and t.data_type != onnx.TensorProto.STRING
    ]
    if not lifted and not packed:
        return PassResult(model=model, modified=False)
    by_name = {t.name: t for t in packed}
    tensors = [by_name.get(t.name, t) for t in (*graph.initializer, *lifted)]
    copies = [type(t).FromString(t.SerializeToString()) for t in tensors]
    nodes = [type(n).FromString(n.SerializeToString()) for n in kept]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(copies)
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
