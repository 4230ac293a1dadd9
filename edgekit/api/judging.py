"""Artifacts judged: their answers, their latency, and the nodes that int8 damages."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.api.arguments import Data, data_source, source_options
from edgekit.core.beside import Beside
from edgekit.core.events import Listener, silent
from edgekit.core.recipe import BenchmarkOptions, CalibrationOptions, Metric, ValidationOptions
from edgekit.core.report import Report
from edgekit.core.sensitivity import Sensitivity
from edgekit.measure.verdict import judge
from edgekit.pipeline.benchmark import benchmark as _benchmark
from edgekit.pipeline.beside import place_beside
from edgekit.pipeline.validate import validate as _validate
from edgekit.report import read_report, write_report
from edgekit.search.analyze import AnalysisOptions
from edgekit.search.analyze import analyze as _analyze

__all__ = ["analyze", "benchmark", "finish", "validate"]


def validate(
    output: str | Path,
    *,
    data: Data,
    metric: Metric = "accuracy",
    judged_output: str = "",
    max_accuracy_drop: float | None = None,
    beside: Sequence[Beside] = (),
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Judge every artifact under `output` beside the source on the same samples; updates its report.

    `data` is a path, a `DataSource`, arrays by input name and "labels", or an iterable of samples. A limit
    that is given joins those the report was judged by before. `beside` are `.tflite` files of other makers
    that get a row of their own, compared but not judged; they stay in the report. Raises `EdgekitError`; the
    report on disk stays as it was then, but for rows that joined it.
    """
    out = Path(output)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        options = ValidationOptions(
            data=data_source(data, Path(scratch)), metric=metric, output=judged_output
        )
        known = _beside(out, beside, deadline_s, on_event)
        report = _validate(out, known, options, deadline_s=deadline_s, on_event=on_event)
    return finish(_bound(report, max_accuracy_drop=max_accuracy_drop), out)


def benchmark(
    output: str | Path,
    *,
    options: BenchmarkOptions | None = None,
    max_latency_ms: float | None = None,
    min_speedup: float | None = None,
    beside: Sequence[Beside] = (),
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Report:
    """Time every artifact under `output` beside the float source, interleaved; updates its report.

    `beside` is that of `validate`.
    """
    out = Path(output)
    known = _beside(out, beside, deadline_s, on_event)
    report = _benchmark(out, known, options or BenchmarkOptions(), deadline_s=deadline_s, on_event=on_event)
    return finish(_bound(report, max_latency_ms=max_latency_ms, min_speedup=min_speedup), out)


def analyze(
    source: str | Path | Any,
    *,
    target: str,
    calibration: Data | CalibrationOptions,
    data: Data | None = None,
    metric: Metric | None = None,
    samples: int = 32,
    judged_output: str = "",
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Sensitivity:
    """Rank every node that `target` runs in int8 by the damage it does alone, and what keeping it float buys.

    Judged on at most `samples` of `data` (None: of the calibration samples), beside the float network; with
    `metric` the data needs labels. Raises `EdgekitError`.
    """
    reading = source_options(
        source,
        example_inputs,
        state=state,
        trust=trust,
        signature=signature,
        custom_objects=custom_objects,
        shapes=shapes,
    )
    with reading as asked, tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        if not isinstance(calibration, CalibrationOptions):
            calibration = CalibrationOptions(data=data_source(calibration, Path(scratch, "calibration")))
        held_out = None if data is None else data_source(data, Path(scratch, "data"))
        return _analyze(
            asked,
            target=target,
            calibration=calibration,
            options=AnalysisOptions(data=held_out, metric=metric, output=judged_output, most=samples),
            deadline_s=deadline_s,
            on_event=on_event,
        )


def finish(report: Report, out: Path) -> Report:
    """The report with its verdict, also written under `out`."""
    judged = judge(report, report.budgets, report.allow_refused)
    write_report(judged, out)
    return judged


def _beside(out: Path, files: Sequence[Beside], deadline_s: float, on_event: Listener) -> Report:
    """The report under `out`, with a row for each file."""
    report = read_report(out)
    if not files:
        return report
    return finish(place_beside(out, report, files, deadline_s=deadline_s, on_event=on_event), out)


def _bound(report: Report, **limits: float | None) -> Report:
    """The report with the limits that were given added to those it was judged by before.

    `limits` are fields of `Budgets` that are a float or None, which mypy cannot see of keywords: hence the
    ignored type. A name that is no field is a TypeError of `replace`.
    """
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return replace(report, budgets=replace(report.budgets, **given))  # type: ignore[arg-type]
