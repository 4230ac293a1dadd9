"""Functions of one number that LiteRT has no operator for, composed without loss of precision.

Hyperbolic functions keep their relative precision near zero, where XNNPACK's LOG has only its absolute one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import add, apply, div, maximum, minimum, mul, select, sub
from edgekit.backends.tflite.op import Op
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS", "compare", "log1p"]

_LARGE = 1e8  # from here on x * x + 1 is x * x in float32, and x * x is still finite
# erf(x) = x * P(x * x) / Q(x * x) on [-3.925, 3.925], fitted for the least relative error (2e-8)
_ERF_END = 3.925
_ERF_P = (1.1283791065, 0.1905928701, 0.0527691804, 0.0037725114, 0.0002848426, 2.0460336e-06)
_ERF_Q = (1.0, 0.5022412539, 0.1141823530, 0.0149831213, 0.0011638481, 3.8047787e-05)
# log(1 + y) = y * P(y) / Q(y) on [0, 1], fitted the same way (2e-8, a tenth of the rounding in float32)
_LOG_P = (1.0, 0.8671935201, 0.1237643212)
_LOG_Q = (1.0, 1.367191553, 0.4740589261, 0.03109455109)
_ERF_NOTE = "Erf is a rational function; its relative error is at most 5e-7"


def compare(op: Op, kind: str, x: Tensor, y: Tensor) -> Tensor:
    """A comparison: EQUAL, LESS …"""
    return op.emit(kind, [x, y], np.broadcast_shapes(x.shape, y.shape), dtype="bool")


def log1p(op: Op, y: Tensor) -> Tensor:
    """log(1 + y) for y in [0, 1], to the last bits also where y is tiny."""
    return mul(op, y, div(op, _polynomial(op, y, _LOG_P), _polynomial(op, y, _LOG_Q)))


def _any_log1p(op: Op, y: Tensor) -> Tensor:
    """log(1 + y) for y >= 0."""
    one = op.scalar(1.0)
    far = apply(op, "LOG", add(op, one, y))
    return select(op, compare(op, "GREATER", y, one), far, log1p(op, minimum(op, y, one)))


def _polynomial(op: Op, x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Horner's scheme; the constant term comes first."""
    total = op.scalar(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = add(op, mul(op, total, x), op.scalar(coefficient))
    return total


def erf(op: Op) -> None:
    if _ERF_NOTE not in op.builder.graph.notes:
        op.builder.graph.notes.append(_ERF_NOTE)
    x = minimum(op, maximum(op, op.input(), op.scalar(-_ERF_END)), op.scalar(_ERF_END))
    square = mul(op, x, x)
    ratio = div(op, _polynomial(op, square, _ERF_P), _polynomial(op, square, _ERF_Q))
    op.result(mul(op, x, ratio))


def tan(op: Op) -> None:
    x = op.input()
    op.result(div(op, apply(op, "SIN", x), apply(op, "COS", x)))


def _angle(op: Op, y: Tensor, x: Tensor) -> Tensor:
    return op.emit("ATAN2", [y, x], y.shape)


def _other_leg(op: Op, x: Tensor) -> Tensor:
    """sqrt(1 - x * x) as sqrt((1 - x) * (1 + x)), which loses nothing near 1."""
    one = op.scalar(1.0)
    return apply(op, "SQRT", mul(op, sub(op, one, x), add(op, one, x)))


def asin(op: Op) -> None:
    x = op.input()
    op.result(_angle(op, x, _other_leg(op, x)))


def acos(op: Op) -> None:
    x = op.input()
    op.result(_angle(op, _other_leg(op, x), x))


def atan(op: Op) -> None:
    x = op.input()
    op.result(_angle(op, x, op.const(np.ones(x.shape, np.float32))))  # ATAN2 does not broadcast


def sinh(op: Op) -> None:
    """2 t / (1 - t * t) with t = tanh(x / 2) near zero, else (exp(x) - exp(-x)) / 2."""
    x = op.input()
    half = mul(op, x, op.scalar(0.5))
    t = apply(op, "TANH", half)
    near = div(op, add(op, t, t), sub(op, op.scalar(1.0), mul(op, t, t)))
    far = _exponentials(op, x, sub)
    op.result(select(op, compare(op, "LESS", apply(op, "ABS", x), op.scalar(1.0)), near, far))


def cosh(op: Op) -> None:
    op.result(_exponentials(op, op.input(), add))


def _exponentials(op: Op, x: Tensor, combine: Callable[[Op, Tensor, Tensor], Tensor]) -> Tensor:
    """(exp(x) ± exp(-x)) / 2, finite as far as the result is."""
    half = mul(op, x, op.scalar(0.5))
    up, down = apply(op, "EXP", half), apply(op, "EXP", apply(op, "NEG", half))
    up, down = (mul(op, mul(op, side, op.scalar(0.5)), side) for side in (up, down))
    return combine(op, up, down)


def asinh(op: Op) -> None:
    """sign(x) * log1p(a + a * a / (1 + sqrt(a * a + 1))) with a = |x|."""
    x = op.input()
    size = apply(op, "ABS", x)
    near = minimum(op, size, op.scalar(_LARGE))
    square, one = mul(op, near, near), op.scalar(1.0)
    root = add(op, one, apply(op, "SQRT", add(op, square, one)))
    value = _or_large(op, size, _any_log1p(op, add(op, near, div(op, square, root))))
    op.result(mul(op, apply(op, "SIGN", x), value))


def acosh(op: Op) -> None:
    """log1p(t + sqrt(2 t + t * t)) with t = x - 1."""
    x = op.input()
    t = sub(op, minimum(op, x, op.scalar(_LARGE)), op.scalar(1.0))
    root = apply(op, "SQRT", mul(op, t, add(op, t, op.scalar(2.0))))
    op.result(_or_large(op, x, _any_log1p(op, add(op, t, root))))


def _or_large(op: Op, x: Tensor, near: Tensor) -> Tensor:
    """`near`, or log(2 x) beyond the numbers whose square is finite."""
    far = add(op, apply(op, "LOG", x), op.scalar(float(np.log(2))))
    return select(op, compare(op, "GREATER", x, op.scalar(_LARGE)), far, near)


def atanh(op: Op) -> None:
    """sign(x) / 2 * log1p(2 a / (1 - a)) with a = |x|."""
    x = op.input()
    size = apply(op, "ABS", x)
    value = _any_log1p(op, div(op, add(op, size, size), sub(op, op.scalar(1.0), size)))
    op.result(mul(op, mul(op, apply(op, "SIGN", x), op.scalar(0.5)), value))


def is_nan(op: Op) -> None:
    """A number that is not itself."""
    x = op.input()
    op.result(compare(op, "NOT_EQUAL", x, x))


def is_inf(op: Op) -> None:
    x, infinity = op.input(), float("inf")
    if not op.attr("detect_positive", 1):
        op.result(compare(op, "EQUAL", x, op.scalar(-infinity)))
    elif not op.attr("detect_negative", 1):
        op.result(compare(op, "EQUAL", x, op.scalar(infinity)))
    else:
        op.result(compare(op, "EQUAL", apply(op, "ABS", x), op.scalar(infinity)))


OPERATORS = {
    "Erf": Lowering(emit=erf),
    "Tan": Lowering(emit=tan),
    "Asin": Lowering(emit=asin),
    "Acos": Lowering(emit=acos),
    "Atan": Lowering(emit=atan),
    "Sinh": Lowering(emit=sinh),
    "Cosh": Lowering(emit=cosh),
    "Asinh": Lowering(emit=asinh),
    "Acosh": Lowering(emit=acosh),
    "Atanh": Lowering(emit=atanh),
    "IsNaN": Lowering(emit=is_nan),
    "IsInf": Lowering(emit=is_inf),
}
