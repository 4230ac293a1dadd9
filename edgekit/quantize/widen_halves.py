"""Graphs that compute in float16, in float32: quantizers sit on float32 tensors, calibration observes them.

Every value of float16 is one of float32, so weights do not change; what is computed is rounded less often.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgekit.core.packages import require

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto

__all__ = ["widen_halves"]

_HALF, _SINGLE = 10, 1  # TensorProto.FLOAT16, FLOAT
_DTYPE_ATTRIBUTES = ("to", "dtype", "output_datatype", "output_dtype")


def widen_halves(model: ModelProto) -> bool:
    """Let a graph compute in float32 what it computes in float16, in place; False: it has no float16.

    Before: tensors, initializers, attributes and ports of float16, at any depth. After: float32 within, and
    a Cast behind each input and before each output that is float16. Must not change: names, shapes and dtypes
    of inputs and outputs.
    """
    graphs = list(_graphs(model.graph))
    held = [_widened_tensors(graph) for graph in graphs]
    if not any(held):
        return False
    for graph in graphs:
        values = [*graph.value_info, *([*graph.input, *graph.output] if graph is not model.graph else [])]
        for value in values:
            if value.type.tensor_type.elem_type == _HALF:
                value.type.tensor_type.elem_type = _SINGLE
    _cast_ports(model.graph, graphs)
    return True


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inner in (*([item.g] if item.HasField("g") else []), *item.graphs):
                yield from _graphs(inner)


def _widened_tensors(graph: GraphProto) -> bool:
    """Widen the constants and dtype attributes of one graph; whether it held anything of float16."""
    onnx = require("onnx")
    values = (*graph.input, *graph.output, *graph.value_info)
    found = any(v.type.tensor_type.elem_type == _HALF for v in values)
    tensors = list(graph.initializer)
    for node in graph.node:
        for item in node.attribute:
            tensors += [*([item.t] if item.HasField("t") else []), *item.tensors]
            if item.name in _DTYPE_ATTRIBUTES and item.i == _HALF:
                item.i, found = _SINGLE, True
    for tensor in tensors:
        if tensor.data_type == _HALF:
            array = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
            found = True
    return found


def _cast_ports(graph: GraphProto, graphs: list[Any]) -> None:
    onnx = require("onnx")
    made = {o for g in graphs for node in g.node for o in node.output}
    taken = made | {v.name for g in graphs for v in (*g.input, *g.initializer)}
    inputs = {v.name: _free(v.name, taken) for v in graph.input if _is_half(v)}
    outputs = {v.name: _free(v.name, taken) for v in graph.output if _is_half(v) and v.name in made}
    renames = inputs | outputs
    for one in graphs:
        for node in one.node:
            node.input[:] = [renames.get(name, name) for name in node.input]
            node.output[:] = [outputs.get(name, name) for name in node.output]
        if one is not graph:
            for value in one.output:
                value.name = renames.get(value.name, value.name)
    cast = onnx.helper.make_node
    before = [cast("Cast", [old], [new], name=f"{new}_cast", to=_SINGLE) for old, new in inputs.items()]
    behind = [cast("Cast", [new], [old], name=f"{new}_cast", to=_HALF) for old, new in outputs.items()]
    nodes = [*before, *(type(n).FromString(n.SerializeToString()) for n in graph.node), *behind]
    del graph.node[:]
    graph.node.extend(nodes)


def _free(name: str, taken: set[str]) -> str:
    found = f"{name}_float32"
    while found in taken:
        found += "_"
    taken.add(found)
    return found


def _is_half(value: Any) -> bool:
    return bool(value.type.tensor_type.elem_type == _HALF)
