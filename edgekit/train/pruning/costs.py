"""What a graph costs, and what it would cost with fewer units: multiply-adds and parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from edgekit.graph.inspect import count_macs
from edgekit.train.pruning.cutting import static_shapes
from edgekit.train.pruning.groups import Group, arrays

__all__ = ["CostModel", "cost_model", "macs_of", "parameters_of", "zeros_of"]


def macs_of(model: Any) -> int:
    """Multiply-adds of one call of a graph of static shapes."""
    return count_macs(model.graph, static_shapes(model)) or 0


def parameters_of(model: Any) -> int:
    """Values in floating-point constants."""
    return sum(a.size for a in arrays(model).values() if a.dtype.kind == "f")


def zeros_of(model: Any) -> int:
    """Zeros in floating-point constants of two or more axes."""
    return sum(int((a == 0).sum()) for a in arrays(model).values() if a.dtype.kind == "f" and a.ndim > 1)


@dataclass(frozen=True, slots=True)
class _Term:
    """`cost`, times what is left of each axis: of it each (group, share of the places that it owns)."""

    cost: float
    axes: tuple[tuple[tuple[str, float], ...], ...]


@dataclass(frozen=True, slots=True)
class CostModel:
    """The cost of a graph as a function of how many units of each group are left."""

    terms: tuple[_Term, ...]
    counts: Mapping[str, int]

    def __call__(self, left: Mapping[str, int]) -> float:
        """The cost when `left` units of each group remain (all of those that are not named)."""
        share = {name: left.get(name, count) / count for name, count in self.counts.items()}
        return sum(
            term.cost * prod(1.0 - sum(own * (1.0 - share[name]) for name, own in axis) for axis in term.axes)
            for term in self.terms
        )


def cost_model(model: Any, groups: Sequence[Group], measure: str) -> CostModel:
    """The model of "macs" or "parameters" ("heads": the number of heads)."""
    axes: dict[str, dict[int, list[tuple[str, float]]]] = {}
    for group in groups:
        for cut in group.cuts:
            owned = float((cut.units >= 0).mean())
            axes.setdefault(cut.constant, {}).setdefault(cut.axis, []).append((group.name, owned))
    counts = {g.name: g.count for g in groups}

    def of(constant: str) -> tuple[tuple[tuple[str, float], ...], ...]:
        return tuple(tuple(owners) for owners in axes.get(constant, {}).values())

    terms: list[_Term] = []
    if measure == "heads":
        terms = [_Term(float(g.count), (((g.name, 1.0),),)) for g in groups if g.kind == "heads"]
    elif measure == "parameters":
        terms = [_Term(float(a.size), of(n)) for n, a in arrays(model).items() if a.dtype.kind == "f"]
    else:
        shapes = static_shapes(model)
        products = {node: g.name for g in groups for node in g.products}
        for node in model.graph.node:
            single = type(model.graph)()
            single.node.append(node)
            macs = count_macs(single, shapes) or 0
            own = (((products[node.name], 1.0),),) if node.name in products else None
            if macs:
                terms.append(_Term(float(macs), own or of(node.input[1])))
    return CostModel(tuple(terms), counts)
