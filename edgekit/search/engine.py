"""Mixtures in the target's own engine: how they stand on samples the search has not seen, and how fast."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.artifact import Artifact, open_artifact
from edgekit.core.recipe import ValidationOptions
from edgekit.core.report import Speedup
from edgekit.core.samples import open_samples
from edgekit.core.sensitivity import Standing
from edgekit.devices.local import Worker
from edgekit.errors import EdgekitError, UsageError
from edgekit.measure.latency import measure_latency, paired_speedup
from edgekit.measure.metrics import ERROR_METRICS
from edgekit.measure.standing import standing_of
from edgekit.pipeline.job import Job
from edgekit.pipeline.layout import yardstick_folder
from edgekit.quantize.mixture import is_search_call

__all__ = ["Judge", "relative_latency"]

Arrays = dict[str, NDArray[Any]]
_ROUNDS = 20


@dataclass(slots=True)
class Judge:
    """Runs artifacts on the validation calls that the search leaves alone, beside the float yardstick."""

    job: Job
    options: ValidationOptions
    output: str
    source: NDArray[Any] | None = field(default=None, init=False)
    labels: NDArray[Any] | None = field(default=None, init=False)

    def standing(self, artifact: Artifact) -> Standing:
        """The standing of an artifact in its engine. Raises `EdgekitError` when it cannot run."""
        if self.source is None:
            self.source = self._run(open_artifact(yardstick_folder(self.job.out)))
            self.labels = self._labels()
        answer = self._run(artifact)
        return standing_of(self.source, answer, metric=self.options.metric, labels=self.labels)

    @property
    def count(self) -> int:
        """How many samples judge."""
        return 0 if self.source is None else len(self.source)

    def _run(self, artifact: Artifact) -> NDArray[Any]:
        label = f"judge {artifact.manifest.target} {artifact.manifest.precision}"
        outputs = []
        with Worker(
            engine=artifact.manifest.engine, label=label, deadline_s=self.job.recipe.deadline_s
        ) as worker:
            worker.load(artifact.folder, threads=1, layout="source")
            for batch in self._batches():
                outputs.append(worker.run(dict(batch.inputs))[self.output])
        if not outputs:
            raise UsageError(
                "one call of validation samples cannot be split into a search and a judging part",
                hint="give at least two, better hundreds",
            )
        return np.concatenate(outputs)

    def _batches(self) -> Any:
        metric = self.options.metric
        samples = open_samples(
            self.options.data, self.job.model.signature, need_labels=metric not in ERROR_METRICS
        )
        return (batch for n, batch in enumerate(samples.calls()) if not is_search_call(n))

    def _labels(self) -> NDArray[Any] | None:
        found = [batch.labels for batch in self._batches() if batch.labels is not None]
        return np.concatenate(found) if found else None


def relative_latency(
    plain: Path, other: Path, example: Arrays, *, deadline_s: float, rounds: int = _ROUNDS
) -> Speedup | None:
    """Latency of the artifact folder `other` over that of `plain`, interleaved; None where one cannot run."""
    artifacts = {"plain": open_artifact(plain), "other": open_artifact(other)}
    inputs = {
        name: {
            t.name: np.ascontiguousarray(example[t.name].transpose(t.axes) if t.axes else example[t.name])
            for t in artifact.manifest.inputs
        }
        for name, artifact in artifacts.items()
    }
    engine = artifacts["plain"].manifest.engine
    try:
        with (
            Worker(engine=engine, label="time plain int8", deadline_s=deadline_s) as first,
            Worker(engine=engine, label="time the mixture", deadline_s=deadline_s) as second,
        ):
            first.load(plain, threads=1)
            second.load(other, threads=1)
            workers = {"plain": first, "other": second}
            times, _ = measure_latency(workers, inputs, rounds=rounds, warmup=10)
    except EdgekitError:
        return None
    if len(times) < len(workers):
        return None
    return paired_speedup(times["other"], times["plain"])
