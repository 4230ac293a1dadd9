"""Operators that a mixture keeps in float32, kept so by the engines, too.

At its basic level ONNX Runtime gives float weights 8 bits, one scale in all, where a Conv, ConvTranspose or
Gemm stands between quantizers with one scale (its WeightBiasQuantization, seen in 1.31.1): what a mixture
spared would be quantized without a word, and worse than it was before. It leaves alone what reads a
DequantizeLinear with a scale for each index of an axis; equal scales there give the same values bit by bit.

OpenVINO averages integers in float and then rounds the averages to 8 bits where a GlobalAveragePool or Mul
reads them (seen in 2026.4.1). It does not where a LeakyRelu of slope 1, which changes nothing, comes first.
"""

from __future__ import annotations

from typing import Any

__all__ = ["keep_averages", "keep_float", "quantized_again"]

_QUANTIZED_BY_FORCE = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # MatMul and Add are made a Gemm first
_PER_AXIS_OPSET = 13


def keep_float(graph: Any) -> int:
    """Let every operator with constant float weights read its quantized data through scales along an axis.

    Edits the ModelProto in place; returns how many operators were changed. Must not change: any value. Where
    every dimension of the data is 1 there is no such axis, and the operator is left as it is.
    """
    scalars, sites = _scalars(graph), _sites(graph)
    opset = next((o.version for o in graph.opset_import if o.domain in ("", "ai.onnx")), 0)
    if not sites or opset < _PER_AXIS_OPSET:
        return 0
    shapes = _shapes(graph)
    made: dict[str, str] = {}
    changed = 0
    for node, writer in sites:
        name = node.input[0]
        axis = next((i for i, size in enumerate(shapes.get(name, ())) if size > 1), None)
        if axis is None:
            continue
        if name not in made:
            made[name] = _along_an_axis(graph, writer, axis, shapes[name][axis], scalars)
        node.input[0] = made[name]
        changed += 1
    _drop_unread(graph, set(made))
    return changed


def quantized_again(graph: Any) -> list[str]:
    """The nodes that `keep_float` had to leave to ONNX Runtime's optimizer, by name."""
    return [node.name for node, _ in _sites(graph)]


def _scalars(graph: Any) -> dict[str, Any]:
    import onnx

    return {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if _is_scalar(t)}


def _sites(graph: Any) -> list[tuple[Any, Any]]:
    """Operators with constant float weights that read a DequantizeLinear with one scale, and that node."""
    import onnx

    floats = {t.name for t in graph.graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    scalars = {t.name for t in graph.graph.initializer if _is_scalar(t)}
    writers = {name: node for node in graph.graph.node for name in node.output}
    sites = []
    for node in graph.graph.node:
        if node.op_type not in _QUANTIZED_BY_FORCE or node.input[1] not in floats:
            continue
        writer = writers.get(node.input[0])
        if writer is None or writer.op_type != "DequantizeLinear":
            continue
        if all(name in scalars for name in writer.input[1:]):
            sites.append((node, writer))
    return sites


def keep_averages(graph: Any) -> int:
    """Put a LeakyRelu of slope 1 in front of every AveragePool whose result is not quantized right away.

    Edits the ModelProto in place; returns how many there were. Must not change: any value.
    """
    import onnx

    readers: dict[str, list[str]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.op_type)
    pools = [
        node
        for node in graph.graph.node
        if node.op_type == "AveragePool" and set(readers.get(node.output[0], ())) - {"QuantizeLinear"}
    ]
    for pool in pools:
        name = f"{pool.output[0]}/kept"
        same = onnx.helper.make_node("LeakyRelu", [pool.input[0]], [name], name=name, alpha=1.0)
        graph.graph.node.insert(list(graph.graph.node).index(pool), same)
        pool.input[0] = name
    return len(pools)


def _drop_unread(graph: Any, names: set[str]) -> None:
    read = {name for node in graph.graph.node for name in node.input} | {o.name for o in graph.graph.output}
    for node in [n for n in graph.graph.node if n.output[0] in names - read]:
        graph.graph.node.remove(node)


def _is_scalar(tensor: Any) -> bool:
    return all(size == 1 for size in tensor.dims)


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    """Known sizes of every value; 0 where a size has a name."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(graph).graph
    return {
        info.name: tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
        for info in (*inferred.input, *inferred.value_info, *inferred.output)
    }


def _along_an_axis(graph: Any, writer: Any, axis: int, size: int, scalars: dict[str, Any]) -> str:
    """A second DequantizeLinear beside `writer`, its scale repeated along `axis`; returns what it writes."""
    import numpy as np
    import onnx

    inputs = [writer.input[0]]
    for name in filter(None, writer.input[1:]):
        repeated = f"{writer.output[0]}/kept/{len(inputs)}"
        array = np.repeat(scalars[name].reshape(1), size)
        graph.graph.initializer.append(onnx.numpy_helper.from_array(array, repeated))
        inputs.append(repeated)
    output = f"{writer.output[0]}/kept"
    twin = onnx.helper.make_node("DequantizeLinear", inputs, [output], name=output, axis=axis)
    place = next(i for i, node in enumerate(graph.graph.node) if writer.output[0] in node.output)
    graph.graph.node.insert(place + 1, twin)
    return output
