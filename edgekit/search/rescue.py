"""Rescue: where int8 breaks its budgets on a target, the cheapest way back within them.

Plain int8 is judged first, in the target's engine. If it breaks the budgets, whole-network algorithms are
tried one after the other, each kept when it helps: they cost nothing when the network runs. If that is not
enough, nodes stay in float, the fewest multiply-adds that suffice. The search simulates, on every second
validation call, and wants the budgets kept with a margin for the luck of the draw; what it finds is judged in
the engine, on the other calls, and sought again with a larger margin where that fails.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgekit.core.artifact import Artifact
from edgekit.core.codec import decode, encode
from edgekit.core.events import Event
from edgekit.core.files import digest_file
from edgekit.core.packages import installed_version
from edgekit.core.recipe import Budgets, Recipe, ValidationOptions
from edgekit.core.report import Attempt, Rescue
from edgekit.core.samples import open_samples
from edgekit.core.sensitivity import Standing
from edgekit.core.target import Int8Policy, Target
from edgekit.measure.metrics import ERROR_METRICS
from edgekit.measure.standing import keeps
from edgekit.pipeline.cache import cached_folder
from edgekit.pipeline.convert import lower_graph
from edgekit.pipeline.job import Job, Mended
from edgekit.pipeline.quantizing import calibration_of, evened_out, quantized_graph
from edgekit.quantize.mixture import Mixture
from edgekit.search.analyze import judged_output
from edgekit.search.engine import Judge, relative_latency

__all__ = ["ALGORITHMS", "Rescuer"]

_SEARCH_SAMPLES = 512  # at most, evenly spread over the search half
_WORTH_DB = 0.1  # what an algorithm has to bring to be kept
_MARGINS = (1.0, 1.64, 2.33)  # standard errors: of 84, 95 and 99 % of draws, one-sided
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
        recipe, best, done = self._algorithms(graph)
        if done:
            stronger = self._lower(best, "int8 with stronger algorithms")
            found = self.judge.standing(stronger)
            if keeps(found, self.budgets):
                return self._finished(best, stronger, plain, replace(account, final=found, done=done))
        return self._mixture({(): self.job.recipe, done: recipe}, plain, account)

    def _algorithms(self, graph: Path) -> tuple[Recipe, Path, tuple[str, ...]]:
        """The recipe, the graph and the names of the algorithms that help, by simulation."""
        recipe, best = self.job.recipe, graph
        standing = self._simulated(graph, "plain int8")
        self.tried.append(Attempt(what="plain int8", standing=standing))
        done: tuple[str, ...] = ()
        for name, change in ALGORITHMS.items():
            if keeps(standing, self.budgets, margin=_MARGINS[0]):
                break
            candidate = change(recipe)
            if candidate == recipe or (name in _POLISH and standing.sqnr_db < _POLISH_FROM_DB):
                continue
            made = quantized_graph(self._job(candidate), self.policy)
            found = self._simulated(made, name)
            self.tried.append(Attempt(what=name, standing=found))
            if found.sqnr_db > standing.sqnr_db + _WORTH_DB:
                recipe, best, standing, done = candidate, made, found, (*done, name)
        return recipe, best, done

    def _mixture(self, recipes: dict[tuple[str, ...], Recipe], plain: Artifact, account: Rescue) -> Mended:
        """Keep nodes in float, by ever stricter searches, until the engine keeps the budgets with a margin.

        Each recipe (by the names of the algorithms it turned on) is searched: what helps the whole network
        in integers, clipping for one, can hurt where some of it is float.
        """
        best: tuple[Path, Artifact, Rescue] | None = None
        budgets = self.budgets
        for margin in _MARGINS:
            found = {done: self._search(self._job(r), budgets, margin) for done, r in recipes.items()}
            done = min(found, key=lambda d: _preference(found[d], len(d)))
            graph, artifact, tried = self._mixed(recipes[done], found[done], replace(account, done=done))
            if best is None or _rank(tried) > _rank(best[2]):
                best = graph, artifact, tried
            answers = replace(self.budgets, min_sqnr_db=None)  # no luck in a mean over every value
            if not found[done].met or (tried.reached and keeps(tried.final, answers, margin=_MARGINS[0])):
                break
            least = found[done].standing.sqnr_db + _STRICTER_DB
            budgets = replace(budgets, min_sqnr_db=max(least, budgets.min_sqnr_db or least))
        assert best is not None
        return self._finished(best[0], best[1], plain, best[2])

    def _mixed(self, recipe: Recipe, mixture: Mixture, account: Rescue) -> tuple[Path, Artifact, Rescue]:
        """The graph and the artifact of a mixture, judged in the engine."""
        kept: dict[str, Literal["float32", "int16x8"]] = dict.fromkeys(mixture.kept, "float32")
        quantization = replace(recipe.quantization, keep={**recipe.quantization.keep, **kept})
        graph = quantized_graph(self._job(replace(recipe, quantization=quantization)), self.policy)
        what = f"{len(mixture.kept)} of the nodes in float32"
        self.tried.append(Attempt(what="; ".join([*account.done, what]), standing=mixture.standing))
        artifact = self._lower(graph, what)
        standing = self.judge.standing(artifact)
        tried = replace(
            account,
            reached=keeps(standing, self.budgets),
            final=standing,
            kept=dict(kept),
            kept_macs_share=mixture.macs_share,
        )
        return graph, artifact, tried

    def _search(self, job: Job, budgets: Budgets, margin: float) -> Mixture:
        """The mixture that keeps `budgets` in simulation, from the cache when it was searched before."""
        job = evened_out(job, [self.policy])
        ranges = calibration_of(job, [self.policy])
        arguments = {
            **self._samples(),
            "policy": encode(self.policy),
            "options": encode(job.recipe.quantization),
            "budgets": encode(budgets),
            "margin": margin,
        }
        label = f"search a mixture for {self.target.name}"

        def build(folder: Path) -> None:
            job.runner.run(
                "edgekit.quantize.mixture:mixture_file",
                {
                    **arguments,
                    "model": str(job.model.path),
                    "calibration": str(ranges),
                    "out": str(folder / "mixture.json"),
                },
                label=label,
            )

        need = self.options.metric not in ERROR_METRICS
        inputs = {
            **arguments,
            "model": job.model.digest,
            "ranges": digest_file(ranges),
            "samples": open_samples(self.options.data, job.model.signature, need_labels=need).digest,
            "versions": {name: installed_version(name) for name in ("numpy", "onnxruntime")},
        }
        folder, cached = cached_folder("mixture", version=1, inputs=inputs, build=build)
        if cached:
            job.runner.on_event(Event(step=label, state="cached"))
        return decode(Mixture, json.loads((folder / "mixture.json").read_text("utf-8")), where=str(folder))

    def _simulated(self, graph: Path, what: str) -> Standing:
        arguments = {"model": str(self.job.model.path), "graph": str(graph), **self._samples()}
        found = self.job.runner.run(
            "edgekit.quantize.mixture:standing_file", arguments, label=f"simulate {self.target.name}: {what}"
        )
        return decode(Standing, found, where="standing")

    def _samples(self) -> dict[str, Any]:
        return {
            "data": encode(self.options.data),
            "signature": encode(self.job.model.signature),
            "output": self.judge.output,
            "metric": self.options.metric,
            "most": _SEARCH_SAMPLES,
        }

    def _job(self, recipe: Recipe) -> Job:
        """The job with another recipe, and a folder of its own for the graphs it makes."""
        return replace(self.job, recipe=recipe, work=self._folder("attempt"))

    def _lower(self, graph: Path, what: str) -> Artifact:
        label = f"lower {self.target.name} int8 ({what})"
        return lower_graph(self.job, self.target, "int8", graph, self._folder("artifact") / "int8", label)

    def _folder(self, kind: str) -> Path:
        self.folders += 1
        place = self.job.work / f"{self.target.name}-{kind}-{self.folders}"
        place.mkdir(parents=True)
        return place

    def _finished(self, graph: Path, artifact: Artifact, plain: Artifact, account: Rescue) -> Mended:
        slower = relative_latency(
            plain.folder, artifact.folder, self.example, deadline_s=self.job.recipe.deadline_s
        )
        account = replace(account, tried=tuple(self.tried))
        if slower is not None:
            account = replace(account, slowdown=slower.ratio, slowdown_interval=slower.interval)
        return Mended(graph=graph, rescue=account)


def _rank(account: Rescue) -> tuple[bool, float]:
    """What makes a judged mixture better: it keeps the budgets, and its answers are nearer."""
    return account.reached, account.final.sqnr_db


def _preference(mixture: Mixture, algorithms: int) -> tuple[bool, float, int]:
    """What makes a mixture better: it meets the budgets, has fewer float multiply-adds, fewer algorithms."""
    if mixture.met:
        return False, mixture.macs_share, algorithms
    return True, -mixture.standing.sqnr_db, algorithms
