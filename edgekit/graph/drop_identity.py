"""Nodes that pass their input through disappear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.core.packages import require
from edgekit.graph.result import PassResult
from edgekit.graph.walk import constants, graph_reads, node_reads, rename_reads

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Remove Identity, Dropout in inference mode, and Max with -inf or Min with inf, from the main graph.

    Before: x -> Identity -> y -> Conv; or Max(-inf, x), which JAX writes behind every ReduceMax, in its place
    After: x -> Conv; where y is an output of the model, the node that made x makes y.
    Must not change: names of inputs and outputs (an Identity between an input, or another output, and an
    output stays); Dropout in training mode or whose mask is read; subgraphs' own nodes.
    """
    graph = model.graph
    modified = False
    for node in list(graph.node):
        source = _passed_through(node, graph)
        if source and _remove(node, source, graph):
            modified = True
    return PassResult(model=model, modified=modified)


def _passed_through(node: NodeProto, graph: GraphProto) -> str:
    """The input that the node's output equals; "" when it is none."""
    if node.domain:
        return ""
    if node.op_type in ("Max", "Min"):
        return _unlimited(node, graph)
    if node.op_type == "Identity":
        return str(node.input[0])
    if node.op_type != "Dropout":
        return ""
    if len(node.output) > 1 and node.output[1] and node.output[1] in graph_reads(graph):
        return ""
    if len(node.input) > 2 and node.input[2]:
        training = constants(graph).get(node.input[2])
        return str(node.input[0]) if training is not None and not training.any() else ""
    return str(node.input[0])


def _unlimited(node: NodeProto, graph: GraphProto) -> str:
    """The other operand, where one is a scalar that limits nothing (a NaN passes either way)."""
    onnx = require("onnx")
    scalars = {t.name: t for t in graph.initializer if t.name in node.input and not t.dims}
    limit = -np.inf if node.op_type == "Max" else np.inf
    others = [i for i in node.input if i not in scalars or onnx.numpy_helper.to_array(scalars[i]) != limit]
    return others[0] if len(others) == 1 and len(node.input) == 2 else ""


def _remove(node: NodeProto, source: str, graph: GraphProto) -> bool:
    target = node.output[0]
    outputs = {value.name for value in graph.output}
    if target not in outputs:
        rename_reads(graph, {target: source})
        graph.node.remove(node)
        return True
    makers = [n for n in graph.node if source in n.output and n is not node]
    if not makers or source in outputs:
        return False  # an input, a constant or another output: the name must stay
    graph.node.remove(node)
    rename_reads(graph, {source: target})
    for i, name in enumerate(makers[0].output):
        if name == source:
            makers[0].output[i] = target
    # a node between the maker and the Identity may now come before nothing it needs: order is unchanged
    assert all(source not in node_reads(n) for n in graph.node)
    return True
