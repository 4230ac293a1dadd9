"""What graphs take on a target, each in turns with the first: a machine that drifts slows both alike."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import encode
from edgekit.core.model import Signature
from edgekit.core.samples import open_samples
from edgekit.core.sources import DataSource
from edgekit.core.target import load_target
from edgekit.devices.local import Worker
from edgekit.measure.latency import measure_latency, paired_speedup

__all__ = ["LatencyMeter"]

_ROUNDS, _WARMUP = 12, 10


class LatencyMeter:
    """Milliseconds of one call of an ONNX file on a target, in float32, one thread.

    The first file measured is the yardstick: it is timed once by itself, and again in turns with every other
    one, whose time is its share of the yardstick's turns times that first figure. Inputs are the first sample
    of `samples`, or generated (None). A context manager: the yardstick's process lives as long.
    """

    def __init__(self, target: str, signature: Signature, samples: DataSource | None) -> None:
        self._profile, self._signature, self._samples = load_target(target), signature, samples
        self._closing = ExitStack()
        self._yardstick: Worker | None = None
        self._yardstick_ms = 0.0
        self._inputs: dict[str, NDArray[Any]] = {}

    def __enter__(self) -> LatencyMeter:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def __call__(self, path: Path) -> float:
        """Raises `EdgekitError` where the file cannot be lowered to the target, or dies there."""
        if self._yardstick is None:
            self._yardstick = self._started(path, self._closing)
            self._yardstick_ms = float(np.median(self._timed({"yardstick": self._yardstick})["yardstick"]))
            return self._yardstick_ms
        with ExitStack() as closing:
            times = self._timed({"yardstick": self._yardstick, "graph": self._started(path, closing)})
        return self._yardstick_ms / paired_speedup(times["yardstick"], times["graph"]).ratio

    def _timed(self, workers: dict[str, Worker]) -> dict[str, NDArray[np.float64]]:
        inputs = dict.fromkeys(workers, self._inputs)
        times, failures = measure_latency(workers, inputs, rounds=_ROUNDS, warmup=_WARMUP)
        for failure in failures.values():
            raise failure
        return times

    def _started(self, path: Path, closing: ExitStack) -> Worker:
        from edgekit.backends import lower_file
        from edgekit.graph.canonical import finish
        from edgekit.graph.generate import generate_inputs

        scratch = Path(closing.enter_context(TemporaryDirectory(prefix="edgekit-")))
        folded, folder = scratch / "model.onnx", scratch / "artifact"
        finish(source=str(path), out=str(folded), simplified=False)
        folder.mkdir()
        lower_file(
            model=str(folded), target=encode(self._profile), precision="float32", out=str(folder),
            source_digest="", about={}, quantized_io=False,
        )  # fmt: skip
        if not self._inputs:
            self._inputs = dict(generate_inputs(folded, 0))
            if self._samples is not None:
                self._inputs = dict(next(iter(open_samples(self._samples, self._signature).calls())).inputs)
        label = f"time on {self._profile.name}"
        worker = closing.enter_context(Worker(engine=self._profile.engine, label=label))
        worker.load(folder, threads=1, layout="source")
        return worker
