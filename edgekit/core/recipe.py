"""A recipe: what is wanted. Frozen dataclasses in Python, one TOML file on disk."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from edgekit.core.codec import decode_toml
from edgekit.core.pruning import PruningOptions
from edgekit.core.qat import QatOptions
from edgekit.core.sources import DataSource, Metric, SourceOptions
from edgekit.core.target import CALIBRATED, Precision
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.errors import UsageError

__all__ = [
    "BenchmarkOptions",
    "Budgets",
    "CalibrationOptions",
    "DataSource",
    "Metric",
    "QuantizationOptions",
    "Recipe",
    "SourceOptions",
    "ValidationOptions",
    "load_recipe",
]

_LEARN_FROM = 32  # samples: with fewer, learned codes fit the samples more than the network


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """How activation ranges are found.

    `method`: the extremes ("minmax"), their moving average, a percentile (`percentile`, of 100, is used by it
    alone), the range of least squared quantization error ("mse") or of least Kullback-Leibler divergence
    ("entropy"), or for each tensor whichever leaves least error on samples that did not set it ("auto").
    """

    data: DataSource
    method: Literal["auto", "minmax", "moving-average", "percentile", "mse", "entropy"] = "auto"
    percentile: float = 99.99
    batch_size: int = 1

    def __post_init__(self) -> None:
        if not 50.0 < self.percentile <= 100.0:
            raise UsageError(f"percentile: got {self.percentile!r}, allowed: above 50, up to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationOptions:
    """How a float network is brought into integers; the algorithms are described in `quantize.algorithms`.

    `bias_correction`: from the means of the calibration pass ("analytic"), from running the quantized network
    on the samples ("empirical"), or that where analytic correction leaves answers poor and samples held out
    say that it helps, from 32 samples on ("auto"). `equalize`: even out the channel scales of layers that
    follow each other. `smooth`: the largest share (0: none, up to 1) of the outliers of normalized
    activations that may move into the weights behind them. `weight_clipping`: the scale of weights by their
    maximum or by least squared error. `rounding`: codes of weights by their own value ("nearest"), by the
    error they make at the layer's output on the samples ("learned"), or learned where samples held out say
    that it helps, from 32 samples on ("auto"). `leave_float`: what 8 bits would destroy and what integers
    gain nothing for (spectra, normalizations written in arithmetic, islands) stays float without being named.
    `keep`: node name -> the precision it keeps in an "int8" artifact. `rescue`: where an int8 artifact breaks
    a budget on accuracy, SQNR or agreement, find what brings it back: stronger algorithms, then nodes that
    keep a higher precision.
    """

    bias_correction: Literal["auto", "none", "analytic", "empirical"] = "auto"
    equalize: bool = False
    smooth: float = 0.0
    weight_clipping: Literal["max", "mse"] = "max"
    rounding: Literal["auto", "nearest", "learned"] = "auto"
    leave_float: bool = True
    keep: dict[str, Literal["float32", "int16x8"]] = field(default_factory=dict)
    rescue: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.smooth <= 1.0:
            raise UsageError(f"smooth: got {self.smooth!r}, allowed: 0 (off) to 1")

    def learns_rounding(self, samples: int) -> bool:
        """Whether codes of weights are learned from so many samples."""
        return self.rounding == "learned" or (self.rounding == "auto" and samples >= _LEARN_FROM)

    def may_correct_by_answers(self, samples: int) -> bool:
        """Whether empirical correction is tried where the answers are poor, as so many samples allow."""
        return self.bias_correction == "auto" and self.rounding != "nearest" and samples >= _LEARN_FROM

    def looks_at_samples(self, count: int) -> bool:
        """Whether an algorithm runs the network on the `count` samples, besides the calibration pass."""
        return self.learns_rounding(count) or self.bias_correction == "empirical"

    def without_effect(self, precisions: tuple[Precision, ...]) -> list[str]:
        """The options that differ from their defaults and change no artifact of these precisions, and why."""
        defaults = QuantizationOptions()
        problems = []
        for name in (f.name for f in fields(self) if getattr(self, f.name) != getattr(defaults, f.name)):
            mixes = name == "rescue" or (name == "keep" and "float32" not in self.keep.values())
            serves = ("int8",) if mixes else CALIBRATED
            if not set(serves) & set(precisions):
                needed, given = (", ".join(map(repr, names)) for names in (serves, precisions))
                problems.append(f"quantization.{name} would have no effect: it serves {needed}; got {given}")
        return problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationOptions:
    """What proves an artifact: samples it has not seen, and a metric. `output` names the output judged."""

    data: DataSource
    metric: Metric = "accuracy"
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkOptions:
    """How latency is measured: `rounds` interleaved rounds of every artifact, after `warmup` calls each."""

    rounds: int = 40
    warmup: int = 10
    threads: int = 1

    def __post_init__(self) -> None:
        bad = [f"{n}: got {v}, at least {low} is needed" for n, v, low in (
            ("rounds", self.rounds, 5), ("warmup", self.warmup, 0), ("threads", self.threads, 1)) if v < low]
        if bad:
            raise UsageError("benchmark options out of range", problems=bad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """What an artifact must keep to. None means no limit.

    `max_accuracy_drop` is in units of the metric times 100 for rates (points); `min_sqnr_db` and
    `min_top1_agreement` (0 to 1) compare with the source's own answers; `min_speedup` is over the float32
    artifact of the same engine; `precisions` says which artifacts the budgets bind (empty: all).
    """

    max_accuracy_drop: float | None = None
    min_sqnr_db: float | None = None
    min_top1_agreement: float | None = None
    max_latency_ms: float | None = None
    max_size_bytes: int | None = None
    min_speedup: float | None = None
    precisions: tuple[Precision, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One run: source, targets, precisions, samples and algorithms, validation, benchmark, budgets, output.

    `allow_refused` lists "target/precision" pairs whose refusal is expected and does not fail the run.
    `layout` replaces that of every target ("": the target's own). `labels` is a text file with the name of
    each class on a line of its own; the artifacts carry it, with the preprocessing of the samples. `prune`
    makes the float network smaller and `finetune` trains it, with `distill` towards the answers of the
    network as it came; `qat` trains the int8 graphs of all targets together before they are lowered, with
    `distill` towards the answers of the float network.
    """

    schema: int = 1
    source: SourceOptions
    targets: tuple[str, ...]
    precisions: tuple[Precision, ...] = ("int8",)
    output: str
    calibration: CalibrationOptions | None = None
    quantization: QuantizationOptions = field(default_factory=QuantizationOptions)
    prune: PruningOptions | None = None
    finetune: TrainingOptions | None = None
    qat: QatOptions | None = None
    distill: DistillationOptions | None = None
    validation: ValidationOptions | None = None
    benchmark: BenchmarkOptions | None = None
    budgets: Budgets = field(default_factory=Budgets)
    allow_refused: tuple[str, ...] = ()
    overwrite: bool = False
    simplify: bool = True
    quantized_io: bool = False
    layout: Literal["", "source", "nhwc"] = ""
    labels: str = ""
    deadline_s: float = 900.0

    def __post_init__(self) -> None:
        problems = []
        if self.schema != 1:
            problems.append(f"schema: got {self.schema!r}, this edgekit reads 1")
        if not self.targets:
            problems.append("targets: at least one is needed")
        if not self.precisions:
            problems.append("precisions: at least one is needed")
        if len(set(self.targets)) != len(self.targets):
            problems.append("targets: one is named twice")
        for precision in CALIBRATED:
            if precision in self.precisions and self.calibration is None:
                need = "needs samples (--calibration, or [calibration.data]); float32 and float16 need none"
                problems.append(f"precision {precision!r} {need}")
        judged = ("max_accuracy_drop", "min_sqnr_db", "min_top1_agreement")
        given = [name for name in judged if getattr(self.budgets, name) is not None]
        if self.validation is None:
            problems += [f"budgets.{name} needs a [validation] table" for name in given]
        if self.quantization.rescue and not given:
            problems.append(f"quantization.rescue needs a budget to reach: {', '.join(judged)}")
        problems += self.quantization.without_effect(self.precisions)
        problems += self._training_problems()
        for name in ("max_latency_ms", "min_speedup"):
            if getattr(self.budgets, name) is not None and self.benchmark is None:
                problems.append(f"budgets.{name} needs a [benchmark] table")
        if problems:
            raise UsageError("the recipe is not complete", problems=problems)

    def _training_problems(self) -> list[str]:
        problems = []
        if self.distill and not (self.qat or self.finetune):
            problems.append("distill says how a network learns: add a [finetune] or a [qat] table")
        if (self.prune or self.finetune) and self.source.dynamic:
            problems.append("a network with dynamic dimensions is neither pruned nor fine-tuned")
        if self.qat is None:
            return problems
        if "int8" not in self.precisions:
            problems.append("qat trains int8 graphs: name the precision 'int8'")
        if self.quantization.rescue:
            problems.append("qat and quantization.rescue: a rescue would quantize again what was trained")
        if "int16x8" in self.quantization.keep.values():
            problems.append("qat with nodes that keep 'int16x8' is not known: let them keep 'float32'")
        if self.distill and (self.distill.teacher or self.distill.student) and self.finetune is None:
            problems.append("qat learns from the float network: give teacher and student a [finetune] table")
        return problems


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; relative paths in it are taken from the recipe's own folder."""
    recipe = decode_toml(Recipe, path)
    base = path.parent

    def located(text: str) -> str:
        found = text and (base / text.partition(":")[0]).exists()
        return os.path.normpath(base / text) if found else text

    def data(source: DataSource) -> DataSource:
        return replace(source, path=located(source.path), preprocessing=located(source.preprocessing))

    def training(options: TrainingOptions) -> TrainingOptions:
        return replace(
            options,
            data=tuple(map(data, options.data)),
            validation=options.validation and data(options.validation),
            augmentation=located(options.augmentation),
        )

    def network(options: SourceOptions | None) -> SourceOptions | None:
        return options and replace(options, model=located(options.model), state=located(options.state))

    source = replace(recipe.source, model=located(recipe.source.model), state=located(recipe.source.state))
    calibration, validation = recipe.calibration, recipe.validation
    return replace(
        recipe,
        source=source,
        labels=located(recipe.labels),
        output=os.path.normpath(base / recipe.output),
        calibration=calibration and replace(calibration, data=data(calibration.data)),
        validation=validation and replace(validation, data=data(validation.data)),
        prune=recipe.prune
        and replace(recipe.prune, recovery=recipe.prune.recovery and training(recipe.prune.recovery)),
        finetune=recipe.finetune and training(recipe.finetune),
        distill=recipe.distill and replace(
            recipe.distill, teacher=network(recipe.distill.teacher), student=network(recipe.distill.student)
        ),
        qat=recipe.qat and replace(recipe.qat, training=training(recipe.qat.training)),
    )
