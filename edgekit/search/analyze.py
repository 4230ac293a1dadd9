"""Analyze: read, calibrate, and measure what every quantizable node does, under a target's int8 policy."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.core.about import NOTHING
from edgekit.core.codec import decode
from edgekit.core.events import Listener
from edgekit.core.machine import package_versions
from edgekit.core.recipe import CalibrationOptions, DataSource, Metric, Recipe, SourceOptions
from edgekit.core.samples import open_samples
from edgekit.core.sensitivity import NodeSensitivity, Sensitivity, Standing
from edgekit.core.target import Int8Policy, load_target
from edgekit.errors import UsageError, nearest
from edgekit.measure.metrics import ERROR_METRICS
from edgekit.pipeline.job import Job
from edgekit.pipeline.quantizing import calibrated
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.steps import StepRunner
from edgekit.quantize.simulation_request import Judged, SimulationRequest
from edgekit.search.simulated import simulate

__all__ = ["AnalysisOptions", "analyze"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalysisOptions:
    """What is judged: `data` (None: the calibration samples), at most `most` of it, evenly spread.

    With labels in the data, `metric` ("" for none) adds a drop to SQNR and agreement. `output` names the
    judged output of a model that has several.
    """

    data: DataSource | None = None
    metric: Metric | None = None
    output: str = ""
    most: int = 32

    def __post_init__(self) -> None:
        if self.most < 1:
            raise UsageError(f"samples to judge by: got {self.most!r}, at least 1 is needed")


def analyze(
    source: SourceOptions,
    *,
    target: str,
    calibration: CalibrationOptions,
    options: AnalysisOptions,
    deadline_s: float,
    on_event: Listener,
) -> Sensitivity:
    """Rank every node that `target` runs in int8 by the damage it does.

    Raises `UsageError` for a target without int8 or wrong samples, and what reading and calibration raise.
    """
    profile = load_target(target)
    if profile.int8 is None or "int8" not in profile.precisions:
        raise UsageError(f"target {profile.name!r} has no int8: {profile.refuse.get('int8', '')}")
    runner = StepRunner(deadline_s=deadline_s, on_event=on_event)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        work = Path(folder)
        model = read_model(source, out=work, runner=runner)
        recipe = Recipe(source=source, targets=(target,), output=str(work), calibration=calibration)
        job = Job(recipe=recipe, model=model, out=work, work=work, runner=runner, about=NOTHING)
        output = judged_output([o.name for o in model.signature.outputs], options.output)
        found = _measured(job, profile.int8, replace(options, output=output))
        data = options.data or calibration.data
    notes = () if options.data else ("judged on the calibration samples: give others with --data",)
    return Sensitivity(
        model=model.source,
        target=profile.name,
        samples=found["samples"],
        source=data.path,
        output=output,
        metric=options.metric or "",
        whole=decode(Standing, found["whole"], where="whole"),
        nodes=tuple(decode(NodeSensitivity, n, where="node") for n in found["nodes"]),
        notes=notes,
        versions=package_versions(),
    )


def judged_output(names: list[str], wanted: str) -> str:
    """The output that is judged. Raises `UsageError` where it has to be chosen, or does not exist."""
    if not wanted and len(names) == 1:
        return names[0]
    if not wanted:
        listed = ", ".join(names)
        raise UsageError(
            f"the model has {len(names)} outputs: {listed}", hint="name the judged one with --output"
        )
    if wanted not in names:
        raise UsageError(f"the model has no output {wanted!r}; {nearest(wanted, names)}")
    return wanted


def _measured(job: Job, policy: Int8Policy, options: AnalysisOptions) -> Any:
    calibration = job.recipe.calibration
    assert calibration is not None
    data = options.data or calibration.data
    labelled = options.metric is not None and options.metric not in ERROR_METRICS
    samples = open_samples(data, job.model.signature, need_labels=labelled)
    job, ranges = calibrated(job, [policy])
    request = SimulationRequest(
        model=str(job.model.path),
        calibration=str(ranges),
        policy=policy,
        options=job.recipe.quantization,
        judged=Judged(
            data=data,
            signature=job.model.signature,
            output=options.output,
            metric=options.metric or "",
            most=options.most,
        ),
    )
    return simulate(
        job,
        request,
        step="edgekit.quantize.sensitivity:sensitivity_file",
        label=f"measure every node on {min(options.most, samples.count)} samples",
        version=1,
    )
