"""Einsum by transposes, reshapes, products and sums: two operands at a time, from the left."""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.backends.tflite.ir import Tensor, size_of
from edgekit.backends.tflite.lowering.compose import mul, product, transpose, view
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]

_SPARE = "0123456789"  # labels for the dimensions of an ellipsis


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """A tensor and one label for each dimension."""

    tensor: Tensor
    labels: str

    def size(self, label: str) -> int:
        return self.tensor.shape[self.labels.index(label)]

    def sizes(self, labels: str) -> tuple[int, ...]:
        return tuple(self.size(label) for label in labels)


def einsum(op: Op) -> None:
    equation = str(op.attr("equation", "")).replace(" ", "")
    terms, output = _parse(op, equation)
    while len(terms) > 1:
        a, b, *rest = terms
        later = {*output}.union(*(term.labels for term in rest))
        terms = [_contract(op, a, b, later), *rest]
    last = _sum(op, terms[0], {*output})
    op.result(transpose(op, last.tensor, [last.labels.index(label) for label in output]))


def _parse(op: Op, equation: str) -> tuple[list[_Term], str]:
    """The operands with their labels, and the labels of the output."""
    left, arrow, output = equation.partition("->")
    parts = left.split(",")
    if len(parts) != len(op.node.inputs):
        raise Refusal(f"the equation {equation!r} and {len(op.node.inputs)} operands", "correct the model")
    ranks = [len(op.shape(i)) - len(part.replace("...", "")) for i, part in enumerate(parts) if "..." in part]
    dots = _SPARE[: max(ranks, default=0)]
    terms = []
    for index, part in enumerate(parts):
        own = len(op.shape(index)) - len(part.replace("...", ""))
        labels = part.replace("...", dots[len(dots) - own :] if own else "")
        if len(labels) != len(op.shape(index)) or len({*labels}) != len(labels):
            raise Refusal(
                f"the diagonal of an operand in {equation!r}", "take the diagonal with GatherND first"
            )
        terms.append(_Term(tensor=op.input(index), labels=labels))
    if arrow:
        return terms, output.replace("...", dots)
    every = "".join(term.labels for term in terms)
    return terms, dots + "".join(sorted({x for x in every if every.count(x) == 1 and x not in dots}))


def _contract(op: Op, a: _Term, b: _Term, later: set[str]) -> _Term:
    """One term for two: the labels that nothing needs `later` are summed over."""
    a, b = _sum(op, a, later | {*b.labels}), _sum(op, b, later | {*a.labels})
    shared = [label for label in a.labels if label in b.labels]
    if any(a.size(label) != b.size(label) for label in shared):
        raise Refusal("Einsum that broadcasts a dimension of 1", "repeat the operand with Expand")
    batch = "".join(label for label in shared if label in later)
    inner = "".join(label for label in shared if label not in later)
    rows = "".join(label for label in a.labels if label not in shared)
    columns = "".join(label for label in b.labels if label not in shared)
    labels = batch + rows + columns
    shape = (*a.sizes(batch + rows), *b.sizes(columns))
    if not inner:
        ones = (1,) * len(columns)
        left = view(op, _ordered(op, a, batch + rows), (*a.sizes(batch + rows), *ones))
        right = view(
            op, _ordered(op, b, batch + columns), (*b.sizes(batch), *(1,) * len(rows), *b.sizes(columns))
        )
        return _Term(tensor=mul(op, left, right), labels=labels)
    counts = [size_of(part) for part in (a.sizes(batch), a.sizes(rows), a.sizes(inner), b.sizes(columns))]
    front = (counts[0],) if batch else ()
    left = view(op, _ordered(op, a, batch + rows + inner), (*front, counts[1], counts[2]))
    right = view(op, _ordered(op, b, batch + inner + columns), (*front, counts[2], counts[3]))
    return _Term(tensor=view(op, product(op, left, right), shape), labels=labels)


def _ordered(op: Op, term: _Term, labels: str) -> Tensor:
    return transpose(op, term.tensor, [term.labels.index(label) for label in labels])


def _sum(op: Op, term: _Term, needed: set[str]) -> _Term:
    """The term summed over the labels that nothing needs."""
    axes = [axis for axis, label in enumerate(term.labels) if label not in needed]
    if not axes:
        return term
    labels = "".join(label for label in term.labels if label in needed)
    total = op.emit("SUM", [term.tensor, op.indices(axes)], term.sizes(labels), keep_dims=False)
    return _Term(tensor=total, labels=labels)


OPERATORS = {"Einsum": Lowering(emit=einsum)}
