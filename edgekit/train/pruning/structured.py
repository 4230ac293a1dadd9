"""Structured pruning, step by step: rank, cut, recover, judge; stop where the answers would break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.core.progress import report_note
from edgekit.core.pruning import PruningOptions, PruningStep
from edgekit.core.training import TrainingMetric
from edgekit.errors import Reason, Unsupported, UsageError
from edgekit.graph.canonical import save_model
from edgekit.graph.generate import generate_inputs
from edgekit.measure.metrics import RATE_METRICS
from edgekit.train.data import TrainingData
from edgekit.train.from_graph import load_canonical, trainable
from edgekit.train.judging import Judge
from edgekit.train.loop import train
from edgekit.train.objective import check_batch, judge_of, objective_of
from edgekit.train.pruning import importance
from edgekit.train.pruning.channels import channel_groups
from edgekit.train.pruning.choosing import check_keep, choose, kept_apart
from edgekit.train.pruning.compensating import compensated
from edgekit.train.pruning.costs import cost_model, macs_of, parameters_of, zeros_of
from edgekit.train.pruning.cutting import cut_graph
from edgekit.train.pruning.groups import Group
from edgekit.train.pruning.heads import head_groups
from edgekit.train.pruning.proof import agrees, proven
from edgekit.train.rates import PRUNED, kept_rate, with_rate
from edgekit.train.teaching import named_call
from edgekit.train.to_graph import write_back

__all__ = ["Pruned", "broken", "prunable_groups", "prune_structured"]

_BATCHES = 8  # that gradients and activations are averaged over
_PROJECTED = 12  # random directions of the answers, a batch each
Measure = Callable[[Path], float]  # an ONNX file -> what it costs (ms)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What pruning did: `steps` from the unpruned network (number 0) on, `result` the number of the one that
    was written, `stopped` why pruning ended before what was asked for ("" where it did not), `metric` what
    scores are, `reasons` why layers stayed whole."""

    steps: tuple[PruningStep, ...]
    metric: str
    result: int
    stopped: str
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()


def prunable_groups(path: Path, method: str) -> tuple[list[Group], list[Reason]]:
    """The proven groups of a canonical ONNX file, in the order of the graph, and why others are none.

    `method` is "channels", "heads" or "structured" (both).
    """
    torch = require("torch", needed_for="pruning")
    model = load_canonical(path)
    groups: list[Group] = []
    reasons: list[Reason] = []
    if method != "heads":
        inputs = tuple(torch.from_numpy(v) for v in generate_inputs(path, 0).values())
        groups, reasons = channel_groups(trainable(path), model, inputs)
    if method != "channels":
        found, more = head_groups(model)
        groups, reasons = [*groups, *found], [*reasons, *more]
    good, bad = proven(model, groups, path)
    return good, [*reasons, *bad]


def prune_structured(
    path: Path, out: Path, work: Path, options: PruningOptions, data: TrainingData | None,
    measure: Measure | None = None,
) -> Pruned:
    """Prune the canonical ONNX file `path` to `out`; what steps leave behind goes to the folder `work`.

    A step that was finished in `work` is taken from there, so that an interrupted run goes on. `measure`
    gives latencies where they are what is to fall. Raises `Unsupported` where nothing can be pruned, or
    the floors do not allow what is asked for at the first step.
    """
    check_keep(options.keep, [node.name for node in load_canonical(path).graph.node])
    groups, reasons = prunable_groups(path, options.method)
    groups = kept_apart(groups, options.keep, _readers(path))
    if not groups:
        raise Unsupported(
            f"no {options.method} of this network can be pruned",
            reasons=reasons[:12],
            hint='single weights can be: method = "unstructured" or "2:4"',
        )
    original = {g.name: g.count for g in groups}
    allowed = set(original)
    wanted = _Wanted.of(path, groups, options, measure)
    judge = _judge(path, data, options)
    score = judge(trainable(path), named_call) if judge else None
    steps = [_figures(path, 0, (score, score, score), measure)]
    current, result, stopped = path, 0, ""
    notes: list[str] = []
    for number in range(1, options.steps + 1):
        files = _Files(work, number)
        try:
            if not files.start.is_file():
                found, _ = prunable_groups(current, options.method)
                found = [g for g in found if g.name in allowed]
                notes += _cut(current, files, found, options, data, wanted, original, path, measure)
        except Unsupported as err:
            if number == 1:
                raise
            stopped = f"step {number}: {err.message}"
            break
        scores = _recover(files, path, data, options, judge)
        step = _figures(files.file, number, scores, measure)
        figure = "" if judge is None or step.after is None else f", {judge.name} {step.after:.4g}"
        report_note(f"step {number}/{options.steps}: {step.macs:,} multiply-adds{figure}")
        steps.append(step)
        if why := broken(steps[0].after, step.after, judge, options):
            stopped = f"step {number}: {why}; the step before is the result"
            break
        current, result = files.file, number
    if current == path:
        raise Unsupported(f"nothing was pruned: {stopped}", hint="smaller steps, or a longer recovery")
    save_model(require("onnx").load(str(current)), out)
    return Pruned(
        steps=tuple(steps), metric=judge.name if judge else "", result=result, stopped=stopped,
        reasons=tuple(reasons), notes=tuple(notes),
    )


@dataclass(frozen=True, slots=True)
class _Files:
    """What a step leaves in a folder: the graph as it was `cut`, with its readers adjusted (`start`), and
    trained (`file`); each is written when it is finished."""

    folder: Path
    number: int

    @property
    def cut(self) -> Path:
        return self.folder / f"step-{self.number}.cut.onnx"

    @property
    def start(self) -> Path:
        return self.folder / f"step-{self.number}.start.onnx"

    @property
    def file(self) -> Path:
        return self.folder / f"step-{self.number}.onnx"

    @property
    def state(self) -> Path:
        return self.folder / f"step-{self.number}.state"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """The cost that each step is to reach: equal factors from the unpruned to the last."""

    base: float
    measure: str
    steps: int
    remove: float

    @classmethod
    def of(
        cls, path: Path, groups: list[Group], options: PruningOptions, measure: Measure | None
    ) -> _Wanted:
        if options.measure == "latency":
            if measure is None:
                raise UsageError("latency is measured by `edgekit prune` and recipes alone")
            base = measure(path)
        else:
            base = cost_model(load_canonical(path), groups, _kind(options))({})
        return cls(base=base, measure=_kind(options), steps=options.steps, remove=options.remove)

    def at(self, number: int) -> float:
        return float(self.base * (1.0 - self.remove) ** (number / self.steps))


def _kind(options: PruningOptions) -> str:
    return "heads" if options.method == "heads" and options.measure != "latency" else options.measure


def _cut(
    current: Path, files: _Files, groups: list[Group], options: PruningOptions, data: TrainingData | None,
    wanted: _Wanted, original: Mapping[str, int], teacher: Path, measure: Measure | None,
) -> list[str]:  # fmt: skip
    """Write the graph of one step, as cut and with its readers adjusted, before it is trained; and notes."""
    model = load_canonical(current)
    scores = _scores(current, model, groups, options, data, teacher)
    notes = []
    if wanted.measure == "latency":
        assert measure is not None
        ask = wanted.at(files.number)
        removal, note = _to_latency(model, groups, scores, options, original, ask, measure, files)
        notes = [f"step {files.number}: {note}"]
        report_note(notes[0])
    else:
        cost = cost_model(model, groups, wanted.measure)
        removal = choose(groups, scores, cost, wanted.at(files.number), options, original)
    smaller = cut_graph(model, groups, removal)
    if why := agrees(model, groups, removal, current):
        raise Unsupported(f"the cut graph was not proven: {why}")
    save_model(smaller, files.cut)
    if data is not None and options.compensation != "none":
        plain = replace(data, augment=None)
        adjusted = compensated(model, trainable(current), groups, removal, plain, _BATCHES)
        smaller = cut_graph(adjusted, groups, removal)
    save_model(smaller, files.start)
    return notes


def _to_latency(
    model: Any, groups: list[Group], scores: Mapping[str, NDArray[np.float64]], options: PruningOptions,
    original: Mapping[str, int], wanted_ms: float, measure: Measure, files: _Files,
) -> tuple[dict[str, NDArray[np.int64]], str]:
    """The removal that leaves most multiply-adds at the measured latency that is wanted, found by halving;
    and what was tried."""
    cost = cost_model(model, groups, "macs")
    full = cost({})
    trial = files.folder / f"step-{files.number}.trial.onnx"
    low, high = 0.05, 1.0
    best: tuple[dict[str, NDArray[np.int64]], float, float] | None = None
    fastest, refused = float("inf"), ""
    for _ in range(6):
        middle = (low + high) / 2
        try:
            removal = choose(groups, scores, cost, full * middle, options, original)
        except Unsupported:  # the floors do not allow so few
            low = middle
            continue
        try:
            save_model(cut_graph(model, groups, removal), trial)
        except Unsupported as err:
            refused = str(err.reasons[0]) if err.reasons else err.message
            low = middle
            continue
        fastest = min(fastest, got := measure(trial))
        if got <= wanted_ms:
            left = {g.name: g.count - len(removal.get(g.name, ())) for g in groups}
            low, best = middle, (removal, cost(left) / full, got)
        else:
            high = middle
    trial.unlink(missing_ok=True)
    skipped = f"; some cuts cannot be made: {refused}" if refused else ""
    if best is None:
        reached = f"; the fastest that was tried takes {fastest:.3g} ms" if fastest < float("inf") else ""
        raise Unsupported(
            f"the latency cannot be brought to {wanted_ms:.3g} ms on {options.target} within the floors"
            f"{reached}{skipped}",
            hint=f"lower floor (it is {options.floor:g}), or remove less",
        )
    removal, share, got = best
    text = f"{wanted_ms:.3g} ms on {options.target} wanted, {got:.3g} ms at {share:.2f} of the multiply-adds"
    return removal, text + skipped


def _scores(
    current: Path, model: Any, groups: list[Group], options: PruningOptions, data: TrainingData | None,
    teacher: Path,
) -> Mapping[str, NDArray[np.float64]]:
    if options.criterion == "magnitude" or data is None or options.recovery is None:
        return importance.magnitude(model, groups)
    module = trainable(current)
    plain = replace(data, augment=None)
    if options.criterion == "activation":
        return importance.activation(model, module, groups, plain, _BATCHES)
    if not data.has_labels:  # against its own answers a network's gradient is zero
        return importance.taylor(model, module, groups, plain, importance.projected, _PROJECTED)
    objective = objective_of(module, None, data, options.recovery, options.distill)
    return importance.taylor(model, module, groups, plain, objective, _BATCHES)


def _recover(
    files: _Files, teacher: Path, data: TrainingData | None, options: PruningOptions, judge: Judge | None
) -> tuple[float | None, float | None, float | None]:
    """Train what a step left; the scores of the graph as cut, as adjusted, as trained."""
    module = trainable(files.start)
    if data is None or options.recovery is None:
        save_model(load_canonical(files.start), files.file)
        return None, None, None
    check_batch(module, options.recovery)
    against = teacher if options.learn_from == "teacher" else None
    # before anything is judged: named layers that lost channels cannot be compared
    objective = objective_of(module, against, data, options.recovery, options.distill)
    cut = judge(trainable(files.cut), named_call) if judge else None
    start = cut if judge is None or options.compensation == "none" else judge(module, named_call)
    if files.file.is_file():
        return cut, start, judge(trainable(files.file), named_call) if judge else None
    # agreement is too coarse to tell epochs apart by: the distance to the teacher does
    picked = judge and replace(judge, objective=objective, metric=_finer(judge.metric))
    chosen = with_rate(
        module, objective, data, options.recovery, judge=picked, checkpoint=files.state,
        rates=PRUNED, almost=1.0,
    )  # fmt: skip
    result = train(module, objective, data, chosen, judge=picked, checkpoint=files.state)
    write_back(module, files.start, files.file)
    for left in (files.state, kept_rate(files.state)):
        left.unlink(missing_ok=True)
    if judge is None or picked is None or picked.metric == judge.metric:
        return cut, start, result.score
    return cut, start, judge(module, named_call)


def _finer(metric: TrainingMetric) -> TrainingMetric:
    return "loss" if metric == "agreement" else metric


def _judge(path: Path, data: TrainingData | None, options: PruningOptions) -> Judge | None:
    if data is None or options.recovery is None:
        return None
    module = trainable(path)
    against = path if options.learn_from == "teacher" else None
    objective = objective_of(module, against, data, options.recovery, options.distill)
    return judge_of(module, objective, data, options.recovery)


def broken(first: float | None, score: float | None, judge: Judge | None, options: PruningOptions) -> str:
    """Why a score is not within the budget; "" where it is."""
    if options.max_drop is None or judge is None or first is None or score is None:
        return ""
    rate = judge.metric == "agreement" or judge.metric in RATE_METRICS
    drop = 100 * (first - score) if rate else score - first
    if drop <= options.max_drop:
        return ""
    unit = " points" if rate else ""
    return f"{judge.name} fell by {drop:.3g}{unit}, max_drop allows {options.max_drop:g}"


def _figures(
    path: Path, number: int, scores: tuple[float | None, float | None, float | None], measure: Measure | None
) -> PruningStep:
    model = load_canonical(path)
    before, adjusted, after = scores
    return PruningStep(
        number=number, macs=macs_of(model), parameters=parameters_of(model), zeros=zeros_of(model),
        before=before, compensated=adjusted, after=after, latency_ms=measure(path) if measure else None,
    )  # fmt: skip


def _readers(path: Path) -> dict[str, set[str]]:
    """Constant -> the nodes that read it."""
    found: dict[str, set[str]] = {}
    for node in load_canonical(path).graph.node:
        for name in node.input:
            found.setdefault(name, set()).add(node.name)
    return found
