"""Floats that LiteRT's kernels do not compute with become float32, the ports keep their dtype."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.backends.tflite.ir import Array
from edgekit.core.packages import require

__all__ = ["widen"]

_FLOAT, _HALF, _DOUBLE, _BRAIN = 1, 10, 11, 16  # TensorProto.DataType
_KINDS = {_HALF: "float16", _BRAIN: "bfloat16", _DOUBLE: "float64"}
_DTYPES = ("dtype", "output_datatype", "softmax_precision", "stash_type")  # attributes that name a dtype
_NOTES = {
    _HALF: "float16 is computed in float32, without rounding after each operator",
    _BRAIN: "bfloat16 is computed in float32, without rounding after each operator",
    _DOUBLE: "float64 between operators is computed in float32: a relative error of 6e-8 each",
}


def widen(model: Any, weights: dict[str, Array]) -> tuple[Any, list[str]]:
    """The ModelProto with every tensor of another float dtype in float32; and notes that say so.

    `weights` are initializers whose bytes are kept apart from the model; they are replaced in place.

    Before: x (float16) -> MatMul -> y (float16).
    After: x (float16) -> Cast -> MatMul in float32 -> Cast -> y (float16).
    Must not change: names, dtypes and order of inputs and outputs; a Cast to a narrower dtype still rounds.
    """
    found = sorted({kind for graph in _graphs(model.graph) for kind in _kinds(graph)})
    if not found:
        return model, []
    onnx = require("onnx")
    model = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    ports = [v for v in (*model.graph.input, *model.graph.output) if v.type.tensor_type.elem_type in _KINDS]
    kinds = {port.name: port.type.tensor_type.elem_type for port in ports}
    constants = {tensor.name for tensor in model.graph.initializer}
    for tensor in [t for t in model.graph.initializer if t.name in weights and t.data_type in _KINDS]:
        tensor.data_type, weights[tensor.name] = _FLOAT, weights[tensor.name].astype(np.float32)
    for graph in _graphs(model.graph):
        _widen_graph(graph, types, ports if graph is model.graph else [])
    names = {name: f"{name}/float32" for name in kinds}
    for graph in _graphs(model.graph):
        for node in graph.node:
            _rename(node.input, names)
            _rename(node.output, names)
    make = onnx.helper.make_node
    entries = [v for v in model.graph.input if v.name in kinds and v.name not in constants]
    before = [make("Cast", [v.name], [names[v.name]], to=_FLOAT, name=f"{v.name}/widen") for v in entries]
    after = [
        make("Cast", [names[v.name]], [v.name], to=kinds[v.name], name=f"{v.name}/narrow")
        for v in model.graph.output
        if v.name in kinds
    ]
    nodes = [*before, *model.graph.node, *after]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(copies)
    for value in (v for v in model.graph.output if v.name in kinds):
        inner = model.graph.value_info.add()
        inner.CopyFrom(value)  # a shape that the file declares may not follow from its operators
        inner.name, inner.type.tensor_type.elem_type = names[value.name], _FLOAT
    return model, [_NOTES[kind] for kind in found]


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _kinds(graph: Any) -> Iterator[int]:
    """The dtypes of ports, constants and casts that are to go."""
    values = (*graph.input, *graph.output, *graph.value_info)
    kinds = {v.type.tensor_type.elem_type for v in values} | {t.data_type for t in graph.initializer}
    for node in graph.node:
        kinds |= {a.t.data_type for a in node.attribute if a.HasField("t")}
        kinds |= {a.i for a in node.attribute if a.name in ("to", *_DTYPES)}
    yield from kinds & set(_KINDS)


def _widen_graph(graph: Any, types: dict[str, int], ports: list[Any]) -> None:
    onnx = require("onnx")
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _KINDS and not any(value is port for port in ports):
            value.type.tensor_type.elem_type = _FLOAT
    nodes: list[Any] = []
    for node in graph.node:
        target = _target(node, types)
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if attribute.name in _DTYPES and attribute.i in _KINDS:
                attribute.i = _FLOAT
        if target not in _KINDS:
            nodes.append(node)
            continue
        source, result = node.input[0], node.output[0]
        if target != _DOUBLE:  # rounds, and is wide again
            rounded = f"{result}/{_KINDS[target]}"
            nodes.append(onnx.helper.make_node("Cast", [source], [rounded], to=target, name=rounded))
            source = rounded
        nodes.append(onnx.helper.make_node("Cast", [source], [result], to=_FLOAT, name=node.name))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _target(node: Any, types: dict[str, int]) -> int:
    """The dtype a Cast or CastLike makes; 0 for other nodes."""
    if node.op_type == "Cast":
        return next((int(a.i) for a in node.attribute if a.name == "to"), 0)
    return types.get(node.input[1], 0) if node.op_type == "CastLike" else 0


def _widen_tensor(tensor: Any) -> None:
    if tensor.data_type in _KINDS:
        numpy_helper = require("onnx").numpy_helper
        values = numpy_helper.to_array(tensor).astype("float32")
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _rename(values: Any, names: dict[str, str]) -> None:
    for index, name in enumerate(values):
        if name in names:
            values[index] = names[name]
