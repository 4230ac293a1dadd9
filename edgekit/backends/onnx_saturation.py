"""Codes that another quantizer chose and that x86 without VNNI cannot multiply exactly.

There u8 * s8 products of two neighbouring inputs are added in 16 saturating bits (VPMADDUBSW). edgekit caps
the codes it chooses pair by pair; a graph that comes with codes keeps them, and its artifact says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["saturating_nodes", "saturation_notes"]

_PAIR = 128  # the largest sum of two neighbouring codes of one sign: 255 * 128 fits 16 signed bits
_ALONE = 64  # the largest code where it is not known which inputs are neighbours
_WEIGHTS = {
    "Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1,
    "QLinearConv": 3, "QLinearMatMul": 3, "ConvInteger": 1, "MatMulInteger": 1,
}  # fmt: skip


def saturation_notes(graph: Any) -> tuple[str, ...]:
    """What the manifest says of a ModelProto's integer weights; () where none can saturate."""
    found = saturating_nodes(graph)
    if not found:
        return ()
    named = ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
    return (
        f"the source's 8-bit weights of {named} can saturate on x86 CPUs without VNNI, which then answer "
        "otherwise than the graph: quantize the float source with edgekit, or its weights to 7 bits",
    )


def saturating_nodes(graph: Any) -> list[str]:
    """The nodes, by name or first output, with constant int8 weights of which two products can saturate."""
    return [node.name or node.output[0] for node, codes in _coded(graph) if _can_saturate(node, codes)]


def _coded(graph: Any) -> Iterator[tuple[Any, Any]]:
    import onnx

    constants = {t.name: t for t in graph.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    for node in graph.graph.node:  # in topological order
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = constants[node.input[0]]
    for node in graph.graph.node:
        place = _WEIGHTS.get(node.op_type)
        if place is not None and node.input[place] in constants:
            yield node, onnx.numpy_helper.to_array(constants[node.input[place]])


def _can_saturate(node: Any, codes: Any) -> bool:
    import numpy as np

    attributes = {a.name: a for a in node.attribute}
    group = attributes["group"].i if "group" in attributes else 1
    if "Conv" in node.op_type and 1 < group == codes.shape[0] and codes.shape[1] == 1:
        return False  # depthwise: one product at a time
    wide = codes.astype(np.int64)
    if "MatMul" in node.op_type:
        wide = np.moveaxis(wide, -2, 0) if wide.ndim > 1 else wide
    elif node.op_type == "Gemm" and not ("transB" in attributes and attributes["transB"].i):
        pass  # (inputs, outputs) already
    elif node.op_type != "ConvTranspose":
        wide = np.moveaxis(wide, 1, 0)
    if len(wide) % 2:
        return bool(np.abs(wide).max(initial=0) > _ALONE)
    return bool(np.abs(wide[0::2] + wide[1::2]).max(initial=0) > _PAIR)
