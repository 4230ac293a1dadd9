"""The verbs, as functions: open, convert, validate, benchmark, run. The command line has the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.core.events import Listener, silent
from edgekit.core.model import Model
from edgekit.core.recipe import (
    BenchmarkOptions,
    CalibrationOptions,
    DataSource,
    Metric,
    Recipe,
)
from edgekit.core.report import Report
from edgekit.core.target import Precision

__all__ = ["benchmark", "convert", "open", "run", "validate"]


def open(
    source: str | Path,
    *,
    state: str | Path = "",
    trust: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    on_event: Listener = silent,
) -> Model:
    """Read a trained model into the canonical ONNX graph and prove the reading."""
    raise NotImplementedError


def convert(
    source: str | Path,
    *,
    targets: Sequence[str],
    output: str | Path,
    precisions: Sequence[Precision] = ("int8",),
    calibration: str | Path | CalibrationOptions | None = None,
    state: str | Path = "",
    trust: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    simplify: bool = True,
    quantized_io: bool = False,
    overwrite: bool = False,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Lower a model for every target and precision into `output`; writes the report there too."""
    raise NotImplementedError


def validate(
    output: str | Path,
    *,
    data: str | Path | DataSource,
    metric: Metric = "accuracy",
    judged_output: str = "",
    max_accuracy_drop: float | None = None,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Judge every artifact under `output` beside the source model on the same samples; updates the report."""
    raise NotImplementedError


def benchmark(
    output: str | Path,
    *,
    options: BenchmarkOptions | None = None,
    max_latency_ms: float | None = None,
    min_speedup: float | None = None,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Time every artifact under `output` beside the float source, interleaved; updates the report."""
    raise NotImplementedError


def run(recipe: Recipe | str | Path, *, on_event: Listener = silent) -> Report:
    """Everything from one recipe. The report's verdict says whether the budgets were kept."""
    raise NotImplementedError
