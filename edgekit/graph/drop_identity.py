"""Nodes that pass their input through disappear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.graph.result import PassResult
from edgekit.graph.walk import constants, graph_reads, node_reads, rename_reads

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Remove Identity, and Dropout in inference mode, from the main graph.

    Before: x -> Identity -> y -> Conv
    After: x -> Conv; where y is an output of the model, the node that made x makes y.
    Must not change: names of inputs and outputs (an Identity between an input, or another output, and an
    output stays); Dropout in training mode or whose mask is read; subgraphs' own nodes.
    """
    graph = model.graph
    modified = False
    for node in list(graph.node):
        if _passes_through(node, graph) and _remove(node, graph):
            modified = True
    return PassResult(model=model, modified=modified)


def _passes_through(node: NodeProto, graph: GraphProto) -> bool:
    if node.op_type == "Identity" and not node.domain:
        return bool(node.input[0])
    if node.op_type != "Dropout" or node.domain:
        return False
    if len(node.output) > 1 and node.output[1] and node.output[1] in graph_reads(graph):
        return False
    if len(node.input) > 2 and node.input[2]:
        training = constants(graph).get(node.input[2])
        return training is not None and not training.any()
    return True


def _remove(node: NodeProto, graph: GraphProto) -> bool:
    source, target = node.input[0], node.output[0]
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
