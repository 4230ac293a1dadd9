"""Recurrent layers: nn.LSTM, nn.GRU and nn.RNN over (steps, batch, features)."""

from __future__ import annotations

import operator
from typing import Any

from edgekit.core.packages import require
from edgekit.train import gates
from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "over_directions", "state_of"]

_DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def over_directions(y: Any, directions: int) -> Any:
    """(steps, batch, directions * hidden) as (steps, directions, batch, hidden)."""
    return y.reshape(*y.shape[:2], directions, -1).transpose(1, 2)


def state_of(state: Any, x: Any) -> Any:
    """An initial state (directions, 1 or batch, hidden) for the batch of x (steps, batch, features)."""
    return state.expand(state.shape[0], x.shape[1], state.shape[2])


def recurrent(op: Op) -> Any:
    _check(op)
    nn = require("torch").nn
    kind = op.type.lower()
    arrays = {i: array for i in (1, 2, 3) if (array := op.constant(i)) is not None}
    directions, _, features = arrays[1].shape
    hidden = arrays[2].shape[2]
    more = {"nonlinearity": "relu" if "Relu" in _activations(op) else "tanh"} if kind == "rnn" else {}
    module = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](
        features, hidden, bias=op.has(3), bidirectional=directions == 2, **more
    )
    gates.fill(module, kind, arrays)
    backwards = op.attribute("direction", "forward") == "reverse"
    x = op.tensor(0)
    x = op.call("flip", x, [0]) if backwards else x
    result = op.module(module, x, *_initial(op, x), kind=kind, inputs=(1, 2, 3))
    y, last = (op.call(operator.getitem, result, i) for i in (0, 1))
    y = op.call(over_directions, y, directions)
    y = op.call("flip", y, [0]) if backwards else y
    if kind != "lstm":
        return [y, last]
    return [y, *(op.call(operator.getitem, last, i) for i in (0, 1))]


def _initial(op: Op, x: Any) -> tuple[Any, ...]:
    """The initial state as PyTorch takes it; none where it is zero."""
    places = [5, 6] if op.type == "LSTM" else [5]
    zero = [((c := op.constant(i)) is not None and not c.any()) or not op.has(i) for i in places]
    if all(zero):
        return ()
    if op.type == "LSTM" and not (op.has(5) and op.has(6)):
        raise op.refuse("one of its two initial states is left out")
    states = tuple(op.call(state_of, op.tensor(i), x) for i in places)
    return (states,) if op.type == "LSTM" else states


def _activations(op: Op) -> list[str]:
    given = op.attribute("activations", [])
    return [a.decode() if isinstance(a, bytes) else str(a) for a in given]


def _check(op: Op) -> None:
    for position in (1, 2, 3):
        if op.has(position) and op.constant(position) is None:
            raise op.refuse(f"its input {position} ({op.name(position)!r}) is computed, not a constant")
    given = _activations(op)
    usual = _DEFAULTS[op.type]
    count = len(given) // len(usual)
    if given and given != usual * count and not (op.type == "RNN" and set(given) == {"Relu"}):
        raise op.refuse(f"activations {given}; {usual} are known")
    if op.type == "GRU" and not op.attribute("linear_before_reset", 0):
        raise op.refuse("linear_before_reset = 0; PyTorch's GRU has 1", "in Keras: GRU(reset_after=True)")
    if op.has(7):
        raise op.refuse("peepholes", "retrain it without")
    if op.attribute("clip", 0.0) or op.attribute("input_forget", 0) or op.attribute("layout", 0):
        raise op.refuse("clip, input_forget or layout is set")
    lengths = op.constant(4)
    if op.has(4) and (lengths is None or (lengths != op.shape(0)[0]).any()):
        raise op.refuse("sequences of different length")


OPERATORS: dict[str, Emitter] = {"LSTM": recurrent, "GRU": recurrent, "RNN": recurrent}
