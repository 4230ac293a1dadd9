"""The constants of LSTM, GRU and RNN, cut into the parts that the steps use at different times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import add, concat, cut, view
from edgekit.backends.tflite.lowering.recurrent_activations import Function
from edgekit.backends.tflite.onnx_graph import Quantizer
from edgekit.backends.tflite.op import Op

__all__ = ["RecurrentWeights", "read_weights"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentWeights:
    """One direction: the parts of W (part*H, I), of R (part*H, H) and of the biases, in the order of gates.

    `biases` is what the projected inputs get: all of R's bias but `r_bias` is in it. `peepholes`: of i, o, f.
    """

    hidden: int
    w: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    r: tuple[Tensor, ...]
    r_bias: Tensor | None
    peepholes: tuple[Tensor, ...]
    functions: list[Function]


def read_weights(
    op: Op, index: int, *, parts: Sequence[int], peepholes: bool, functions: list[Function]
) -> RecurrentWeights:
    """The weights of direction `index`; `parts` are the numbers of gates that one product computes."""
    hidden = op.shape(2)[2]
    slices = [(sum(parts[:i]) * hidden, count * hidden) for i, count in enumerate(parts)]
    bias = _direction(op, 3, index)
    early, r_bias = (None, None) if bias is None else _biases(op, parts, bias, hidden)
    holes = _direction(op, 7, index) if peepholes else None
    return RecurrentWeights(
        hidden=hidden,
        w=tuple(_rows(op, 1, index, begin, count) for begin, count in slices),
        biases=tuple(None if early is None else cut(op, early, 0, *rows) for rows in slices),
        r=tuple(_rows(op, 2, index, begin, count, recurrent=True) for begin, count in slices),
        r_bias=r_bias,
        peepholes=()
        if holes is None
        else tuple(view(op, cut(op, holes, 0, i * hidden, hidden), (1, hidden)) for i in range(3)),
        functions=functions,
    )


def _direction(op: Op, number: int, index: int) -> Tensor | None:
    """Input `number` of one direction; None when it is not given."""
    if not op.has(number):
        return None
    whole = op.input(number)
    return view(op, cut(op, whole, 0, index, 1), whole.shape[1:])


def _rows(op: Op, number: int, index: int, begin: int, count: int, *, recurrent: bool = False) -> Tensor:
    """Some rows of W or R. Those of a weight that is stored in codes are known to the builder by a name."""
    matrix = _direction(op, number, index)
    assert matrix is not None
    rows = cut(op, matrix, 0, begin, count)
    whole = op.builder.stored.get(op.node.inputs[number])
    if rows.data is None or whole is None:
        return rows
    scales = whole.quant.scales
    if len(scales) > 1:
        scales = scales[begin : begin + count] if whole.quant.axis == 1 else ()
    if not scales:  # not one scale for each row: no kernel has that
        return rows
    named = op.const(rows.data, name=f"{op.node.inputs[number]}/{index}/{begin}")
    op.builder.stored[named.name] = Quantizer(
        quant=replace(whole.quant, scales=scales, axis=0),
        shift=whole.shift,
        part_of=op.node.inputs[number],
        recurrent=recurrent,
    )
    return named


def _biases(op: Op, parts: Sequence[int], biases: Tensor, hidden: int) -> tuple[Tensor, Tensor | None]:
    """What all inputs get, and what belongs to the step: R's bias of a candidate behind the reset gate."""
    rows = sum(parts) * hidden
    wb, rb = cut(op, biases, 0, 0, rows), cut(op, biases, 0, rows, rows)
    if not op.attr("linear_before_reset", 0) or len(parts) == 1:
        return add(op, wb, rb), None
    early = parts[0] * hidden
    gates = add(op, cut(op, wb, 0, 0, early), cut(op, rb, 0, 0, early))
    candidate = cut(op, wb, 0, early, hidden)
    return concat(op, [gates, candidate], 0), cut(op, rb, 0, early, hidden)
