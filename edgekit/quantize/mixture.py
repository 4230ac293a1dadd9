"""The search for mixtures: which nodes keep a higher precision so that an int8 network keeps its budgets.

Nodes are ranked by the damage each does alone, once as it is and once by multiply-adds spent. On either
ranking the shortest run of first nodes that, in float, keeps the budgets is found by bisection, then every
node of it that turns out not to be needed goes back into integers, the dearest first. Where the target has
int16x8, what 16 bits suffice for then takes it in place of float: another mixture, and whoever can time them
says which is cheaper. Every step is judged end to end by simulation. Greedy by sensitivity with verification,
as in Wu et al., "Integer Quantization for Deep Learning Inference" (2020), section 5.2; the pruning back and
the second width are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from edgekit.core.codec import decode, encode
from edgekit.core.files import write_json
from edgekit.core.packages import require
from edgekit.core.progress import report_progress
from edgekit.core.recipe import Budgets, Metric
from edgekit.core.sensitivity import Standing
from edgekit.measure.standing import keeps, standing_of
from edgekit.quantize.simulate import Kept, Simulation, multiply_adds, run_graph
from edgekit.quantize.simulation_request import Judged, SimulationRequest

__all__ = ["Mixture", "find_mixtures", "is_search_call", "mixture_file", "standing_file"]

_NODE_COST = 0.002  # of the network's multiply-adds: what a border between integers and floats costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """`kept`: node -> the precision it keeps; `standing` is simulated. `met`: within the budgets.

    `macs_share` is the share 0..1 of multiply-adds in kept nodes; `evaluations` counts simulated mixtures.
    Where no mixture meets the budgets, this is the one of the highest SQNR.
    """

    kept: dict[str, Literal["float32", "int16x8"]]
    standing: Standing
    met: bool
    macs_share: float
    evaluations: int


def is_search_call(number: int) -> bool:
    """Whether call `number` of the samples is for the search; the others judge what it finds."""
    return number % 2 == 0


def standing_file(*, model: str, graph: str, judged: dict[str, Any]) -> dict[str, Any]:
    """Step: the standing of the quantized `graph` beside the float `model` on the search samples."""
    onnx = require("onnx", needed_for="the search for a mixture")
    by = decode(Judged, judged, where="judged")
    samples = by.samples(is_search_call)
    source = run_graph(onnx.load(model), samples.inputs, by.output)
    answer = run_graph(onnx.load(graph), samples.inputs, by.output)
    found = standing_of(source, answer, metric=by.chosen_metric, labels=samples.labels)
    standing: dict[str, Any] = encode(found)
    return standing


def mixture_file(
    *, request: dict[str, Any], budgets: dict[str, Any], margin: float, out: str
) -> dict[str, Any]:
    """Step: write {"mixtures"}, what `find_mixtures` finds for the budgets on the search samples, to `out`.

    `margin` is that of `edgekit.measure.standing.keeps`.
    """
    wanted = decode(SimulationRequest, request, where="request")
    limits = decode(Budgets, budgets, where="budgets")
    simulation, samples = wanted.open(is_search_call)
    found = find_mixtures(
        simulation,
        meets=lambda s: keeps(s, limits, margin=margin),
        metric=wanted.judged.chosen_metric,
        labels=samples.labels,
    )
    write_json(Path(out), {"mixtures": encode(found)})
    return {"mixtures": len(found)}


def find_mixtures(
    simulation: Simulation,
    *,
    meets: Callable[[Standing], bool],
    metric: Metric | None = None,
    labels: NDArray[Any] | None = None,
) -> tuple[Mixture, ...]:
    """The mixtures found whose standing `meets` the budgets, the fewest multiply-adds first.

    Some product stays in 8 bits. Where none meets them: the one of the highest SQNR, alone.
    """
    search = _Search(simulation, meets, metric, labels)
    if meets(search.standing({})):
        return (search.mixture({}, met=True),)
    damage = search.damage()
    share = search.shares
    rankings = [
        sorted(simulation.nodes, key=lambda n: (-damage[n], n)),
        sorted(simulation.nodes, key=lambda n: (-damage[n] / (share[n] + _NODE_COST), n)),
    ]
    runs = [run for ranking in rankings if (run := search.shortest_run(ranking)) is not None]
    if not runs:
        return (search.mixture(search.best(), met=False),)
    found = sorted(map(search.pruned, runs), key=search.cost)
    found = [mixture for kept in found for mixture in (kept, search.narrowed(kept))]
    distinct = {frozenset(kept.items()): kept for kept in reversed(found)}
    return tuple(search.mixture(kept, met=True) for kept in reversed(distinct.values()))


def _in_float(names: Collection[str]) -> Kept:
    return dict.fromkeys(sorted(names), "float32")


@dataclass(slots=True)
class _Search:
    """Standings of mixtures that were tried, and what they cost."""

    simulation: Simulation
    meets: Callable[[Standing], bool]
    metric: Metric | None
    labels: NDArray[Any] | None
    tried: dict[frozenset[tuple[str, str]], tuple[Kept, Standing]] = field(default_factory=dict)
    shares: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        nodes = {n.name: n for n in self.simulation.model.graph.node}
        macs = {n: multiply_adds(self.simulation.index, nodes[n]) for n in self.simulation.nodes}
        total = sum(macs.values()) or 1
        self.shares = {name: count / total for name, count in macs.items()}

    def standing(self, kept: Kept) -> Standing:
        """The standing of one mixture, simulated once."""
        return self.standings([kept])[0]

    def standings(self, mixtures: Sequence[Kept]) -> list[Standing]:
        """The standings of many mixtures; those not seen before are simulated side by side."""
        keys = [frozenset(kept.items()) for kept in mixtures]
        by_key = dict(zip(keys, mixtures, strict=True))
        new = [key for key in by_key if key not in self.tried]
        for key, answer in zip(new, self.simulation.answers([by_key[k] for k in new]), strict=True):
            standing = standing_of(
                self.simulation.reference, answer, metric=self.metric, labels=self.labels
            )
            self.tried[key] = by_key[key], standing
            report_progress(len(self.tried), len(self.tried) + len(new))
        return [self.tried[key][1] for key in keys]

    def damage(self) -> dict[str, float]:
        """Noise over signal, in power, that each node alone puts into the output."""
        names = self.simulation.nodes
        standings = self.standings([_in_float(set(names) - {name}) for name in names])
        return {n: float(10 ** (-s.sqnr_db / 10)) for n, s in zip(names, standings, strict=True)}

    def shortest_run(self, ranking: Sequence[str]) -> tuple[str, ...] | None:
        """The fewest first nodes of a ranking that meet the budgets, by bisection; None if no run does."""
        low = 0  # does not meet them
        high = max(n for n in range(len(ranking)) if self.has_integers(ranking[:n]))
        if high < 1 or not self.meets(self.standing(_in_float(ranking[:high]))):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.meets(self.standing(_in_float(ranking[:middle]))):
                high = middle
            else:
                low = middle
        return tuple(ranking[:high])

    def has_integers(self, kept: Collection[str]) -> bool:
        """Whether a convolution or matrix product, or in a network of none anything, is left in 8 bits."""
        products = {name for name in self.simulation.nodes if self.shares[name] > 0}
        return bool((products or set(self.simulation.nodes)) - set(kept))

    def pruned(self, names: Sequence[str]) -> Kept:
        """Without the nodes that turn out not to be needed; the dearest are tried first."""
        kept = dict.fromkeys(names)
        for name in sorted(names, key=lambda n: (-self.shares[n], n)):
            fewer = _in_float([n for n in kept if n != name])
            if self.meets(self.standing(fewer)):
                del kept[name]
        return _in_float(kept)

    def narrowed(self, kept: Kept) -> Kept:
        """With 16 bits in place of float where the target has them and they suffice, the dearest first."""
        if self.simulation.wide is None:
            return kept
        able = self.simulation.wide.integer_ops
        nodes = {n.name: n.op_type for n in self.simulation.model.graph.node}
        for name in sorted(kept, key=lambda n: (-self.shares[n], n)):
            if nodes[name] not in able:
                continue
            narrower: Kept = {**kept, name: "int16x8"}
            if self.meets(self.standing(narrower)):
                kept = narrower
        return kept

    def cost(self, kept: Collection[str]) -> float:
        """Kept multiply-adds as a share of all, and a little for every node."""
        return sum(self.shares[name] + _NODE_COST for name in kept)

    def best(self) -> Kept:
        """The tried mixture of the highest SQNR that quantizes something, the cheapest of equals."""
        real = [found for found in self.tried.values() if self.has_integers(found[0])]
        return max(real, key=lambda found: (found[1].sqnr_db, -self.cost(found[0]), sorted(found[0])))[0]

    def mixture(self, kept: Kept, *, met: bool) -> Mixture:
        """The mixture as it is reported, its nodes in graph order."""
        return Mixture(
            kept={name: kept[name] for name in self.simulation.nodes if name in kept},
            standing=self.standing(kept),
            met=met,
            macs_share=sum(self.shares[name] for name in kept),
            evaluations=len(self.tried),
        )
