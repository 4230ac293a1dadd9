"""The search for the cheapest mixture: which nodes stay in float so that an int8 network keeps its budgets.

Nodes are ranked by the damage each does alone, once as it is and once by multiply-adds spent. On either
ranking the shortest run of first nodes that keeps the budgets is found by bisection, then every node of it
that turns out not to be needed goes back into integers, the dearest first. Every step is judged end to end by
simulation; the cheaper of the two results wins. Greedy by sensitivity with verification, as in Wu et al.,
"Integer Quantization for Deep Learning Inference" (2020), section 5.2; the pruning back is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.core.codec import decode, encode
from edgekit.core.files import write_json
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.progress import report_progress
from edgekit.core.recipe import Budgets, DataSource, Metric, QuantizationOptions
from edgekit.core.sensitivity import Standing
from edgekit.core.target import Int8Policy
from edgekit.measure.metrics import ERROR_METRICS
from edgekit.measure.standing import keeps, standing_of
from edgekit.quantize.calibrate import read_calibration
from edgekit.quantize.search_samples import SearchSamples, read_search_samples
from edgekit.quantize.simulate import Simulation, multiply_adds, run_graph

__all__ = ["Mixture", "find_mixture", "is_search_call", "mixture_file", "standing_file"]

_NODE_COST = 0.002  # of the network's multiply-adds: what a border between integers and floats costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """`kept` nodes stay in float, most damaging first; `standing` is simulated. `met`: within the budgets.

    `macs_share` is the share 0..1 of multiply-adds that are float; `evaluations` counts simulated mixtures.
    Where no mixture meets the budgets, this is the one of the highest SQNR.
    """

    kept: tuple[str, ...]
    standing: Standing
    met: bool
    macs_share: float
    evaluations: int


def is_search_call(number: int) -> bool:
    """Whether call `number` of the samples is for the search; the others judge what it finds."""
    return number % 2 == 0


def standing_file(
    *,
    model: str,
    graph: str,
    data: dict[str, Any],
    signature: dict[str, Any],
    output: str,
    metric: str,
    most: int,
) -> dict[str, Any]:
    """Step: the standing of the quantized `graph` beside the float `model` on the search samples."""
    onnx = require("onnx", needed_for="the search for a mixture")
    samples, chosen = _samples(data, signature, metric, most)
    source = run_graph(onnx.load(model), samples.inputs, output)
    answer = run_graph(onnx.load(graph), samples.inputs, output)
    standing: dict[str, Any] = encode(standing_of(source, answer, metric=chosen, labels=samples.labels))
    return standing


def mixture_file(
    *,
    model: str,
    calibration: str,
    policy: dict[str, Any],
    options: dict[str, Any],
    data: dict[str, Any],
    signature: dict[str, Any],
    output: str,
    metric: str,
    most: int,
    budgets: dict[str, Any],
    margin: float,
    out: str,
) -> dict[str, Any]:
    """Step: write the `Mixture` of an ONNX file that keeps the budgets on the search samples to `out`.

    `margin` is that of `edgekit.measure.standing.keeps`.
    """
    onnx = require("onnx", needed_for="the search for a mixture")
    samples, chosen = _samples(data, signature, metric, most)
    limits = decode(Budgets, budgets, where="budgets")
    simulation = Simulation(
        onnx.load(model),
        calibration=read_calibration(Path(calibration)),
        policy=decode(Int8Policy, policy, where="policy"),
        options=decode(QuantizationOptions, options, where="quantization"),
        samples=samples.inputs,
        output=output,
    )
    found = find_mixture(
        simulation, meets=lambda s: keeps(s, limits, margin=margin), metric=chosen, labels=samples.labels
    )
    write_json(Path(out), encode(found))
    return {"kept": len(found.kept)}


def _samples(
    data: dict[str, Any], signature: dict[str, Any], metric: str, most: int
) -> tuple[SearchSamples, Metric | None]:
    chosen: Metric | None = metric or None  # type: ignore[assignment]
    samples = read_search_samples(
        decode(DataSource, data, where="data"),
        decode(Signature, signature, where="signature"),
        need_labels=chosen is not None and chosen not in ERROR_METRICS,
        most=most,
        wanted=is_search_call,
    )
    return samples, chosen


def find_mixture(
    simulation: Simulation,
    *,
    meets: Callable[[Standing], bool],
    metric: Metric | None = None,
    labels: NDArray[Any] | None = None,
) -> Mixture:
    """The cheapest mixture found whose standing `meets` the budgets; some product stays in integers."""
    search = _Search(simulation, meets, metric, labels)
    if meets(search.standing(())):
        return search.mixture((), met=True)
    damage = search.damage()
    share = search.shares
    rankings = [
        sorted(simulation.nodes, key=lambda n: (-damage[n], n)),
        sorted(simulation.nodes, key=lambda n: (-damage[n] / (share[n] + _NODE_COST), n)),
    ]
    found = [
        search.pruned(kept) for ranking in rankings if (kept := search.shortest_run(ranking)) is not None
    ]
    if found:
        return search.mixture(min(found, key=search.cost), met=True)
    return search.mixture(search.best(), met=False)


@dataclass(slots=True)
class _Search:
    """Standings of mixtures that were tried, and what they cost."""

    simulation: Simulation
    meets: Callable[[Standing], bool]
    metric: Metric | None
    labels: NDArray[Any] | None
    tried: dict[frozenset[str], Standing] = field(default_factory=dict)
    shares: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        nodes = {n.name: n for n in self.simulation.model.graph.node}
        macs = {n: multiply_adds(self.simulation.index, nodes[n]) for n in self.simulation.nodes}
        total = sum(macs.values()) or 1
        self.shares = {name: count / total for name, count in macs.items()}

    def standing(self, kept: Collection[str]) -> Standing:
        """The standing of one mixture, simulated once."""
        return self.standings([kept])[0]

    def standings(self, mixtures: Sequence[Collection[str]]) -> list[Standing]:
        """The standings of many mixtures; those not seen before are simulated side by side."""
        keys = [frozenset(kept) for kept in mixtures]
        new = [key for key in dict.fromkeys(keys) if key not in self.tried]
        for key, answer in zip(new, self.simulation.answers(new), strict=True):
            self.tried[key] = standing_of(
                self.simulation.reference, answer, metric=self.metric, labels=self.labels
            )
            report_progress(len(self.tried), len(self.tried) + len(new))
        return [self.tried[key] for key in keys]

    def damage(self) -> dict[str, float]:
        """Noise over signal, in power, that each node alone puts into the output."""
        names = self.simulation.nodes
        everything = frozenset(names)
        standings = self.standings([everything - {name} for name in names])
        return {n: float(10 ** (-s.sqnr_db / 10)) for n, s in zip(names, standings, strict=True)}

    def shortest_run(self, ranking: Sequence[str]) -> tuple[str, ...] | None:
        """The fewest first nodes of a ranking that meet the budgets, by bisection; None if no run does."""
        low = 0  # does not meet them
        high = max(n for n in range(len(ranking)) if self.has_integers(ranking[:n]))
        if high < 1 or not self.meets(self.standing(ranking[:high])):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self.meets(self.standing(ranking[:middle])):
                high = middle
            else:
                low = middle
        return tuple(ranking[:high])

    def has_integers(self, kept: Collection[str]) -> bool:
        """Whether a convolution or matrix product, or in a network of none anything, is left in integers."""
        products = {name for name in self.simulation.nodes if self.shares[name] > 0}
        return bool((products or set(self.simulation.nodes)) - set(kept))

    def pruned(self, kept: tuple[str, ...]) -> tuple[str, ...]:
        """Without the nodes that turn out not to be needed; the dearest are tried first."""
        for name in sorted(kept, key=lambda n: (-self.shares[n], n)):
            fewer = tuple(n for n in kept if n != name)
            if self.meets(self.standing(fewer)):
                kept = fewer
        return kept

    def cost(self, kept: Collection[str]) -> float:
        """Float multiply-adds as a share of all, and a little for every node."""
        return sum(self.shares[name] + _NODE_COST for name in kept)

    def best(self) -> tuple[str, ...]:
        """The tried mixture of the highest SQNR that quantizes something, the cheapest of equals."""
        real = [key for key in self.tried if self.has_integers(key)]
        key = max(real, key=lambda k: (self.tried[k].sqnr_db, -self.cost(k), sorted(k)))
        return tuple(name for name in self.simulation.nodes if name in key)

    def mixture(self, kept: tuple[str, ...], *, met: bool) -> Mixture:
        """The mixture as it is reported."""
        return Mixture(
            kept=kept,
            standing=self.standing(kept),
            met=met,
            macs_share=sum(self.shares[name] for name in kept),
            evaluations=len(self.tried),
        )
