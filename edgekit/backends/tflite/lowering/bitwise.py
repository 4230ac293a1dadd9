"""Bits and remainders of whole numbers.

LiteRT has exclusive or and the arithmetic shift to the right; the rest is arithmetic in int32:
a & b = (a + b - (a ^ b)) / 2, exact as long as a + b fits, so 32-bit numbers go in halves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import add, maximum, mul, select, sub
from edgekit.backends.tflite.lowering.elementwise import NARROW, convert, operands, widened
from edgekit.backends.tflite.lowering.functions import compare
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]


def _whole(op: Op, value: int, like: Tensor) -> Tensor:
    return op.const(np.asarray(value, like.dtype))


def _xor(op: Op, a: Tensor, b: Tensor) -> Tensor:
    return op.emit("BITWISE_XOR", [a, b], np.broadcast_shapes(a.shape, b.shape), dtype=a.dtype)


def _shift_right(op: Op, x: Tensor, bits: int) -> Tensor:
    counts = op.const(np.full((1,) * len(x.shape), bits, x.dtype))
    return op.emit("RIGHT_SHIFT", [x, counts], x.shape, dtype=x.dtype)


def _and(op: Op, a: Tensor, b: Tensor) -> Tensor:
    if op.dtype() in NARROW:
        return _and_half(op, a, b)
    high = _and_half(op, _shift_right(op, a, 16), _shift_right(op, b, 16))
    low = _and_half(op, _low_half(op, a), _low_half(op, b))
    return add(op, mul(op, high, _whole(op, 1 << 16, high)), low)


def _low_half(op: Op, x: Tensor) -> Tensor:
    high = _shift_right(op, x, 16)
    return sub(op, x, mul(op, high, _whole(op, 1 << 16, high)))


def _and_half(op: Op, a: Tensor, b: Tensor) -> Tensor:
    return _shift_right(op, sub(op, add(op, a, b), _xor(op, a, b)), 1)


def _or(op: Op, a: Tensor, b: Tensor) -> Tensor:
    return _xor(op, _xor(op, a, b), _and(op, a, b))


def bitwise(compute: Callable[[Op, Tensor, Tensor], Tensor]) -> Callable[[Op], None]:
    """An operator of two whole numbers."""

    def emit(op: Op) -> None:
        a, b = widened(op, operands(op, 0, 1))
        op.result(convert(op, compute(op, a, b), op.out_dtype()))

    return emit


def bitwise_not(op: Op) -> None:
    """-1 - x."""
    (x,) = widened(op, [op.input()])
    op.result(convert(op, sub(op, _whole(op, -1, x), x), op.out_dtype()))


def bit_shift(op: Op) -> None:
    """To the left: times a power of two, which wraps around in int32 before the bytes are cut off."""
    counts = op.constant(1)
    if counts is None:
        raise Refusal("BitShift by a computed number of bits", "make it constant")
    bits = np.broadcast_to(counts, op.shape()) if counts.ndim <= len(op.shape()) else counts
    (x,) = widened(op, [op.expand(op.input(), len(op.out_shape()))])
    if counts.max() >= 8 * counts.dtype.itemsize:
        raise Refusal(f"BitShift beyond the bits of {counts.dtype}", "shift by fewer")
    if op.attr("direction", "LEFT") == "LEFT":
        y = mul(op, x, op.const((1 << bits.astype(np.int64)).astype(np.int32)))
    else:
        shape = np.broadcast_shapes(x.shape, bits.shape)
        y = op.emit("RIGHT_SHIFT", [x, op.const(bits.astype(x.dtype))], shape, dtype=x.dtype)
    op.result(convert(op, y, op.out_dtype()))


def mod(op: Op) -> None:
    """FLOOR_MOD takes the sign of the divisor; with `fmod` the remainder has that of the dividend."""
    a, b = widened(op, operands(op, 0, 1))
    fmod = bool(op.attr("fmod", 0))
    if a.dtype == "float32" and not fmod:
        raise Refusal("Mod of float32 without fmod", "ONNX defines it with fmod = 1 only")
    shape = op.out_shape()
    if not fmod:
        op.result(convert(op, op.emit("FLOOR_MOD", [a, b], shape, dtype=a.dtype), op.out_dtype()))
        return
    zero = _whole(op, 0, a)
    sizes = [maximum(op, side, sub(op, zero, side)) for side in (a, b)]
    rest = op.emit("FLOOR_MOD", sizes, shape, dtype=a.dtype)
    y = select(op, compare(op, "LESS", a, zero), sub(op, zero, rest), rest)
    op.result(convert(op, y, op.out_dtype()))


_WHOLE = ("int32", *NARROW)

OPERATORS = {
    "BitwiseAnd": Lowering(emit=bitwise(_and), dtypes=_WHOLE),
    "BitwiseOr": Lowering(emit=bitwise(_or), dtypes=_WHOLE),
    "BitwiseXor": Lowering(emit=bitwise(_xor), dtypes=_WHOLE),
    "BitwiseNot": Lowering(emit=bitwise_not, dtypes=("int64", *_WHOLE)),
    "BitShift": Lowering(emit=bit_shift, dtypes=("uint8", "uint16")),
    "Mod": Lowering(emit=mod, dtypes=("float32", "int64", *_WHOLE)),
}
