"""A softmax over one axis is one node again after the conversion of an old opset."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from edgekit.graph.result import PassResult
from edgekit.graph.walk import attribute, dimensions, node_reads

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Undo what the version converter does to Softmax, LogSoftmax and Hardmax below opset 13.

    Before: x -> Flatten(axis=k) -> Softmax(axis=-1) -> Reshape -> y, where y has the shape of x and every
    dimension of x behind k is 1.
    After: x -> Softmax(axis=k) -> y.
    Must not change: a softmax that did run over several dimensions at once; names of outputs.

    Below opset 13 these operators saw their input as a matrix: https://onnx.ai/onnx/operators/onnx__Softmax.html
    Needs the shapes that `infer_shapes` writes down.
    """
    graph = model.graph
    modified = False
    for node in list(graph.node):
        if node.op_type in ("Softmax", "LogSoftmax", "Hardmax") and not node.domain and _restore(node, graph):
            modified = True
    return PassResult(model=model, modified=modified)


def _restore(node: NodeProto, graph: GraphProto) -> bool:
    before = next((n for n in graph.node if node.input[0] in n.output), None)
    after = [n for n in graph.node if node.output[0] in node_reads(n)]
    if before is None or before.op_type != "Flatten" or len(after) != 1 or after[0].op_type != "Reshape":
        return False
    shapes = {v.name: dimensions(v) for v in (*graph.input, *graph.output, *graph.value_info)}
    shape = shapes.get(before.input[0])
    if shape is None or shape != shapes.get(after[0].output[0]) or attribute(node, "axis", -1) not in (-1, 1):
        return False
    axis = attribute(before, "axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    behind = [d for d in shape[axis + 1 :] if isinstance(d, int)]
    if axis >= len(shape) or len(behind) != len(shape) - axis - 1 or prod(behind) != 1:
        return False
    if any(node.output[0] == value.name for value in graph.output):
        return False
    node.input[0] = before.input[0]
    node.output[0] = after[0].output[0]
    del node.attribute[:]
    entry = node.attribute.add()
    entry.name, entry.type, entry.i = "axis", entry.INT, axis
    graph.node.remove(after[0])
    return True
