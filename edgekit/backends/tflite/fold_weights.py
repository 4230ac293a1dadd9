"""What exporters put around constant weights goes into them, before anything is planned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgekit.backends.tflite.onnx_graph import Node, OnnxGraph

__all__ = ["fold_weights"]

_SCALE_TOLERANCE = 1e-4  # relative: the scale of an int32 bias that the kernel will use


def fold_weights(graph: OnnxGraph) -> None:
    """Rewrite `graph` in place.

    Before: constant codes -> DequantizeLinear -> Transpose -> MatMul or Gemm (quantization-aware training
    exports it); MatMul with a constant matrix -> Add of a constant row.
    After: transposed codes -> DequantizeLinear; MatMul with a third input, its bias.
    Must not change: values beyond the order of a float sum; names of what is still computed.
    """
    for node in [n for n in graph.nodes if n.op_type == "Transpose"]:
        _transpose_codes(graph, node)
    graph.connect()
    for node in [n for n in graph.nodes if n.op_type == "Add"]:
        if _take_bias(graph, node):
            graph.connect()


def _transpose_codes(graph: OnnxGraph, node: Node) -> None:
    source = graph.writers.get(node.inputs[0])
    if source is None or source.op_type != "DequantizeLinear" or source.inputs[0] not in graph.constants:
        return
    codes = graph.constants[source.inputs[0]]
    perm = [int(axis) for axis in node.attributes.get("perm", range(codes.ndim)[::-1])]
    name = f"{source.inputs[0]}/{node.outputs[0]}"
    graph.constants[name] = np.ascontiguousarray(codes.transpose(perm))
    graph.shapes[name], graph.dtypes[name] = graph.constants[name].shape, graph.dtypes[source.inputs[0]]
    attributes = dict(source.attributes)
    if graph.constants.get(source.inputs[1], np.zeros(())).ndim == 1 and codes.ndim > 1:
        attributes["axis"] = perm.index(int(attributes.get("axis", 1)) % codes.ndim)
    twin = replace(source, name=node.name, inputs=(name, *source.inputs[1:]), outputs=node.outputs)
    graph.nodes[graph.nodes.index(node)] = replace(twin, attributes=attributes)


def _take_bias(graph: OnnxGraph, node: Node) -> bool:
    for product, row in (node.inputs, node.inputs[::-1]):
        matmul = graph.writers.get(product)
        if matmul is None or matmul.op_type != "MatMul" or len(matmul.inputs) > 2:
            continue
        if len(graph.readers[product]) != 1 or product in graph.outputs:
            continue
        if not _is_matrix(graph, matmul.inputs[1]) or not _is_row(graph, row, matmul):
            continue
        graph.nodes[graph.nodes.index(node)] = replace(
            matmul, inputs=(*matmul.inputs, row), outputs=node.outputs, name=matmul.name
        )
        graph.nodes.remove(matmul)
        return True
    return False


def _is_matrix(graph: OnnxGraph, name: str) -> bool:
    writer = graph.writers.get(name)
    if writer is not None and writer.op_type == "DequantizeLinear":
        name = writer.inputs[0]
    return name in graph.constants and graph.constants[name].ndim == 2


def _is_row(graph: OnnxGraph, name: str, matmul: Node) -> bool:
    """Whether this is a constant with one value for each output, stored as the kernel can take it."""
    shape, outputs = graph.shapes[matmul.outputs[0]], graph.shapes[matmul.inputs[1]][-1]
    writer = graph.writers.get(name)
    stored = name
    if writer is not None and writer.op_type == "DequantizeLinear":
        stored = writer.inputs[0]
        if graph.dtypes[stored] == "int32" and not _kernel_scale(graph, writer, matmul):
            return False
    constant = graph.constants.get(stored)
    if constant is None or constant.ndim > len(shape) or constant.shape[-1:] not in ((), (1,), (outputs,)):
        return False
    return constant.size in (1, outputs)


def _kernel_scale(graph: OnnxGraph, bias: Node, matmul: Node) -> bool:
    """Whether an int32 bias has the scale s_x * s_w, the only one that the kernel knows."""
    x, weight = (graph.writers.get(name) for name in matmul.inputs[:2])
    nodes = (x, weight, bias)
    if any(n is None or n.op_type != "DequantizeLinear" for n in nodes):
        return False
    found = [graph.quantizer(n) for n in nodes if n is not None]
    s_x, s_w, s_b = (np.asarray(q.quant.scales if q is not None else np.nan, np.float32) for q in found)
    return bool(np.allclose(s_b, s_x * s_w, rtol=_SCALE_TOLERANCE, atol=0))
