"""Everything that is kept of the samples seen so far: of a size that does not depend on their number."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.files import atomic_file
from edgekit.quantize.observers.codes import Codes
from edgekit.quantize.observers.histogram import FloatHistogram
from edgekit.quantize.observers.methods import Method, Range, range_by
from edgekit.quantize.observers.reductions import Reductions
from edgekit.quantize.observers.running import MovingAverage, RunningMean, RunningRange, refuse_not_finite

__all__ = ["Observation"]


class Observation:
    """Running statistics: extremes of `tensors`, means of `weighted` by channel, histograms by the method."""

    def __init__(self, tensors: list[str], weighted: list[str], method: Method, batch: int) -> None:
        self.tensors = tensors
        self.method = method
        self.batch = batch
        self.calls = 0
        self.ranges = {t: RunningRange() for t in dict.fromkeys([*tensors, *weighted])}
        self.averages = {t: MovingAverage() for t in tensors} if method.name == "moving-average" else {}
        self.means = {t: RunningMean() for t in weighted}
        parts = 0 if not method.counts_values else 2 if method.holds_out else 1
        self.parts = [{t: FloatHistogram() for t in tensors} for _ in range(parts)]

    @property
    def samples(self) -> int:
        """How many samples were seen."""
        return self.calls * self.batch

    def update(self, reductions: Reductions, values: Mapping[str, NDArray[Any]]) -> None:
        """Take in the outputs of one call of the model. Raises `UsageError` for NaN or infinity."""
        for name, running in self.ranges.items():
            low, high, mean = reductions.of(name, values)
            if not all(np.isfinite(v).all() for v in (low, high, mean)):
                raise refuse_not_finite(name, self.samples)
            running.update(low, high)
            if name in self.averages:
                self.averages[name].update(float(low.min()), float(high.max()))
            if name in self.means:
                self.means[name].update(mean, self.batch)
        if self.parts:
            for name, histogram in self.parts[self.calls % len(self.parts)].items():
                histogram.update(values[name])
        self.calls += 1

    def extremes(self) -> dict[str, Range]:
        """The smallest and the largest value of every tensor."""
        return {name: self.ranges[name].whole() for name in self.tensors}

    def chosen(self, wanted: list[Codes]) -> list[dict[str, Range]]:
        """The range of every tensor by the method, for each of `wanted`."""
        extremes = self.extremes()
        if self.averages:
            return [{t: (a.low, a.high) for t, a in self.averages.items()} for _ in wanted]
        if not self.parts:
            return [extremes for _ in wanted]
        found: list[dict[str, Range]] = [{} for _ in wanted]
        for name, (low, high) in extremes.items():
            parts = [part[name] for part in self.parts]
            seen = FloatHistogram(counts=sum((p.counts for p in parts[1:]), parts[0].counts))
            whole = seen.distribution(low, high)
            halves = tuple(p.distribution(low, high) for p in parts) if len(parts) > 1 else ()
            for ranges, codes in zip(found, wanted, strict=True):
                ranges[name] = range_by(self.method, codes, whole, halves)
        return found

    def save(self, path: Path) -> None:
        """Write all of it to `path`, atomically; floats keep every bit."""
        arrays: dict[str, NDArray[Any]] = {"calls": np.array(self.calls)}
        for i, running in enumerate(self.ranges.values()):
            arrays[f"low{i}"], arrays[f"high{i}"] = running.low, running.high
        for i, mean in enumerate(self.means.values()):
            arrays[f"mean{i}"] = np.asarray(mean.total)
        for i, average in enumerate(self.averages.values()):
            arrays[f"average{i}"] = np.array([average.low, average.high])
        for half, part in enumerate(self.parts):
            for i, histogram in enumerate(part.values()):
                used = np.flatnonzero(histogram.counts)
                arrays[f"bins{half}_{i}"] = np.stack([used, histogram.counts[used]])
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    def restore(self, path: Path) -> bool:
        """Go on from what `save` wrote; False, and nothing is changed, when there is no such file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile):
            return False
        self.calls = int(arrays["calls"])
        for i, running in enumerate(self.ranges.values()):
            running.low, running.high = arrays[f"low{i}"], arrays[f"high{i}"]
        for i, mean in enumerate(self.means.values()):
            mean.total, mean.count = arrays[f"mean{i}"], self.samples
        for i, average in enumerate(self.averages.values()):
            average.low, average.high = map(float, arrays[f"average{i}"])
            average.count = self.calls
        for half, part in enumerate(self.parts):
            for i, histogram in enumerate(part.values()):
                used, counts = arrays[f"bins{half}_{i}"]
                histogram.counts[used] = counts
        return True
