"""Arithmetic, comparison and selection, element by element with broadcasting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor
from edgekit.backends.tflite.lowering.rules import add_ratios, mul_ratio
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["NARROW", "OPERATORS", "convert", "operands", "unary", "widened"]

_FUSED = ("ADD", "SUB", "MUL", "DIV")
_NUMBERS = ("float32", "int32", "int64")
_VALUES = (*_NUMBERS, "bool")
NARROW = (
    "int8",
    "uint8",
    "int16",
    "uint16",
)  # plain numbers, not codes: the kernels compute with scales here
_WIDER = {**dict.fromkeys(NARROW, "int32"), "uint32": "int64"}
_BYTES = (*_VALUES, *_WIDER)


def operands(op: Op, *indices: int) -> list[Tensor]:
    """The operands brought to one rank; single constants may stay scalars."""
    rank = len(op.out_shape())
    return [op.expand(op.input(index), rank) for index in indices]


def convert(op: Op, x: Tensor, dtype: str) -> Tensor:
    """`x` as another dtype; constants directly, integers that do not fit wrap around."""
    if x.dtype == dtype:
        return x
    if x.data is not None:
        return op.const(x.data.astype(dtype), name=x.name)
    return op.emit("CAST", [x], x.shape, dtype=dtype, in_data_type=x.dtype, out_data_type=dtype)


def widened(op: Op, tensors: list[Tensor]) -> list[Tensor]:
    """Plain numbers of few bits in int32 (uint32 in int64); everything else, codes included, as it is."""
    if op.integer or tensors[0].dtype not in _WIDER:
        return tensors
    return [convert(op, tensor, _WIDER[tensor.dtype]) for tensor in tensors]


def unary(kind: str) -> Callable[[Op], None]:
    """An operator of one float operand."""

    def emit(op: Op) -> None:
        x = op.input()
        op.result(op.emit(kind, [x], x.shape))

    return emit


def binary(kind: str, *, out: str = "") -> Callable[[Op], None]:
    """An operator of two operands of one dtype; `out` fixes the dtype of the result."""

    def emit(op: Op) -> None:
        a, b = widened(op, operands(op, 0, 1))
        options = {"fused_activation_function": op.activation} if kind in _FUSED else {}
        dtype = out or ("" if op.integer else a.dtype)
        y = op.emit(kind, [a, b], op.out_shape(), dtype=dtype, **options)
        op.result(y if out or op.integer else convert(op, y, op.out_dtype()))

    return emit


def variadic(kind: str) -> Callable[[Op], None]:
    """ONNX's Sum, Max and Min of any number of operands, two at a time."""
    return lambda op: op.result(convert(op, _folded(op, kind), op.out_dtype()))


def _folded(op: Op, kind: str) -> Tensor:
    first, *rest = widened(op, operands(op, *range(len(op.node.inputs))))
    for other in rest:
        options = {"fused_activation_function": "NONE"} if kind in _FUSED else {}
        shape = np.broadcast_shapes(first.shape, other.shape)
        first = op.emit(kind, [first, other], shape, dtype=first.dtype, **options)
    return first


def mean(op: Op) -> None:
    """ONNX's Mean of any number of operands."""
    total, count = _folded(op, "ADD"), op.scalar(len(op.node.inputs))
    op.result(op.emit("DIV", [total, count], total.shape, fused_activation_function="NONE"))


def div(op: Op) -> None:
    """Whole numbers are divided towards zero, like ONNX does."""
    a, b = widened(op, operands(op, 0, 1))
    y = op.emit("DIV", [a, b], op.out_shape(), dtype=a.dtype, fused_activation_function=op.activation)
    op.result(convert(op, y, op.out_dtype()))


def power(op: Op) -> None:
    """POW runs outside XNNPACK, so the two common exponents have operators of their own."""
    exponent = op.constant(1)
    x = op.input()
    if x.dtype != "float32":
        op.result(_whole_power(op, x, exponent))
        return
    if exponent is not None and exponent.size == 1 and len(exponent.shape) <= len(x.shape):
        special = {2.0: "SQUARE", 0.5: "SQRT"}.get(float(exponent.item()))
        if special:
            op.result(op.emit(special, [x], x.shape))
            return
    a, b = operands(op, 0, 1)
    op.result(op.emit("POW", [a, convert(op, b, "float32")], op.out_shape()))


def _whole_power(op: Op, x: Tensor, exponent: Array | None) -> Tensor:
    """Products of x, x², x⁴ …, by the bits of a constant exponent: exact as long as the result fits."""
    if exponent is None or np.any(exponent != np.rint(exponent)) or exponent.min() < 0 or exponent.max() > 63:
        why = f"Pow of {x.dtype} by anything but constant whole numbers from 0 to 63"
        raise Refusal(why, "cast the base to float32")
    shape, bits = op.out_shape(), exponent.astype(np.int64)
    bits = bits.reshape((1,) * (len(shape) - bits.ndim) + bits.shape)
    power, ones = op.expand(x, len(shape)), op.const(np.ones((1,) * len(shape), x.dtype))
    total: Tensor | None = None
    for place in range(max(int(bits.max()).bit_length(), 1)):
        if place:
            power = _times(op, power, power)
        chosen = op.const(bits >> place & 1 == 1)
        both = np.broadcast_shapes(power.shape, chosen.shape)
        factor = op.emit("SELECT_V2", [chosen, power, ones], both, dtype=x.dtype)
        total = factor if total is None else _times(op, total, factor)
    assert total is not None
    return total


def _times(op: Op, a: Tensor, b: Tensor) -> Tensor:
    shape = np.broadcast_shapes(a.shape, b.shape)
    return op.emit("MUL", [a, b], shape, dtype=a.dtype, fused_activation_function="NONE")


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
    if x.dtype == "float32" and dtype.startswith("uint"):
        raise Refusal(
            f"Cast of float32 to {dtype}", "cast to int32: the engine and ONNX differ outside its range"
        )
    op.result(convert(op, x, dtype))


def absolute(op: Op) -> None:
    """ABS knows no int64."""
    x = op.input()
    if x.dtype != "int64":
        op.result(op.emit("ABS", [x], x.shape, dtype=x.dtype))
        return
    negative = op.emit("NEG", [x], x.shape, dtype=x.dtype)
    op.result(op.emit("MAXIMUM", [x, negative], x.shape, dtype=x.dtype))


def negate(op: Op) -> None:
    """0 - x for plain bytes, which NEG does not take."""
    (x,) = widened(op, [op.input()])
    op.result(convert(op, op.emit("NEG", [x], x.shape, dtype=x.dtype), op.out_dtype()))


def sign(op: Op) -> None:
    (x,) = widened(op, [op.input()])
    op.result(convert(op, op.emit("SIGN", [x], x.shape, dtype=x.dtype), op.out_dtype()))


def logical_not(op: Op) -> None:
    x = op.input()
    op.result(op.emit("LOGICAL_NOT", [x], x.shape, dtype="bool"))


_UNARY = {
    "Sqrt": "SQRT",
    "Exp": "EXP",
    "Log": "LOG",
    "Floor": "FLOOR",
    "Ceil": "CEIL",
    "Sin": "SIN",
    "Cos": "COS",
    "Round": "ROUND",
}
_COMPARISON = {
    "Less": "LESS",
    "LessOrEqual": "LESS_EQUAL",
    "Greater": "GREATER",
    "GreaterOrEqual": "GREATER_EQUAL",
}
_LOGIC = {"And": "LOGICAL_AND", "Or": "LOGICAL_OR", "Xor": "NOT_EQUAL"}

_ARITHMETIC = (*_NUMBERS, *_WIDER)

OPERATORS = {
    "Add": Lowering(emit=binary("ADD"), integer=add_ratios, fuses=True, dtypes=_ARITHMETIC),
    "Sub": Lowering(emit=binary("SUB"), integer=add_ratios, fuses=True, dtypes=_ARITHMETIC),
    "Mul": Lowering(emit=binary("MUL"), integer=mul_ratio, fuses=True, dtypes=_ARITHMETIC),
    "Div": Lowering(emit=div, fuses=True, dtypes=("float32", "int32", *NARROW)),
    "Pow": Lowering(emit=power, dtypes=_NUMBERS),
    "Reciprocal": Lowering(emit=reciprocal),
    "Max": Lowering(emit=variadic("MAXIMUM"), dtypes=_ARITHMETIC),
    "Min": Lowering(emit=variadic("MINIMUM"), dtypes=_ARITHMETIC),
    "Sum": Lowering(emit=variadic("ADD")),
    "Mean": Lowering(emit=mean),
    "Abs": Lowering(emit=absolute, dtypes=_NUMBERS),
    "Neg": Lowering(emit=negate, dtypes=(*_NUMBERS, "int8", "int16")),
    "Sign": Lowering(emit=sign, dtypes=("float32", "int32", *NARROW)),
    "Where": Lowering(emit=select, dtypes=(*_VALUES, "int8", "uint8", "int16"), data=1),
    "Cast": Lowering(emit=cast, dtypes=(*_BYTES, "float16", "bfloat16")),
    "CastLike": Lowering(emit=cast, dtypes=_BYTES),
    "Not": Lowering(emit=logical_not, dtypes=("bool",)),
    **{name: Lowering(emit=unary(kind)) for name, kind in _UNARY.items()},
    **{
        name: Lowering(emit=binary(kind, out="bool"), dtypes=_ARITHMETIC)
        for name, kind in _COMPARISON.items()
    },
    "Equal": Lowering(emit=binary("EQUAL", out="bool"), dtypes=_BYTES),
    **{name: Lowering(emit=binary(kind, out="bool"), dtypes=("bool",)) for name, kind in _LOGIC.items()},
}
