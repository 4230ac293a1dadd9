"""LSTM, GRU and RNN as explicit steps over a static sequence, states in and out as tensors.

LiteRT's own LSTM keeps its state in variables between calls, which ONNX does not mean, and has no initial
state. Here nothing persists: the projection of all inputs is one FULLY_CONNECTED, each step adds R·h.

Source of the equations: https://onnx.ai/onnx/operators/onnx__LSTM.html (GRU, RNN).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import (
    add,
    chunks,
    concat,
    cut,
    linear,
    mul,
    select,
    sub,
    view,
)
from edgekit.backends.tflite.lowering.recurrent_activations import Function, functions
from edgekit.backends.tflite.lowering.recurrent_weights import RecurrentWeights, read_weights
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]

MAX_STEPS = 1024  # of both directions together: each is a dozen operators of the file
_SHARED_WEIGHTS = 1 << 19  # elements of R times steps: beyond, the copies no longer fit a cache
MAX_WEIGHTS = 1 << 26  # elements of R times steps: XNNPACK packs a copy for every step

States = list["Tensor | None"]  # None: zeros


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """`parts` splits R by gates; `step` gives the new states from a projected input, (B, part*H) of each."""

    parts: tuple[int, ...]
    states: int
    activations: tuple[str, ...]
    step: Callable[[Op, RecurrentWeights, list[Tensor], States], list[Tensor]]


def _recurrent(cell: _Cell) -> Callable[[Op], None]:
    def emit(op: Op) -> None:
        x = op.input()
        if op.attr("layout", 0):
            x = op.transpose(x, (1, 0, 2))
        directions = op.shape(1)[0]
        _check_size(op, x.shape[0] * directions)
        activations = functions(op, cell.activations, directions)
        ways = [_direction(op, cell, x, index, activations[index]) for index in range(directions)]
        _results(op, ways)

    return emit


def _check_size(op: Op, steps: int) -> None:
    _, rows, hidden = op.shape(2)
    if steps > MAX_STEPS or steps * rows * hidden > MAX_WEIGHTS:
        raise Refusal(
            f"{op.node.op_type} over {steps} steps of {hidden} units",
            f"every step is unrolled: at most {min(MAX_STEPS, MAX_WEIGHTS // (rows * hidden))} of this size; "
            "feed shorter sequences and carry the state",
        )


def _direction(
    op: Op, cell: _Cell, x: Tensor, index: int, activations: list[Function]
) -> tuple[Tensor, list[Tensor]]:
    """Y of one direction, (T, 1, B, H), and its final states, each (1, B, H)."""
    steps, batch, size = x.shape
    weights = read_weights(op, index, parts=cell.parts, peepholes=cell.states == 2, functions=activations)
    states: States = [_initial(op, 5 + i, index) for i in range(cell.states)]
    x = view(op, x, (steps * batch, size))
    # W·x of all steps at once, (T*B, part*H) for each part of the gates: no step has to take them apart.
    rows = [linear(op, x, w, bias) for w, bias in zip(weights.w, weights.biases, strict=True)]
    backward = op.attr("direction", "forward") == "reverse" or index == 1
    outputs: dict[int, Tensor] = {}
    for t in reversed(range(steps)) if backward else range(steps):
        new = cell.step(op, weights, [cut(op, part, 0, t * batch, batch) for part in rows], states)
        outputs[t] = new[0]
        alive = _alive(op, t, steps)
        if alive is not None:
            zeros = op.const(np.zeros(new[0].shape, np.float32))
            outputs[t] = select(op, alive, new[0], zeros)
            new = [select(op, alive, n, zeros if s is None else s) for n, s in zip(new, states, strict=True)]
        states = [*new]
    y = concat(op, [outputs[t] for t in range(steps)], 0)
    final = [view(op, s, (1, batch, weights.hidden)) for s in states if s is not None]
    return view(op, y, (steps, 1, batch, weights.hidden)), final


def _initial(op: Op, number: int, index: int) -> Tensor | None:
    """The state (B, H) of one direction; None for zeros."""
    if not op.has(number):
        return None
    state = op.input(number)
    if state.data is not None and not np.any(state.data):
        return None
    axis = 1 if op.attr("layout", 0) else 0
    one = cut(op, state, axis, index, 1)
    return view(op, one, tuple(dim for i, dim in enumerate(one.shape) if i != axis))


def _alive(op: Op, t: int, steps: int) -> Tensor | None:
    """Which sequences (B, 1) reach step t; None when all do."""
    if not op.has(4):
        return None
    lengths = op.constant(4)
    if lengths is None:
        column = view(op, op.input(4), (*op.shape(4), 1))
        step = op.const(np.asarray([[t]], np.int32))
        return op.emit("LESS", [step, column], column.shape, dtype="bool")
    if int(lengths.min()) < 0 or int(lengths.max()) > steps:
        raise Refusal(f"sequence lengths {lengths.tolist()} of {steps} steps", "correct the model")
    return None if np.all(lengths > t) else op.const((lengths > t).reshape(-1, 1))


def _results(op: Op, ways: Sequence[tuple[Tensor, list[Tensor]]]) -> None:
    last = bool(op.attr("layout", 0))
    for index, name in enumerate(op.step.outputs):
        if not name:
            continue
        if index == 0:
            y = concat(op, [y for y, _ in ways], 1)
            y = op.transpose(y, (2, 0, 1, 3)) if last else y
        else:
            y = concat(op, [states[index - 1] for _, states in ways], 0)
            y = op.transpose(y, (1, 0, 2)) if last else y
        op.result(y, index)


def _recur(op: Op, x: Tensor, h: Tensor | None, r: Tensor) -> Tensor:
    """x + R·h.

    XNNPACK packs a copy of R for every step, and long sequences of wide layers then read all of them from
    memory. With a computed bias, which x is for one sequence, it leaves the operator to LiteRT's own kernel:
    one R for all steps.
    """
    if h is None:
        return x
    steps = op.shape()[1 if op.attr("layout", 0) else 0]
    limit = _SHARED_WEIGHTS * (4 if r.name in op.builder.stored else 1)  # codes are a quarter of floats
    if r.data is None or x.shape[0] != 1 or steps * r.size < limit:
        return add(op, x, linear(op, h, r))
    bias = op.reshape(x, x.shape[1:])
    return op.emit(
        "FULLY_CONNECTED", [h, r, bias], x.shape, keep_num_dims=False, fused_activation_function="NONE"
    )


def _rnn_step(op: Op, weights: RecurrentWeights, x: list[Tensor], states: States) -> list[Tensor]:
    (f,) = weights.functions
    return [f(_recur(op, x[0], states[0], weights.r[0]))]


def _lstm_step(op: Op, weights: RecurrentWeights, x: list[Tensor], states: States) -> list[Tensor]:
    f, g, h = weights.functions
    hidden, cell = states
    gates = _recur(op, x[0], hidden, weights.r[0])
    if not weights.peepholes and not op.attr("input_forget", 0):
        return _plain_lstm_step(op, weights, gates, cell)
    i, o, forget, c = chunks(op, gates, 4)
    i = f(_peep(op, weights, 0, i, cell))
    candidate = mul(op, i, g(c))
    if cell is not None:
        kept = (
            sub(op, op.scalar(1.0), i)
            if op.attr("input_forget", 0)
            else f(_peep(op, weights, 2, forget, cell))
        )
        candidate = add(op, mul(op, kept, cell), candidate)
    o = f(_peep(op, weights, 1, o, candidate))
    return [mul(op, o, h(candidate)), candidate]


def _plain_lstm_step(op: Op, weights: RecurrentWeights, gates: Tensor, cell: Tensor | None) -> list[Tensor]:
    """The step where no gate waits for the memory: one activation for the three of them."""
    f, g, h = weights.functions
    hidden = weights.hidden
    i, o, forget = chunks(op, f(cut(op, gates, -1, 0, 3 * hidden)), 3)
    memory = mul(op, i, g(cut(op, gates, -1, 3 * hidden, hidden)))
    if cell is not None:
        memory = add(op, mul(op, forget, cell), memory)
    return [mul(op, o, h(memory)), memory]


def _peep(op: Op, weights: RecurrentWeights, gate: int, x: Tensor, cell: Tensor | None) -> Tensor:
    if not weights.peepholes or cell is None:
        return x
    return add(op, x, mul(op, cell, weights.peepholes[gate]))


def _gru_step(op: Op, weights: RecurrentWeights, x: list[Tensor], states: States) -> list[Tensor]:
    f, g = weights.functions
    (h,) = states
    r_gates, r_candidate = weights.r
    gates, candidate = x
    z, r = chunks(op, f(_recur(op, gates, h, r_gates)), 2)
    if op.attr("linear_before_reset", 0):
        recurrent = weights.r_bias if h is None else linear(op, h, r_candidate, weights.r_bias)
        if recurrent is not None:
            candidate = add(op, candidate, mul(op, r, op.expand(recurrent, 2)))
    elif h is not None:
        candidate = add(op, candidate, linear(op, mul(op, r, h), r_candidate))
    candidate = g(candidate)
    if h is None:
        return [sub(op, candidate, mul(op, z, candidate))]
    return [add(op, candidate, mul(op, z, sub(op, h, candidate)))]


_RNN = _Cell(parts=(1,), states=1, activations=("Tanh",), step=_rnn_step)
_GRU = _Cell(parts=(2, 1), states=1, activations=("Sigmoid", "Tanh"), step=_gru_step)
_LSTM = _Cell(parts=(4,), states=2, activations=("Sigmoid", "Tanh", "Tanh"), step=_lstm_step)

OPERATORS = {
    "RNN": Lowering(emit=_recurrent(_RNN)),
    "GRU": Lowering(emit=_recurrent(_GRU)),
    "LSTM": Lowering(emit=_recurrent(_LSTM)),
}
