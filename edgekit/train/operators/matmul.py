"""Matrix products: nn.Linear where one side is a constant."""

from __future__ import annotations

from typing import Any

from edgekit.core.packages import require
from edgekit.train.layers import filled
from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "gemm_function"]


def matmul(op: Op) -> Any:
    weight = op.constant(1)
    if weight is not None and weight.ndim == 2 and weight.dtype.kind == "f" and len(op.shape(0)) > 1:
        nn = require("torch").nn
        module = nn.Linear(weight.shape[0], weight.shape[1], bias=False)
        return filled(op, module, op.tensor(0), kind="linear", transposed=1)
    left, right = (_operand(op, i) for i in (0, 1))
    return op.call("matmul", left, right)


def _operand(op: Op, position: int) -> Any:
    """An operand; a constant right one is a weight, a constant left one (a transform) is not."""
    array = op.constant(position)
    if array is None or array.dtype.kind != "f" or position == 0:
        return op.tensor(position)
    return op.builder.parameter(op.name(position), node=op.node.name, position=position)


def gemm(op: Op) -> Any:
    weight, bias = op.constant(1), op.constant(2)
    factors = (op.attribute("alpha", 1.0), op.attribute("beta", 1.0))
    plain = factors == (1.0, 1.0) and not op.attribute("transA", 0)
    outputs = op.output_shape()[1]
    size = op.shape(2) if op.has(2) else (outputs,)
    vector = size == (outputs,) or (bias is not None and bias.size == outputs == size[-1])
    if weight is None or not plain or not vector or (op.has(2) and bias is None):
        arguments = [op.tensor(0), *(_operand(op, i) for i in (1, 2) if op.has(i))]
        if plain and op.attribute("transB", 0) and vector:
            return op.call("nn.functional.linear", *arguments)
        options = {"alpha": op.attribute("alpha", 1.0), "beta": op.attribute("beta", 1.0)}
        turned = {"turn_a": op.attribute("transA", 0), "turn_b": op.attribute("transB", 0)}
        return op.call(gemm_function, *arguments, **options, **turned)
    turned_b = bool(op.attribute("transB", 0))
    inputs = weight.shape[1] if turned_b else weight.shape[0]
    module = require("torch").nn.Linear(inputs, outputs, bias=op.has(2))
    return filled(op, module, op.tensor(0), kind="linear", transposed=int(not turned_b))


def gemm_function(
    a: Any, b: Any, c: Any = None, *, alpha: float, beta: float, turn_a: int, turn_b: int
) -> Any:
    """alpha * a' @ b' + beta * c, as the operator Gemm defines it."""
    product = alpha * ((a.T if turn_a else a) @ (b.T if turn_b else b))
    return product if c is None else product + beta * c


def einsum(op: Op) -> Any:
    return op.call("einsum", op.attribute("equation"), *(_operand(op, i) for i in range(len(op.node.input))))


OPERATORS: dict[str, Emitter] = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum}
