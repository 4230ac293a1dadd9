"""A product with constant weights and the bias behind it become one Gemm."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.core.packages import require
from edgekit.graph.result import PassResult
from edgekit.graph.walk import constants, dimensions, node_reads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Join MatMul and the Add of a constant row behind it, weights in float32; the weights are not read.

    Before: x [..., K] -> MatMul(W [K, N]) -> Add(b: one number, or N along the last axis) -> y [..., N]
    After: x [..., K] -> Reshape [-1, K] -> Gemm(W, b [N]) -> Reshape [..., N] -> y; no Reshape for two axes.
    Must not change: a product that something else reads; other readers of W and b; names of outputs; values
    beyond the order of a float sum. Shapes must be inferred.

    Gemm is what int8 kernels of every engine take with its bias; in float16 ONNX Runtime's is a slow one.
    """
    graph = model.graph
    products = {n.output[0]: n for n in graph.node if n.op_type == "MatMul" and not n.domain}
    if not products:
        return PassResult(model=model, modified=False)
    readers: dict[str, int] = dict.fromkeys(products, 0)
    for name in [v.name for v in graph.output] + [name for n in graph.node for name in node_reads(n)]:
        if name in readers:
            readers[name] += 1
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {v.name: dimensions(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    modified = False
    for node in [n for n in graph.node if n.op_type == "Add" and not n.domain]:
        for product, bias in (tuple(node.input), tuple(reversed(node.input))):
            matmul = products.get(product)
            if matmul is None or readers[product] != 1 or bias not in tensors:
                continue
            shape = _fixed(shapes.get(matmul.input[0]))
            if shape is not None and _fits(tensors.get(matmul.input[1]), tensors[bias], shape):
                _fuse(graph, matmul, node, bias, shape, tensors)
                modified = True
                break
    return PassResult(model=model, modified=modified)


def _fixed(dims: tuple[int | str, ...] | None) -> tuple[int, ...] | None:
    sizes = tuple(d for d in dims or () if isinstance(d, int))
    return sizes if dims and len(sizes) == len(dims) else None


def _fits(weight: TensorProto | None, bias: TensorProto, shape: tuple[int, ...]) -> bool:
    """Whether this is a matrix with one bias a column, both in float32, behind rows of features."""
    kind = require("onnx").TensorProto.FLOAT
    if weight is None or len(weight.dims) != 2 or len(shape) < 2:
        return False
    size, last = prod(bias.dims), bias.dims[-1] if bias.dims else 1
    row = last == size and size in (1, weight.dims[1]) and len(bias.dims) <= len(shape)
    return row and weight.data_type == kind and bias.data_type == kind


def _fuse(
    graph: GraphProto,
    matmul: NodeProto,
    add: NodeProto,
    bias: str,
    shape: tuple[int, ...],
    tensors: dict[str, TensorProto],
) -> None:
    """Put what the two nodes compute in the place of the second."""
    onnx = require("onnx")
    x, weight, y = matmul.input[0], matmul.input[1], add.output[0]
    inner, columns = (int(size) for size in tensors[weight].dims)

    def constant(value: NDArray[Any], word: str) -> str:
        name = f"{y}/{word}"
        while name in tensors:
            name += "_"
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        tensors[name] = graph.initializer[-1]
        return name

    if tuple(tensors[bias].dims) != (columns,):
        values = constants(graph)[bias].reshape(-1)
        bias = constant(np.ascontiguousarray(np.broadcast_to(values, (columns,))), "bias")
    make = onnx.helper.make_node
    if len(shape) == 2:
        nodes = [make("Gemm", [x, weight, bias], [y], name=matmul.name)]
    else:
        rows = constant(np.array([-1, inner]), "rows")
        whole = constant(np.array([*shape[:-1], columns]), "whole")
        nodes = [
            make("Reshape", [x, rows], [f"{y}/x"]),
            make("Gemm", [f"{y}/x", weight, bias], [f"{y}/product"], name=matmul.name),
            make("Reshape", [f"{y}/product", whole], [y], name=add.name),
        ]
    place = next(i for i, n in enumerate(graph.node) if n is add or n == add)
    for offset, node in enumerate(nodes):
        graph.node.insert(place + offset, node)
    graph.node.remove(matmul)
    graph.node.remove(add)
