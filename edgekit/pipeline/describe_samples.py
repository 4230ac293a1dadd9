"""What a model would be fed: count, ranges, labels, digest, and the network's own judgement."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.artifact import open_artifact
from edgekit.core.codec import encode
from edgekit.core.events import Event, Listener
from edgekit.core.model import Signature
from edgekit.core.recipe import DataSource, SourceOptions
from edgekit.core.samples import Samples, open_samples
from edgekit.core.samples.preprocessing import is_picture
from edgekit.pipeline.layout import STATISTICS, yardstick_folder
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.sample_check import keep_statistics
from edgekit.pipeline.steps import StepRunner
from edgekit.pipeline.validate import signature_of

__all__ = ["InputSummary", "SamplesReport", "describe_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSummary:
    """The values of one input over all samples, of every channel for pictures, else of all together: `low`,
    `mean`, `deviation` and `high` have one number each or one a channel."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    low: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplesReport:
    """What `edgekit samples` tells. `classes` counts distinct labels; None without labels. `judgement`: how
    the samples fit the BatchNorm of the model ("samples", "suspicion", "variance", "distance"); None where
    it has none."""

    spec: str
    count: int
    digest: str
    inputs: tuple[InputSummary, ...]
    classes: int | None
    judgement: dict[str, Any] | None
    notes: tuple[str, ...] = ()


def describe_samples(data: DataSource, model: SourceOptions, *, on_event: Listener) -> SamplesReport:
    """Stream the samples once as calibration would, for `model`: a source, or a folder that `convert` wrote.

    Raises `UsageError` for samples that do not go with the model or cannot be used.
    """
    runner = StepRunner(on_event=on_event)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        out = Path(model.model)
        if (yardstick_folder(out)).is_dir():
            signature = signature_of(open_artifact(yardstick_folder(out)).manifest)
        else:
            out = Path(scratch)
            read = read_model(model, out=out / "model", runner=runner)
            keep_statistics(read, out, runner)
            signature = read.signature
        samples = open_samples(data, signature)
        summaries, classes = _summaries(samples, on_event)
        judgement = None
        if (out / STATISTICS).is_file():
            judgement = _judged(out / STATISTICS, data, signature, runner)
    return SamplesReport(
        spec=samples.spec,
        count=samples.count,
        digest=samples.fingerprint,
        inputs=summaries,
        classes=classes,
        judgement=judgement,
        notes=samples.notes,
    )


def _judged(statistics: Path, data: DataSource, signature: Signature, runner: StepRunner) -> dict[str, Any]:
    arguments = {"statistics": str(statistics), "data": encode(data), "signature": encode(signature)}
    judgement: dict[str, Any] = runner.run(
        "edgekit.graph.check_samples:check_samples", arguments, label="ask the network"
    )
    return judgement


def _summaries(samples: Samples, on_event: Listener) -> tuple[tuple[InputSummary, ...], int | None]:
    running = {spec.name: _Running(is_picture(spec.shape)) for spec in samples.specs}
    classes: set[float] = set()
    label, done = f"read {samples.count} samples", 0
    on_event(Event(step=label, state="start", total=samples.count))
    for batch in samples.calls():
        for name, values in batch.inputs.items():
            running[name].update(values)
        if batch.labels is not None:
            classes.update(np.unique(batch.labels).tolist())
        done += len(batch)
        on_event(Event(step=label, state="progress", done=done, total=samples.count))
    on_event(Event(step=label, state="done"))
    found = [running[s.name].summary(s.name, s.dtype, s.shape) for s in samples.specs]
    return tuple(found), len(classes) if samples.has_labels else None


class _Running:
    """Least, mean, deviation and greatest value, of every channel on `axis` or of all (None)."""

    def __init__(self, axis: int | None) -> None:
        self.axis = axis
        self.total: NDArray[np.float64] | None = None

    def update(self, values: NDArray[Any]) -> None:
        """Take in one batch."""
        moved = values.reshape(1, -1) if self.axis is None else np.moveaxis(values, self.axis, 0)
        rows = moved.reshape(moved.shape[0], -1).astype(np.float64)
        now = np.stack([
            rows.min(1), rows.max(1), rows.sum(1), (rows**2).sum(1), np.full(len(rows), rows.shape[1])
        ])  # fmt: skip
        if self.total is None:
            self.total = now
            return
        self.total[0] = np.minimum(self.total[0], now[0])
        self.total[1] = np.maximum(self.total[1], now[1])
        self.total[2:] += now[2:]

    def summary(self, name: str, dtype: str, shape: tuple[int | str, ...]) -> InputSummary:
        """What was seen."""
        assert self.total is not None
        low, high, total, squares, count = self.total
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return InputSummary(
            name=name,
            dtype=dtype,
            shape=shape,
            low=tuple(low.tolist()),
            mean=tuple(mean.tolist()),
            deviation=tuple(deviation.tolist()),
            high=tuple(high.tolist()),
        )
