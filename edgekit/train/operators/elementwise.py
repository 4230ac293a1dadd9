"""Arithmetic, comparisons and logic, element by element with broadcasting."""

from __future__ import annotations

from typing import Any

from edgekit.core.packages import require
from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "divide", "modulo", "to_real"]

_PLAIN = {
    "Mul": "mul", "Sub": "sub", "Sqrt": "sqrt", "Exp": "exp", "Log": "log", "Abs": "abs", "Neg": "neg",
    "Reciprocal": "reciprocal", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Sign": "sign",
    "Sin": "sin", "Cos": "cos", "Tan": "tan", "Asin": "asin", "Acos": "acos", "Atan": "atan",
    "Sinh": "sinh", "Cosh": "cosh", "Asinh": "asinh", "Acosh": "acosh", "Atanh": "atanh", "Where": "where",
    "Equal": "eq", "Less": "lt", "LessOrEqual": "le", "Greater": "gt", "GreaterOrEqual": "ge",
    "And": "logical_and", "Or": "logical_or", "Xor": "logical_xor", "Not": "logical_not", "IsNaN": "isnan",
    "Det": "det",
}  # fmt: skip
_WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum")
_DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64",
}  # fmt: skip


def plain(op: Op) -> Any:
    return op.call(_PLAIN[op.type], *op.tensors())


def add(op: Op) -> Any:
    """A sum; a vector added right behind a matrix product or convolution is its bias, and learned."""
    operands = []
    for position in (0, 1):
        array = op.constant(position)
        maker = op.builder.producers.get(op.name(1 - position))
        is_bias = array is not None and array.dtype.kind == "f" and array.size > 1
        if is_bias and array is not None and max(array.shape) == array.size and maker is not None:
            is_bias = maker.op_type in _WEIGHTED
        else:
            is_bias = False
        operands.append(
            op.builder.parameter(op.name(position), node=op.node.name, position=position)
            if is_bias
            else op.tensor(position)
        )
    return op.call("add", *operands)


def divide(a: Any, b: Any) -> Any:
    """a / b; of integers, cut towards zero."""
    return a / b if a.is_floating_point() else a.div(b, rounding_mode="trunc")


def modulo(a: Any, b: Any, *, like_c: bool) -> Any:
    """The remainder, with the sign of `b`, or like C's fmod with that of `a`."""
    return a.fmod(b) if like_c else a.remainder(b)


def emit_div(op: Op) -> Any:
    return op.call(divide, *op.tensors())


def emit_mod(op: Op) -> Any:
    return op.call(modulo, *op.tensors(), like_c=bool(op.attribute("fmod", 0)))


def power(op: Op) -> Any:
    exponent = op.constant(1)
    if exponent is not None and exponent.size == 1:
        return op.call("pow", op.tensor(0), float(exponent.reshape(-1)[0]))
    return op.call("pow", *op.tensors())


def over_all(op: Op) -> Any:
    """Min, Max, Sum and Mean of any number of tensors."""
    name = {"Min": "minimum", "Max": "maximum", "Sum": "add", "Mean": "add"}[op.type]
    first, *rest = op.tensors()
    for other in rest:
        first = op.call(name, first, other)
    return op.call("div", first, len(rest) + 1) if op.type == "Mean" and rest else first


def cast(op: Op) -> Any:
    name = _DTYPES.get(op.attribute("to"))
    if name is None:
        raise op.refuse(f"a cast to the ONNX type {op.attribute('to')}")
    if name == "float32":
        return op.call(to_real, op.tensor(0))
    return op.call("Tensor.to", op.tensor(0), getattr(require("torch"), name))


def to_real(x: Any) -> Any:
    """x in torch's default float type: float32, unless the whole network computes in another."""
    import torch

    return x.to(torch.get_default_dtype())


def identity(op: Op) -> Any:
    return op.tensor(0)


OPERATORS: dict[str, Emitter] = {
    **dict.fromkeys(_PLAIN, plain),
    "Add": add,
    "Div": emit_div,
    "Mod": emit_mod,
    "Pow": power,
    "Min": over_all,
    "Max": over_all,
    "Sum": over_all,
    "Mean": over_all,
    "Cast": cast,
    "Identity": identity,
    "Dropout": identity,
}
