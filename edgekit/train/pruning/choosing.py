"""Which units go: the least worthy ones, until the cost is what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from edgekit.core.pruning import PruningOptions
from edgekit.errors import Unsupported, UsageError, nearest
from edgekit.train.pruning.costs import CostModel
from edgekit.train.pruning.groups import Group

__all__ = ["check_keep", "choose", "kept_apart"]


_LISTED = 8  # names of layers in an error


def check_keep(keep: Sequence[str], nodes: Sequence[str]) -> None:
    """Raises `UsageError` for a glob that names no node: what was to stay would be pruned."""
    problems = []
    for pattern in (p for p in keep if not any(fnmatchcase(node, p) for node in nodes)):
        near = nearest(pattern, nodes)
        if near.startswith("allowed") and len(nodes) > _LISTED:
            near = f"there are {len(nodes)}: {', '.join(nodes[:_LISTED])} ..."
        problems.append(f"{pattern!r} names no layer; {near}")
    if problems:
        raise UsageError("layers to keep", problems=problems)


def kept_apart(groups: Sequence[Group], keep: Sequence[str], members: Mapping[str, set[str]]) -> list[Group]:
    """The groups that hold no layer whose name matches a glob; `members`: constant -> nodes that read it."""
    def named(group: Group) -> set[str]:
        return {group.name}.union(*(members.get(c.constant, set()) for c in group.cuts))

    return [g for g in groups if not any(fnmatchcase(n, p) for n in named(g) for p in keep)]


def choose(
    groups: Sequence[Group], scores: Mapping[str, NDArray[np.float64]], cost: CostModel, wanted: float,
    options: PruningOptions, original: Mapping[str, int],
) -> dict[str, NDArray[np.int64]]:
    """The units to remove so that the cost is at most `wanted`: group -> unit numbers.

    `original`: how many units groups had before any pruning, of which the floor is a share. Raises
    `Unsupported` where the floors do not allow it.
    """
    left = {g.name: g.count for g in groups}
    floors = {g.name: _floor(g, options, original) for g in groups}
    order = {g.name: np.argsort(scores[g.name], kind="stable") for g in groups}
    by_name = {g.name: g for g in groups}
    if options.scope == "uniform":
        _uniform(groups, left, floors, cost, wanted, options)
    while options.scope == "global" and cost(left) > wanted:
        offers = []
        for name, group in by_name.items():
            size = _chunk(left[name], floors[name], _multiple(group, options))
            if not size:
                continue
            gone = group.count - left[name]
            lost = float(scores[name][order[name][gone : gone + size]].sum())
            saved = cost(left) - cost({**left, name: left[name] - size})
            if saved > 0:
                gain = min(saved, cost(left) - wanted)  # what goes beyond what is asked for is none
                worth = gain if options.criterion != "magnitude" else size * gain / saved
                offers.append((lost / worth, name, size))
        if not offers:
            raise _floors_reached(cost, left, wanted, options)
        _, name, size = min(offers)
        left[name] -= size
    if cost(left) > wanted * (1 + 1e-9):
        raise _floors_reached(cost, left, wanted, options)
    fewer = [g for g in groups if left[g.name] < g.count]
    return {g.name: np.sort(order[g.name][: g.count - left[g.name]]) for g in fewer}


def _uniform(
    groups: Sequence[Group], left: dict[str, int], floors: Mapping[str, int], cost: CostModel, wanted: float,
    options: PruningOptions,
) -> None:
    """The largest share, in hundredths, of which every group is left, that costs no more than is wanted."""
    for percent in range(99, 0, -1):
        for group in groups:
            multiple = _multiple(group, options)
            count = int(group.count * percent / 100 / multiple + 0.5) * multiple
            left[group.name] = min(group.count, max(floors[group.name], count, 1))
        if cost(left) <= wanted:
            return


def _multiple(group: Group, options: PruningOptions) -> int:
    return options.multiple if group.kind == "channels" and group.count > options.multiple else 1


def _floor(group: Group, options: PruningOptions, original: Mapping[str, int]) -> int:
    least = max(1, -int(-options.floor * original.get(group.name, group.count) // 1))
    multiple = _multiple(group, options)
    return min(group.count, -(-least // multiple) * multiple)


def _chunk(left: int, floor: int, multiple: int) -> int:
    """How many units go at once, so that what is left is a multiple."""
    size = left % multiple or multiple
    return size if left - size >= max(floor, 1) else 0


def _floors_reached(
    cost: CostModel, left: Mapping[str, int], wanted: float, options: PruningOptions
) -> Unsupported:
    return Unsupported(
        f"{options.measure} cannot be brought to {wanted:,.0f}: {cost(left):,.0f} are left when every layer "
        f"that may be pruned is at its floor",
        hint=f"lower floor (it is {options.floor:g}), remove less, or keep fewer layers by name",
    )
