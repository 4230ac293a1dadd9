"""Matrix products that quantize their activations at run time, in standard ONNX operators."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.core.packages import require

__all__ = ["dynamic_products"]


def dynamic_products(model: Any) -> tuple[Any, int]:
    """The graph with integer matrix products (a new ModelProto), and how many there are.

    Before: MatMul and plain Gemm that read int8 weights through DequantizeLinear. After:
    DynamicQuantizeLinear (uint8, one scale a tensor), MatMulInteger, and the product of both scales in float;
    ONNX Runtime fuses the three. Weights of other operators stay behind their
    DequantizeLinear. Must not change: inputs, outputs.
    """
    onnx = require("onnx")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    rewriter = _Rewriter(result)
    nodes = []
    for node in model.graph.node:
        nodes += rewriter.product(node) or [node]
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    _drop_unread(result.graph)
    return result, rewriter.count


class _Rewriter:
    def __init__(self, model: Any) -> None:
        self.onnx = require("onnx")
        self.graph = model.graph
        self.constants = {i.name: i for i in self.graph.initializer}
        self.coded = {n.output[0]: n for n in self.graph.node if n.op_type == "DequantizeLinear"}
        self.quantized: set[str] = set()
        self.added: set[str] = set()
        self.count = 0

    def product(self, node: Any) -> list[Any]:
        """The nodes that replace a matrix product; empty when it is none, or not a plain one."""
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        source = self.coded.get(node.input[1]) if node.op_type in ("MatMul", "Gemm") else None
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        if source is None or not plain or attributes.get("transA", 0):
            return []
        if any(a.name == "block_size" and a.i for a in source.attribute):
            return []
        codes, scales = (self.onnx.numpy_helper.to_array(self.constants[n]) for n in source.input[:2])
        if codes.ndim != 2 or codes.dtype != np.int8:
            return []
        transposed = bool(attributes.get("transB", 0))
        side = "transposed" if transposed else "integer"
        weight = self._constant(f"{node.input[1]}/{side}", codes.T if transposed else codes)
        scale = self._constant(f"{node.input[1]}/scales", scales)
        self.count += 1
        x, y = node.input[0], node.output[0]
        nodes = self._quantizer(x)
        final = f"{y}/product" if len(node.input) > 2 and node.input[2] else y
        make = self.onnx.helper.make_node
        integers = [f"{x}/codes", weight, f"{x}/zero_point"]
        nodes += [
            make("MatMulInteger", integers, [f"{y}/sums"], name=node.name or f"{y}/integer"),
            make("Cast", [f"{y}/sums"], [f"{y}/float"], name=f"{y}/float", to=self.onnx.TensorProto.FLOAT),
            make("Mul", [f"{x}/scale", scale], [f"{y}/scale"], name=f"{y}/scale"),
            make("Mul", [f"{y}/float", f"{y}/scale"], [final], name=f"{y}/scaled"),
        ]
        if final != y:
            nodes.append(make("Add", [final, node.input[2]], [y], name=f"{y}/biased"))
        return nodes

    def _quantizer(self, x: str) -> list[Any]:
        if x in self.quantized:
            return []
        self.quantized.add(x)
        outputs = [f"{x}/codes", f"{x}/scale", f"{x}/zero_point"]
        return [self.onnx.helper.make_node("DynamicQuantizeLinear", [x], outputs, name=f"{x}/quantize")]

    def _constant(self, name: str, value: Any) -> str:
        if name not in self.added:
            self.added.add(name)
            tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            self.graph.initializer.append(tensor)
        return name


def _drop_unread(graph: Any) -> None:
    """Remove DequantizeLinear nodes and initializers that nothing reads any more."""
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [n for n in graph.node if n.op_type != "DequantizeLinear" or n.output[0] in read]
    copies = [type(n).FromString(n.SerializeToString()) for n in kept]
    del graph.node[:]
    graph.node.extend(copies)
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    initializers = [i for i in graph.initializer if i.name in read]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
