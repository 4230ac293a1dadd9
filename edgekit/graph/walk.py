"""Walking an ONNX graph: nodes, subgraphs, names, constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgekit.core.large_tensors import is_hollow, values_aside
from edgekit.core.packages import require

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto

__all__ = [
    "all_graphs",
    "attribute",
    "constants",
    "dimensions",
    "graph_reads",
    "names_in",
    "node_reads",
    "rename_reads",
    "subgraphs",
]

_NO_NAME = {"?": "", "-1": "", "None": ""}  # what exporters write for a dimension without a name


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs in a node's attributes (If, Loop, Scan)."""
    for item in node.attribute:
        if item.HasField("g"):
            yield item.g
        yield from item.graphs


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every graph inside it, outer ones first."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from all_graphs(inner)


def node_reads(node: NodeProto) -> set[str]:
    """Every name a node reads, those that its subgraphs read included."""
    names = {name for name in node.input if name}
    for inner in subgraphs(node):
        names |= graph_reads(inner)
    return names


def graph_reads(graph: GraphProto) -> set[str]:
    """Every name that the nodes or outputs of a graph read."""
    names = {value.name for value in graph.output}
    for node in graph.node:
        names |= node_reads(node)
    return names


def names_in(graph: GraphProto) -> set[str]:
    """Every tensor name defined in the graph or in a graph inside it."""
    names: set[str] = set()
    for g in all_graphs(graph):
        names |= {v.name for v in g.input} | {t.name for t in g.initializer}
        names |= {name for node in g.node for name in node.output if name}
    return names


def rename_reads(graph: GraphProto, renames: dict[str, str]) -> None:
    """Let every node of the graph, and of the graphs inside it, read the new names."""
    for g in all_graphs(graph):
        for node in g.node:
            for i, name in enumerate(node.input):
                if name in renames:
                    node.input[i] = renames[name]
        if g is not graph:
            for value in g.output:
                if value.name in renames:
                    value.name = renames[value.name]


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default the operator's specification gives it."""
    onnx = require("onnx")
    found: list[AttributeProto] = [a for a in node.attribute if a.name == name]
    return onnx.helper.get_attribute_value(found[0]) if found else default


def constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    """Every initializer of the graph as an array, by name; a hollow one is read when it is looked at."""
    onnx = require("onnx")
    return {
        t.name: values_aside(t) if is_hollow(t) else onnx.numpy_helper.to_array(t) for t in graph.initializer
    }


def dimensions(value: ValueInfoProto) -> tuple[int | str, ...] | None:
    """The shape of a tensor: an int for a fixed dimension, a name ("" without one) for a dynamic one.

    A size below 1 counts as dynamic: several exporters write -1 or 0 for it, and "?" where they have no name.
    None when the file does not even give the rank.
    """
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return None
    names = (_NO_NAME.get(d.dim_param, d.dim_param) for d in kind.shape.dim)
    return tuple(d.dim_value if d.dim_value > 0 else n for d, n in zip(kind.shape.dim, names, strict=True))
