"""Arithmetic, comparison and selection, element by element with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.rules import add_ratios, mul_ratio
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS", "operands"]

_FUSED = ("ADD", "SUB", "MUL", "DIV")
_NUMBERS = ("float32", "int32", "int64")
_VALUES = (*_NUMBERS, "bool")
_BYTES = (*_VALUES, "int8", "uint8")


def operands(op: Op, *indices: int) -> list[Tensor]:
    """The operands brought to one rank; single constants may stay scalars."""
    rank = len(op.out_shape())
    return [op.expand(op.input(index), rank) for index in indices]


def unary(kind: str) -> Callable[[Op], None]:
    """An operator of one float operand."""

    def emit(op: Op) -> None:
        x = op.input()
        op.result(op.emit(kind, [x], x.shape))

    return emit


def binary(kind: str, *, out: str = "") -> Callable[[Op], None]:
    """An operator of two operands of one dtype; `out` fixes the dtype of the result."""

    def emit(op: Op) -> None:
        a, b = operands(op, 0, 1)
        options = {"fused_activation_function": op.activation} if kind in _FUSED else {}
        dtype = out or ("" if op.integer else a.dtype)
        op.result(op.emit(kind, [a, b], op.out_shape(), dtype=dtype, **options))

    return emit


def variadic(kind: str) -> Callable[[Op], None]:
    """ONNX's Sum, Max and Min of any number of operands, two at a time."""

    def emit(op: Op) -> None:
        first, *rest = operands(op, *range(len(op.node.inputs)))
        for other in rest:
            options = {"fused_activation_function": "NONE"} if kind in _FUSED else {}
            shape = np.broadcast_shapes(first.shape, other.shape)
            first = op.emit(kind, [first, other], shape, dtype=first.dtype, **options)
        op.result(first)

    return emit


def div(op: Op) -> None:
    a, b = operands(op, 0, 1)
    op.result(op.emit("DIV", [a, b], op.out_shape(), dtype=a.dtype, fused_activation_function=op.activation))


def power(op: Op) -> None:
    """POW runs outside XNNPACK, so the two common exponents have operators of their own."""
    exponent = op.constant(1)
    x = op.input()
    if exponent is not None and exponent.size == 1 and len(exponent.shape) <= len(x.shape):
        special = {2.0: "SQUARE", 0.5: "SQRT"}.get(float(exponent.item()))
        if special:
            op.result(op.emit(special, [x], x.shape))
            return
    a, b = operands(op, 0, 1)
    if b.dtype != "float32":
        if b.data is None:
            raise Refusal(f"Pow with a computed {b.dtype} exponent", "cast the exponent to float32")
        b = op.const(b.data.astype(np.float32), name=b.name)
    op.result(op.emit("POW", [a, b], op.out_shape()))


def reciprocal(op: Op) -> None:
    x = op.input()
    op.result(op.emit("DIV", [op.scalar(1.0), x], x.shape, fused_activation_function="NONE"))


def select(op: Op) -> None:
    condition, a, b = operands(op, 0, 1, 2)
    op.result(op.emit("SELECT_V2", [condition, a, b], op.out_shape(), dtype=a.dtype))


def cast(op: Op) -> None:
    x, dtype = op.input(), op.out_dtype()
    if x.dtype == dtype:
        op.result(x)
        return
    if x.dtype == "float32" and dtype == "uint8":
        raise Refusal("Cast of float32 to uint8", "cast to int32: the engine and ONNX differ outside 0..255")
    op.result(op.emit("CAST", [x], x.shape, dtype=dtype, in_data_type=x.dtype, out_data_type=dtype))


def logical_not(op: Op) -> None:
    x = op.input()
    op.result(op.emit("LOGICAL_NOT", [x], x.shape, dtype="bool"))


_UNARY = {
    "Sqrt": "SQRT",
    "Exp": "EXP",
    "Log": "LOG",
    "Neg": "NEG",
    "Abs": "ABS",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Sin": "SIN",
    "Cos": "COS",
    "Round": "ROUND",
    "Sign": "SIGN",
}
_COMPARISON = {
    "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL",
    "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL",
}
_LOGIC = {"And": "LOGICAL_AND", "Or": "LOGICAL_OR"}

OPERATORS = {
    "Add": Lowering(emit=binary("ADD"), integer=add_ratios, fuses=True, dtypes=_NUMBERS),
    "Sub": Lowering(emit=binary("SUB"), integer=add_ratios, fuses=True, dtypes=_NUMBERS),
    "Mul": Lowering(emit=binary("MUL"), integer=mul_ratio, fuses=True, dtypes=_NUMBERS),
    "Div": Lowering(emit=div, fuses=True, dtypes=("float32", "int32")),
    "Pow": Lowering(emit=power),
    "Reciprocal": Lowering(emit=reciprocal),
    "Max": Lowering(emit=variadic("MAXIMUM"), dtypes=_NUMBERS),
    "Min": Lowering(emit=variadic("MINIMUM"), dtypes=_NUMBERS),
    "Sum": Lowering(emit=variadic("ADD")),
    "Where": Lowering(emit=select, dtypes=_VALUES, data=1),
    "Cast": Lowering(emit=cast, dtypes=_BYTES),
    "Not": Lowering(emit=logical_not, dtypes=("bool",)),
    **{name: Lowering(emit=unary(kind)) for name, kind in _UNARY.items()},
    **{name: Lowering(emit=binary(kind, out="bool"), dtypes=_NUMBERS) for name, kind in _COMPARISON.items()},
    "Equal": Lowering(emit=binary("EQUAL", out="bool"), dtypes=_VALUES),
    **{name: Lowering(emit=binary(kind, out="bool"), dtypes=("bool",)) for name, kind in _LOGIC.items()},
}
