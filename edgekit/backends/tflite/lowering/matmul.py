"""Gemm and MatMul: FULLY_CONNECTED where one side is constant, BATCH_MATMUL where both are computed."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import product, view
from edgekit.backends.tflite.lowering.rules import MAX_REQUANTIZATION, quantized, weighted
from edgekit.backends.tflite.lowering.weights import bias_tensor
from edgekit.backends.tflite.op import Op, Weight
from edgekit.backends.tflite.plan import Lowering, Site

__all__ = ["OPERATORS"]


def gemm(op: Op) -> None:
    alpha, beta = op.attr("alpha", 1.0), op.attr("beta", 1.0)
    x = op.input()
    if op.attr("transA", 0):
        x = op.transpose(x, (1, 0))
    if not op.known(1):
        _computed_gemm(op, x, alpha, beta)
        return
    weight = op.weight(1)
    if not op.attr("transB", 0):
        weight = weight.transpose((1, 0))
    if alpha != 1.0:
        weight = Weight(values=(weight.values * np.float32(alpha)).astype(np.float32))
    bias = op.constant(2)
    shape, outputs = op.out_shape(), op.out_shape()[1]
    row = (
        op.has(2)
        and bias is not None
        and bias.size in (1, outputs)
        and bias.shape[-1:] in ((), (1,), (outputs,))
    )
    if (row and beta == 1.0) or not op.has(2):
        op.result(
            _fully_connected(op, x, weight, bias_tensor(op, 2, x=x, weight=weight, count=outputs), shape)
        )
        return
    y = _fully_connected(op, x, weight, None, shape, activation="NONE")
    op.result(_add_scaled(op, y, beta))


def _add_scaled(op: Op, y: Tensor, beta: float) -> Tensor:
    """y + beta * C for a C that is no plain row (float only: the integer rule asks for a row)."""
    bias = op.constant(2)
    if bias is not None:
        c = op.const((bias * np.float32(beta)).astype(np.float32), name=op.node.inputs[2])
    else:
        c = op.input(2)
        if beta != 1.0:
            c = op.emit("MUL", [c, op.scalar(beta)], c.shape, fused_activation_function="NONE")
    return op.emit("ADD", [y, op.expand(c, 2)], y.shape, fused_activation_function=op.activation)


def _computed_gemm(op: Op, x: Tensor, alpha: float, beta: float) -> None:
    other = op.input(1)
    product = op.emit(
        "BATCH_MATMUL", [x, other], op.out_shape(), adj_x=False, adj_y=bool(op.attr("transB", 0))
    )
    if alpha != 1.0:
        product = op.emit("MUL", [product, op.scalar(alpha)], product.shape, fused_activation_function="NONE")
    op.result(_add_scaled(op, product, beta) if op.has(2) else product)


def _fully_connected(
    op: Op, x: Tensor, weight: Weight, bias: Tensor | None, shape: tuple[int, ...], *, activation: str = ""
) -> Tensor:
    filters = op.const(weight.values, weight.quant, name=op.node.inputs[1])
    return op.emit(
        "FULLY_CONNECTED",
        [x, filters, bias] if bias is not None else [x, filters],
        shape,
        keep_num_dims=len(shape) != 2,
        fused_activation_function=activation or op.activation,
    )


def matmul(op: Op) -> None:
    a, b = op.shape(0), op.shape(1)
    x, shape = op.input(0), op.out_shape()
    if op.constant(1) is not None and len(b) <= 2:
        weight = op.weight(1)
        weight = weight.transpose((1, 0)) if len(b) == 2 else weight.reshape((1, -1), axis=0)
        if len(a) == 1:
            x = op.reshape(x, (1, *a))
        inner = (*x.shape[:-1], weight.values.shape[0])
        bias = bias_tensor(op, 2, x=x, weight=weight, count=inner[-1])
        op.result(op.reshape(_fully_connected(op, x, weight, bias, inner), shape))
        return
    other = op.input(1)
    if len(a) == 1:
        x = view(op, x, (1, *a))
    if len(b) == 1:
        other = view(op, other, (*b, 1))
    op.result(op.reshape(product(op, x, other), shape))


def _gemm_rule(site: Site) -> bool:
    attributes, bias = site.node.attributes, site.constant(2)
    if attributes.get("alpha", 1.0) != 1.0 or (bias is not None and attributes.get("beta", 1.0) != 1.0):
        return False
    codes = site.constant(1)
    if codes is None or (len(site.node.inputs) > 2 and site.node.inputs[2] and bias is None):
        return False
    outputs = codes.shape[0 if attributes.get("transB", 0) else 1]
    if bias is not None and (bias.size not in (1, outputs) or bias.shape[-1:] not in ((), (1,), (outputs,))):
        return False
    return weighted(lambda s: 0 if s.node.attributes.get("transB", 0) else 1)(site)


def _matmul_rule(site: Site) -> bool:
    codes = site.constant(1)
    if codes is not None:
        weight = site.inputs[1]
        plain = codes.ndim == 2 or (codes.ndim == 1 and weight is not None and len(weight.scales) == 1)
        return plain and weighted(lambda s: 1)(site)
    a, b, y = site.inputs[0], site.inputs[1], site.output
    if a is None or b is None or y is None or not quantized(site, 0, 1):
        return False
    return a.scale * b.scale / y.scale < MAX_REQUANTIZATION


OPERATORS = {
    "Gemm": Lowering(emit=gemm, integer=_gemm_rule, fuses=True),
    "MatMul": Lowering(emit=matmul, integer=_matmul_rule, fuses=True),
}
