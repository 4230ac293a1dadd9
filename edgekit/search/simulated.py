"""Steps that simulate quantized networks, from the cache where the same was asked before."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.core.codec import encode
from edgekit.core.events import Event
from edgekit.core.files import digest_file
from edgekit.core.packages import installed_version
from edgekit.core.samples import open_samples
from edgekit.measure.metrics import ERROR_METRICS
from edgekit.pipeline.cache import cached_folder
from edgekit.pipeline.job import Job
from edgekit.quantize.simulation_request import SimulationRequest

__all__ = ["simulate"]


def simulate(
    job: Job, request: SimulationRequest, *, step: str, label: str, version: int, **arguments: Any
) -> Any:
    """What the step `step` (dotted name) writes as JSON, given `request`, `arguments` and `out`.

    `request.model` is the file of the job's model. The label says to the listener what is done.
    """

    def build(folder: Path) -> None:
        out = str(folder / "found.json")
        job.runner.run(step, {"request": encode(request), **arguments, "out": out}, label=label)

    by = request.judged
    labelled = bool(by.metric) and by.metric not in ERROR_METRICS
    samples = open_samples(by.data, job.model.signature, need_labels=labelled)
    calibration = digest_file(Path(request.calibration))
    inputs = {
        "request": encode(replace(request, model=job.model.digest, calibration=calibration)),
        **arguments,
        "samples": samples.digest,
        "versions": {name: installed_version(name) for name in ("numpy", "onnxruntime")},
    }
    folder, cached = cached_folder(step.rpartition(":")[2], version=version, inputs=inputs, build=build)
    if cached:
        job.runner.on_event(Event(step=label, state="cached"))
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))
