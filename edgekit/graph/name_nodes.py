"""Every node has a name of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.graph.result import PassResult

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Give a node without a name, or with one already taken, a name made of its operator and its place.

    Before: nodes named "", or two nodes of one name.
    After: unique names, the exporter's own where they were unique; missing ones are "Conv_12": the operator
    and the index of the node in the graph. Attributes are in alphabetical order.
    Must not change: tensor names, order of nodes.
    """
    modified = False
    taken = {node.name for node in model.graph.node if node.name}
    seen: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in seen:
            name = f"{node.name or node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
            modified = True
        seen.add(node.name)
        ordered = sorted(node.attribute, key=lambda a: a.name)
        if [a.name for a in ordered] != [a.name for a in node.attribute]:
            copies = [type(a).FromString(a.SerializeToString()) for a in ordered]
            del node.attribute[:]
            node.attribute.extend(copies)
            modified = True
    return PassResult(model=model, modified=modified)
