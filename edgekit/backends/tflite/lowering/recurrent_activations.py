"""The activation functions that ONNX names in LSTM, GRU and RNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import add, apply, div, maximum, minimum, mul, select
from edgekit.backends.tflite.op import Op, Refusal

__all__ = ["Function", "functions"]

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Formula:
    """`emit(op, x, alpha, beta)`; a default of None: the function has no such parameter."""

    emit: Callable[[Op, Tensor, float, float], Tensor]
    alpha: float | None = None
    beta: float | None = None


def _affine(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    scaled = x if alpha == 1.0 else mul(op, x, op.scalar(alpha))
    return scaled if beta == 0.0 else add(op, scaled, op.scalar(beta))


def _scaled_tanh(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha * tanh(beta * x)."""
    return _affine(op, apply(op, "TANH", _affine(op, x, beta, 0.0)), alpha, 0.0)


def _hard_sigmoid(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    """clip(alpha * x + beta, 0, 1)."""
    return minimum(op, maximum(op, _affine(op, x, alpha, beta), op.scalar(0.0)), op.scalar(1.0))


def _leaky_relu(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    return op.emit("LEAKY_RELU", [x], x.shape, alpha=alpha)


def _thresholded_relu(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    """x where it is above alpha, else 0."""
    above = op.emit("GREATER", [x, op.scalar(alpha)], x.shape, dtype="bool")
    return select(op, above, x, op.scalar(0.0))


def _elu(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    """max(x, 0) + alpha * elu(min(x, 0))."""
    if alpha == 1.0:
        return apply(op, "ELU", x)
    negative = apply(op, "ELU", minimum(op, x, op.scalar(0.0)))
    return add(op, apply(op, "RELU", x), mul(op, negative, op.scalar(alpha)))


def _softsign(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    """x / (1 + |x|)."""
    return div(op, x, add(op, apply(op, "ABS", x), op.scalar(1.0)))


def _softplus(op: Op, x: Tensor, alpha: float, beta: float) -> Tensor:
    """max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    grown = add(op, apply(op, "EXP", apply(op, "NEG", apply(op, "ABS", x))), op.scalar(1.0))
    return add(op, apply(op, "RELU", x), apply(op, "LOG", grown))


# Defaults of alpha and beta: those of the ONNX operators of the same names.
_FORMULAS = {
    "relu": _Formula(emit=lambda op, x, alpha, beta: apply(op, "RELU", x)),
    "tanh": _Formula(emit=lambda op, x, alpha, beta: apply(op, "TANH", x)),
    "sigmoid": _Formula(emit=lambda op, x, alpha, beta: apply(op, "LOGISTIC", x)),
    "softsign": _Formula(emit=_softsign),
    "softplus": _Formula(emit=_softplus),
    "affine": _Formula(emit=_affine, alpha=1.0, beta=0.0),
    "leakyrelu": _Formula(emit=_leaky_relu, alpha=0.01),
    "thresholdedrelu": _Formula(emit=_thresholded_relu, alpha=1.0),
    "scaledtanh": _Formula(emit=_scaled_tanh, alpha=1.0, beta=1.0),
    "hardsigmoid": _Formula(emit=_hard_sigmoid, alpha=0.2, beta=0.5),
    "elu": _Formula(emit=_elu, alpha=1.0),
}


def functions(op: Op, defaults: Sequence[str], directions: int) -> list[list[Function]]:
    """For each direction its functions, in ONNX's order, with the clip of the node before each.

    The clip is that of the gates: LSTM's third function, of the memory, sees none (as in ONNX Runtime).
    `activation_alpha` and `activation_beta` are consumed in order by the functions that have such parameters.
    """
    names = list(op.attr("activations", ())) or [*defaults] * directions
    names = [name.decode() if isinstance(name, bytes) else name for name in names]
    if len(names) != len(defaults) * directions:
        raise Refusal(
            f"{len(names)} activations, {len(defaults) * directions} are needed", "name one for each gate"
        )
    alphas, betas = iter(op.attr("activation_alpha", ())), iter(op.attr("activation_beta", ()))
    found: list[Function] = []
    size = len(defaults)
    for name in names:
        formula = _FORMULAS.get(name.lower())
        if formula is None:
            raise Refusal(f"the activation {name!r} is none of ONNX's", f"allowed: {', '.join(_FORMULAS)}")
        alpha = 0.0 if formula.alpha is None else float(next(alphas, formula.alpha))
        beta = 0.0 if formula.beta is None else float(next(betas, formula.beta))
        clip = float(op.attr("clip", 0.0)) if len(found) % size < 2 else 0.0
        found.append(_function(op, formula, alpha, beta, clip))
    return [found[i * size : (i + 1) * size] for i in range(directions)]


def _function(op: Op, formula: _Formula, alpha: float, beta: float, clip: float) -> Function:
    def call(x: Tensor) -> Tensor:
        if clip > 0.0:
            x = minimum(op, maximum(op, x, op.scalar(-clip)), op.scalar(clip))
        return formula.emit(op, x, alpha, beta)

    return call
