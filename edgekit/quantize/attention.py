"""Attention: the products of two activations around a Softmax, and what is between them.

Engines compute the Softmax in float, so integer products need a quantizer for each of four operands and write
float in between. An engine that computes the whole in float as one kernel needs less time for it, unless its
integer multiply-add is several times as fast as the float one.
"""

from __future__ import annotations

from typing import Any

from edgekit.quantize.graph_index import GraphIndex

__all__ = ["attention"]

_BETWEEN = ("Add", "Div", "Identity", "Mul", "Reshape", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where")


def attention(index: GraphIndex) -> set[str]:
    """The nodes of every attention: Softmax, the products before and behind it, and what is between them."""
    found: set[str] = set()
    for node in index.model.graph.node:
        if node.op_type == "Softmax":
            before, behind = _before(index, node), _behind(index, node)
            if before and behind:
                found |= before | behind | {node.name}
    return found


def _before(index: GraphIndex, softmax: Any) -> set[str]:
    """The nodes between a product of two activations and the Softmax, which alone reads it; or nothing."""
    return _path_to_product(index, softmax.input[0])


def _path_to_product(index: GraphIndex, tensor: str) -> set[str]:
    node = index.producer.get(tensor)
    if node is None or index.only_reader(tensor) is None:
        return set()
    if _multiplies_activations(index, node):
        return {node.name}
    paths = [_path_to_product(index, i) for i in node.input] if node.op_type in _BETWEEN else []
    return {node.name}.union(*paths) if any(paths) else set()


def _behind(index: GraphIndex, softmax: Any) -> set[str]:
    """From the Softmax to the product of two activations that alone reads it, or nothing."""
    passed: set[str] = set()
    node = index.only_reader(softmax.output[0])
    while node is not None and node.op_type in _BETWEEN:
        passed.add(node.name)
        node = index.only_reader(node.output[0])
    if node is None or not _multiplies_activations(index, node):
        return set()
    return passed | {node.name}


def _multiplies_activations(index: GraphIndex, node: Any) -> bool:
    return node.op_type == "MatMul" and all(index.is_float_activation(i) for i in node.input)
