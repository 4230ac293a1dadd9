"""Everything that is kept of the samples seen so far: of a size that does not depend on their number."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.files import atomic_file
from edgekit.quantize.observers.codes import Codes
from edgekit.quantize.observers.histogram import FloatHistogram
from edgekit.quantize.observers.methods import Method, Range, range_by
from edgekit.quantize.observers.reductions import Layout
from edgekit.quantize.observers.running import Running

__all__ = ["Observation"]


class Observation:
    """Running statistics, and histograms of `tensors` where the method counts values."""

    def __init__(self, tensors: list[str], layout: Layout, method: Method, batch: int) -> None:
        self.tensors = tensors
        self.method = method
        self.batch = batch
        self.running = Running.over(layout)
        parts = 0 if not method.counts_values else 2 if method.holds_out else 1
        self.parts = [{t: FloatHistogram() for t in tensors} for _ in range(parts)]

    @property
    def calls(self) -> int:
        """How many calls of the model were seen."""
        return self.running.calls

    @property
    def samples(self) -> int:
        """How many samples were seen."""
        return self.calls * self.batch

    def update(self, reduced: list[NDArray[Any]], values: Mapping[str, NDArray[Any]]) -> None:
        """Take in one call: minima, maxima and means, and values by tensor. Raises `UsageError` for NaN."""
        low, high, mean = reduced
        part = self.parts[self.calls % len(self.parts)] if self.parts else {}
        self.running.update(low, high, mean, sample=self.samples)
        for name, histogram in part.items():
            histogram.update(values[name])

    def extremes(self) -> dict[str, Range]:
        """The smallest and the largest value of every tensor."""
        return {name: self.running.extremes(name) for name in self.tensors}

    def chosen(self, wanted: list[Codes], *, threads: int = 1) -> list[dict[str, Range]]:
        """The range of every tensor by the method, for each of `wanted`."""
        extremes = self.extremes()
        if self.method.name == "moving-average":
            return [{t: self.running.average(t) for t in self.tensors} for _ in wanted]
        if not self.parts or not self.tensors:
            return [extremes for _ in wanted]
        with ThreadPoolExecutor(max_workers=threads) as pool:
            found = list(pool.map(lambda name: self._chosen(name, extremes[name], wanted), extremes))
        return [dict(zip(extremes, ranges, strict=True)) for ranges in zip(*found, strict=True)]

    def _chosen(self, name: str, extremes: Range, wanted: list[Codes]) -> list[Range]:
        parts = [part[name] for part in self.parts]
        seen = FloatHistogram(counts=sum((p.counts for p in parts[1:]), parts[0].counts))
        whole = seen.distribution(*extremes)
        halves = tuple(p.distribution(*extremes) for p in parts) if len(parts) > 1 else ()
        return [range_by(self.method, codes, whole, halves) for codes in wanted]

    def save(self, path: Path) -> None:
        """Write all of it to `path`, atomically; floats keep every bit."""
        arrays = {name: getattr(self.running, name) for name in Running.names}
        arrays["calls"] = np.array(self.calls)
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
        self.running.calls = int(arrays["calls"])
        for name in Running.names:
            setattr(self.running, name, arrays[name])
        for half, part in enumerate(self.parts):
            for i, histogram in enumerate(part.values()):
                used, counts = arrays[f"bins{half}_{i}"]
                histogram.counts[used] = counts
        return True
