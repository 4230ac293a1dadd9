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
    """Rewrites one graph; new names end in what they hold and are unique."""

    def __init__(self, model: Any) -> None:
        self.onnx = require("onnx")
        self.graph = model.graph
        self.constants = {i.name: i for i in self.graph.initializer}
        self.coded = {n.output[0]: n for n in self.graph.node if n.op_type == "DequantizeLinear"}
        self.taken = {n for node in self.graph.node for n in (*node.input, *node.output)} | set(
            self.constants
        )
        self.quantized: dict[str, tuple[str, str, str]] = {}
        self.stored: dict[tuple[str, str], str] = {}
        self.count = 0

    def product(self, node: Any) -> list[Any]:
        """The nodes that replace a matrix product; empty when it is none, or not a plain one."""
        weight = self._weight(node)
        if weight is None:
            return []
        self.count += 1
        nodes: list[Any] = []
        codes, x_scale, zero_point = self._quantizer(node.input[0], nodes)
        y, biased = node.output[0], len(node.input) > 2 and bool(node.input[2])
        sums, as_float, scale = (self._unique(f"{y}/{part}") for part in ("sums", "sums_float", "sums_scale"))
        final = self._unique(f"{y}/product") if biased else y
        make = self.onnx.helper.make_node
        nodes += [
            make("MatMulInteger", [codes, weight[0], zero_point], [sums], name=node.name or sums),
            make("Cast", [sums], [as_float], name=as_float, to=self.onnx.TensorProto.FLOAT),
            make("Mul", [x_scale, weight[1]], [scale], name=scale),
            make("Mul", [as_float, scale], [final], name=f"{final}/scaled"),
        ]
        if biased:
            nodes.append(make("Add", [final, node.input[2]], [y], name=f"{y}/biased"))
        return nodes

    def _weight(self, node: Any) -> tuple[str, str] | None:
        """The names of a product's codes, (inputs, outputs), and of their scales; None: it stays float."""
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in self.coded:
            return None
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        source = self.coded[node.input[1]]
        if not plain or attributes.get("transA", 0):
            return None
        if any(a.name == "block_size" and a.i for a in source.attribute):
            return None
        codes, scales = (self.onnx.numpy_helper.to_array(self.constants[n]) for n in source.input[:2])
        if codes.ndim != 2 or codes.dtype != np.int8:
            return None
        kind, value = ("transposed", codes.T) if attributes.get("transB", 0) else ("integer", codes)
        return self._constant(node.input[1], kind, value), self._constant(node.input[1], "scales", scales)

    def _quantizer(self, x: str, nodes: list[Any]) -> tuple[str, str, str]:
        """The names of the codes, scale and zero point of `x`; their node is added once."""
        if x not in self.quantized:
            codes = self._unique(f"{x}/codes")
            names = (codes, self._unique(f"{x}/codes_scale"), self._unique(f"{x}/codes_zero_point"))
            nodes.append(self.onnx.helper.make_node("DynamicQuantizeLinear", [x], names, name=codes))
            self.quantized[x] = names
        return self.quantized[x]

    def _constant(self, weight: str, kind: str, value: Any) -> str:
        if (weight, kind) not in self.stored:
            name = self.stored[weight, kind] = self._unique(f"{weight}/{kind}")
            self.graph.initializer.append(
                self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            )
        return self.stored[weight, kind]

    def _unique(self, name: str) -> str:
        candidate, number = name, 1
        while candidate in self.taken:
            number += 1
            candidate = f"{name}_{number}"
        self.taken.add(candidate)
        return candidate


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
