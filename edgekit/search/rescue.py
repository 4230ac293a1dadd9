"""Rescue: where int8 breaks its budgets on a target, the cheapest way back within them.

Plain int8 is judged first, in the target's engine. If it breaks the budgets, whole-network algorithms are
tried one after the other, each kept when it helps: they cost nothing when the network runs. If that is not
enough, nodes keep a higher precision, the fewest multiply-adds that suffice: float, or int16x8 where the
target has it. The search simulates, on every second validation call, and wants the budgets kept with a margin
for the luck of the draw; what it finds is judged in the engine, on the other calls, and timed beside plain
int8. The first mixture that is content there is taken, unless another takes less than 0.9 of its time beyond
doubt; where none is, the search asks for more. Mixtures that are about as fast are not told apart by the
clock, so that another run gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.core.artifact import Artifact
from edgekit.core.codec import decode, encode
from edgekit.core.recipe import Budgets, Recipe, ValidationOptions
from edgekit.core.report import Attempt, Rescue
from edgekit.core.sensitivity import Standing
from edgekit.core.target import Int8Policy, Target, load_target
from edgekit.measure.standing import keeps
from edgekit.pipeline.convert import lower_graph
from edgekit.pipeline.job import Job, Mended
from edgekit.pipeline.quantizing import calibrated, evened_out, quantized_graph
from edgekit.quantize.mixture import Mixture
from edgekit.quantize.simulation_request import Judged, SimulationRequest
from edgekit.search.analyze import judged_output
from edgekit.search.engine import Judge, relative_latency
from edgekit.search.simulated import simulate

__all__ = ["ALGORITHMS", "Rescuer"]

_SEARCH_SAMPLES = 512  # at most, evenly spread over the search half
_WORTH_DB = 0.1  # what an algorithm has to bring to be kept
_MARGINS = (1.0, 1.64, 2.33)  # standard errors: of 84, 95 and 99 % of draws, one-sided
_CLEARLY_FASTER = 0.9  # of the time: what makes a mixture better than one that was found before it
_STRICTER_DB = 3.0  # half the noise: what the next mixture has to bring when the engine was not content

Change = Callable[[Recipe], Recipe]


def _ranges(**changes: Any) -> Change:
    def change(recipe: Recipe) -> Recipe:
        assert recipe.calibration is not None
        return replace(recipe, calibration=replace(recipe.calibration, **changes))

    return change


def _quantization(**changes: Any) -> Change:
    return lambda recipe: replace(recipe, quantization=replace(recipe.quantization, **changes))


# What costs nothing when the network runs, cheapest to try first.
ALGORITHMS: dict[str, Change] = {
    "ranges by the method that errs least for each tensor": _ranges(method="auto"),
    "channels evened out between layers": _quantization(equalize=True),
    "outlying channels moved from normalizations into weights": _quantization(smooth=1.0),
    "ranges at the 99.9th percentile": _ranges(method="percentile", percentile=99.9),
    "biases corrected by what the layers answer": _quantization(bias_correction="empirical"),
    "learned rounding": _quantization(rounding="learned"),
}
_POLISH = ("biases corrected by what the layers answer", "learned rounding")
_POLISH_FROM_DB = 12.0  # below, a network is broken in a way that these do not mend: they are not tried


@dataclass(slots=True)
class Rescuer:
    """Mends the int8 graphs of one conversion; `judges` is made at the first call."""

    judge: Judge | None = field(default=None, init=False)

    def __call__(self, job: Job, target: Target, graph: Path, example: dict[str, Any]) -> Mended:
        """The graph to lower for `target` in place of the plain one, and the account of what was done."""
        options, policy = job.recipe.validation, target.int8
        assert options is not None
        assert policy is not None
        output = judged_output([o.name for o in job.model.signature.outputs], options.output)
        if self.judge is None:
            self.judge = Judge(job, options, output)
        return _Attempts(job, target, policy, options, self.judge, example).mend(graph)


class _Attempts:
    """The attempts to mend one target's graph."""

    def __init__(
        self,
        job: Job,
        target: Target,
        policy: Int8Policy,
        options: ValidationOptions,
        judge: Judge,
        example: dict[str, Any],
    ) -> None:
        self.job = job
        self.target = target
        self.policy = policy
        self.options = options
        self.judge = judge
        self.example = example
        self.budgets = job.recipe.budgets
        self.tried: list[Attempt] = []
        self.folders = 0

    def mend(self, graph: Path) -> Mended:
        """Judge the plain graph and, where it breaks the budgets, look for one that keeps them."""
        plain = self._lower(graph, "plain int8")
        standing = self.judge.standing(plain)
        account = Rescue(reached=True, plain=standing, final=standing, judge_samples=self.judge.count)
        if keeps(standing, self.budgets):
            return Mended(graph=graph, rescue=account)
        account = replace(account, reached=False)
        recipes: dict[tuple[str, ...], Recipe] = {(): self.job.recipe}
        best: _Tried | None = None
        for recipe, stronger, done in self._algorithms(graph):
            recipes = {(): self.job.recipe, done: recipe}
            artifact = self._lower(stronger, "int8 with stronger algorithms")
            tried = self._judged_and_timed(stronger, artifact, plain, replace(account, done=done))
            best = tried if best is None or tried.beats(best) else best
            if best.content:
                break
        else:
            best = self._mixture(recipes, plain, account, best)
        return Mended(graph=best.graph, rescue=replace(best.account, tried=tuple(self.tried)))

    def _algorithms(self, graph: Path) -> Iterator[tuple[Recipe, Path, tuple[str, ...]]]:
        """The recipe, the graph and the names of the algorithms that help, by simulation.

        Whenever the budgets seem kept, and once all algorithms were tried; never with none.
        """
        recipe, best = self.job.recipe, graph
        standing = self._simulated(graph, "plain int8")
        self.tried.append(Attempt(what="plain int8", standing=standing))
        done: tuple[str, ...] = ()
        given = done
        for name, change in ALGORITHMS.items():
            candidate = change(recipe)
            if candidate == recipe or (name in _POLISH and standing.sqnr_db < _POLISH_FROM_DB):
                continue
            made = quantized_graph(self._job(candidate), self.policy)
            found = self._simulated(made, name)
            self.tried.append(Attempt(what=name, standing=found))
            if found.sqnr_db > standing.sqnr_db + _WORTH_DB:
                recipe, best, standing, done = candidate, made, found, (*done, name)
                if keeps(standing, self.budgets, margin=_MARGINS[0]):
                    given = done
                    yield recipe, best, done
        if done != given:
            yield recipe, best, done

    def _mixture(
        self,
        recipes: dict[tuple[str, ...], Recipe],
        plain: Artifact,
        account: Rescue,
        best: _Tried | None,
    ) -> _Tried:
        """Let nodes keep a higher precision, by ever stricter searches, until the engine is content.

        Each recipe (by the names of the algorithms it turned on) is searched: what helps the whole network
        in integers, clipping for one, can hurt where some of it is float. `best` was found before.
        """
        budgets = self.budgets
        for margin in _MARGINS:
            found = [(done, m) for done, r in recipes.items() for m in self._search(r, budgets, margin)]
            found.sort(key=lambda one: _preference(one[1], len(one[0])))
            for done, mixture in [one for one in found if one[1].met] or found[:1]:
                tried = self._mixed(recipes[done], mixture, plain, replace(account, done=done))
                best = tried if best is None or tried.beats(best) else best
            if (best is not None and best.content) or not found[0][1].met:
                break
            least = found[0][1].standing.sqnr_db + _STRICTER_DB
            budgets = replace(budgets, min_sqnr_db=max(least, budgets.min_sqnr_db or least))
        assert best is not None
        return best

    def _mixed(self, recipe: Recipe, mixture: Mixture, plain: Artifact, account: Rescue) -> _Tried:
        """A mixture, lowered, judged and timed in the engine."""
        quantization = replace(recipe.quantization, keep={**recipe.quantization.keep, **mixture.kept})
        graph = quantized_graph(self._job(replace(recipe, quantization=quantization)), self.policy)
        widths = sorted(set(mixture.kept.values()))
        counts = [f"{list(mixture.kept.values()).count(width)} of the nodes in {width}" for width in widths]
        self.tried.append(Attempt(what="; ".join([*account.done, *counts]), standing=mixture.standing))
        artifact = self._lower(graph, " and ".join(counts))
        account = replace(account, kept=dict(mixture.kept), kept_macs_share=mixture.macs_share)
        return self._judged_and_timed(graph, artifact, plain, account)

    def _search(self, recipe: Recipe, budgets: Budgets, margin: float) -> tuple[Mixture, ...]:
        """The mixtures that keep `budgets` in simulation, from the cache when they were searched before."""
        wide = self.target.int16x8 if "int16x8" in self.target.precisions else None
        policies = [self.policy, *([wide] if wide else [])]
        job, ranges = calibrated(evened_out(self._job(recipe), policies), policies)
        request = SimulationRequest(
            model=str(job.model.path),
            calibration=str(ranges),
            policy=self.policy,
            wide=wide,
            options=replace(job.recipe.quantization, rescue=False),
            judged=self._judged(),
        )
        found = simulate(
            job,
            request,
            step="edgekit.quantize.mixture:mixture_file",
            label=f"search a mixture for {self.target.name}",
            version=2,
            budgets=encode(budgets),
            margin=margin,
        )
        return tuple(decode(Mixture, one, where="mixture") for one in found["mixtures"])

    def _simulated(self, graph: Path, what: str) -> Standing:
        arguments = {
            "model": str(self.job.model.path), "graph": str(graph), "judged": encode(self._judged())
        }  # fmt: skip
        found = self.job.runner.run(
            "edgekit.quantize.mixture:standing_file", arguments, label=f"simulate {self.target.name}: {what}"
        )
        return decode(Standing, found, where="standing")

    def _judged(self) -> Judged:
        return Judged(
            data=self.options.data,
            signature=self.job.model.signature,
            output=self.judge.output,
            metric=self.options.metric,
            most=_SEARCH_SAMPLES,
        )

    def _job(self, recipe: Recipe) -> Job:
        """The job with another recipe for this target alone, and a folder for the graphs it makes."""
        mine = tuple(name for name in recipe.targets if load_target(name).name == self.target.name)
        recipe = replace(recipe, targets=mine)
        return replace(self.job, recipe=recipe, work=self._folder("attempt"))

    def _lower(self, graph: Path, what: str) -> Artifact:
        label = f"lower {self.target.name} int8 ({what})"
        return lower_graph(self.job, self.target, "int8", graph, self._folder("artifact") / "int8", label)

    def _folder(self, kind: str) -> Path:
        self.folders += 1
        place = self.job.work / f"{self.target.name}-{kind}-{self.folders}"
        place.mkdir(parents=True)
        return place

    def _judged_and_timed(self, graph: Path, artifact: Artifact, plain: Artifact, account: Rescue) -> _Tried:
        """How an artifact stands in the engine, beside plain int8."""
        standing = self.judge.standing(artifact)
        account = replace(account, reached=keeps(standing, self.budgets), final=standing)
        answers = replace(self.budgets, min_sqnr_db=None)  # no luck in a mean over every value
        content = account.reached and keeps(standing, answers, margin=_MARGINS[0])
        deadline_s = self.job.recipe.deadline_s
        slower = relative_latency(plain.folder, artifact.folder, self.example, deadline_s=deadline_s)
        if slower is not None:
            account = replace(account, slowdown=slower.ratio, slowdown_interval=slower.interval)
        return _Tried(graph=graph, account=account, content=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tried:
    """A graph that was judged and timed in the engine; `content`: it keeps the budgets with a margin."""

    graph: Path
    account: Rescue
    content: bool

    def beats(self, other: _Tried) -> bool:
        """Whether this is better: nearer to the budgets, and of two that keep them clearly the faster one."""
        mine, others = ((t.content, t.account.reached) for t in (self, other))
        if mine != others:
            return mine > others
        if not self.account.reached:
            return self.account.final.sqnr_db > other.account.final.sqnr_db
        faster, slower = self.account.slowdown_interval, other.account.slowdown_interval
        return faster is not None and slower is not None and faster[1] < _CLEARLY_FASTER * slower[0]


def _preference(mixture: Mixture, algorithms: int) -> tuple[bool, float, int]:
    """What makes a mixture better: it meets the budgets, keeps fewer multiply-adds, fewer algorithms."""
    if mixture.met:
        return False, mixture.macs_share, algorithms
    return True, -mixture.standing.sqnr_db, algorithms
