"""QLinearConv, QLinearMatMul and ConvInteger as quantizers around the float operator: what they mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.core.packages import require

__all__ = ["expand_qlinear"]

_EXACT = 256  # products of two codes less their zero points that float32 adds exactly


def expand_qlinear(model: Any) -> Any:
    """The ModelProto without operators that take codes and scales; the one given where it has none.

    Before: QLinearConv(x, x_scale, x_zero, w, …, bias). After: DequantizeLinear of x, w and bias, Conv,
    QuantizeLinear: one integer operator where the parameters are constant.
    Must not change: values beyond one step of the output; names.
    """
    rules = {"QLinearConv": _conv, "QLinearMatMul": _matmul, "ConvInteger": _conv_integer}
    if not any(node.op_type in rules and node.domain in ("", "ai.onnx") for node in model.graph.node):
        return model
    changed = type(model)()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    for node in model.graph.node:
        rule = rules.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        changed.graph.node.extend([node] if rule is None else rule(node, changed.graph))
    return changed


def _make(op_type: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    return require("onnx").helper.make_node(op_type, inputs, [output], name=output, **attributes)


def _again(node: Any, op_type: str, inputs: list[str], output: str) -> Any:
    """The float operator with the node's name and attributes."""
    made = require("onnx").helper.make_node(op_type, inputs, [output], name=node.name)
    made.attribute.extend(node.attribute)
    return made


def _conv(node: Any, graph: Any) -> list[Any]:
    x, xs, xz, w, ws, wz, ys, yz = node.input[:8]
    y = node.output[0]
    nodes = [
        _make("DequantizeLinear", [x, xs, xz], f"{y}/x"),
        _make("DequantizeLinear", [w, ws, wz], f"{y}/w", axis=0),
    ]
    inputs = [f"{y}/x", f"{y}/w"]
    if len(node.input) > 8 and node.input[8]:
        nodes.append(_make("Mul", [xs, ws], f"{y}/bias_scale"))
        nodes.append(_make("DequantizeLinear", [node.input[8], f"{y}/bias_scale"], f"{y}/bias", axis=0))
        inputs.append(f"{y}/bias")
    nodes.append(_again(node, "Conv", inputs, f"{y}/float"))
    return [*nodes, _make("QuantizeLinear", [f"{y}/float", ys, yz], y)]


def _matmul(node: Any, graph: Any) -> list[Any]:
    a, a_scale, a_zero, b, b_scale, b_zero, ys, yz = node.input[:8]
    y = node.output[0]
    return [
        _make("DequantizeLinear", [a, a_scale, a_zero], f"{y}/a", axis=-2),
        _make("DequantizeLinear", [b, b_scale, b_zero], f"{y}/b", axis=-1),
        _again(node, "MatMul", [f"{y}/a", f"{y}/b"], f"{y}/float"),
        _make("QuantizeLinear", [f"{y}/float", ys, yz], y),
    ]


def _conv_integer(node: Any, graph: Any) -> list[Any]:
    """Codes minus zero point are whole numbers, which float32 adds exactly below 2**24."""
    onnx = require("onnx")
    weights = next((t for t in graph.initializer if t.name == node.input[1]), None)
    if weights is None or np.prod(weights.dims[1:]) > _EXACT:
        return [node]
    y = node.output[0]
    one = f"{y}/one"
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(1), one))
    zeros = [node.input[i] if len(node.input) > i else "" for i in (2, 3)]
    return [
        _make("DequantizeLinear", [node.input[0], one, *filter(None, zeros[:1])], f"{y}/x"),
        _make("DequantizeLinear", [node.input[1], one, *filter(None, zeros[1:])], f"{y}/w"),
        _again(node, "Conv", [f"{y}/x", f"{y}/w"], f"{y}/float"),
        _make("Cast", [f"{y}/float"], y, to=int(onnx.TensorProto.INT32)),
    ]
