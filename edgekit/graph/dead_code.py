"""What no output needs is removed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.graph.result import PassResult
from edgekit.graph.walk import graph_reads, node_reads

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Remove nodes and initializers that no output depends on, and order the initializers by first use.

    Before: nodes and weights that nothing reads, initializers in the order of the exporter.
    After: every node leads to an output; initializers in the order in which nodes read them.
    Must not change: inputs (one that nothing reads stays), outputs, the order of the nodes.
    """
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if any(name in needed for name in node.output if name):
            kept.append(node)
            needed |= node_reads(node)
    modified = len(kept) != len(graph.node)
    if modified:
        nodes = [type(n).FromString(n.SerializeToString()) for n in reversed(kept)]
        del graph.node[:]
        graph.node.extend(nodes)
    order: dict[str, int] = {}
    for node in graph.node:
        for name in (*node.input, *sorted(node_reads(node))):
            order.setdefault(name, len(order))
    for name in graph_reads(graph):
        order.setdefault(name, len(order) + len(graph.output))
    names = [tensor.name for tensor in graph.initializer]
    for place in reversed([i for i, name in enumerate(names) if name not in order]):
        del graph.initializer[place]
    graph.initializer.sort(key=lambda tensor: (order[tensor.name], tensor.name))  # in place, not copied
    modified = modified or names != [tensor.name for tensor in graph.initializer]
    return PassResult(model=model, modified=modified)
