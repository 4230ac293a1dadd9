"""Validate: the source and every artifact on the same samples, in step, each in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.artifact import Artifact, open_artifact
from edgekit.core.events import Event, Listener
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import Metric, ValidationOptions
from edgekit.core.report import ArtifactReport, Report
from edgekit.core.samples import Samples, open_samples
from edgekit.devices.local import Worker
from edgekit.errors import EdgekitError, StepError, Unsupported, UsageError, nearest
from edgekit.measure.drift import Drift
from edgekit.measure.metrics import ERROR_METRICS, compare_accuracy
from edgekit.pipeline.beside import typed
from edgekit.pipeline.layout import yardstick_folder
from edgekit.pipeline.sample_check import check_samples
from edgekit.pipeline.steps import StepRunner
from edgekit.runtime.manifest import Manifest

__all__ = ["signature_of", "validate"]

_VALIDATION = "validation"
Arrays = dict[str, NDArray[Any]]


@dataclass(slots=True)
class _Trial:
    """One artifact on its way through the samples."""

    entry: ArtifactReport
    worker: Worker
    outputs: list[NDArray[Any]] = field(default_factory=list)
    drift: Drift = field(default_factory=Drift)


def signature_of(manifest: Manifest) -> Signature:
    """The source model's signature, from the manifest of the yardstick."""
    return Signature(
        inputs=tuple(TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in manifest.inputs),
        outputs=tuple(TensorSpec(name=t.name, dtype=t.dtype, shape=t.shape) for t in manifest.outputs),
    )


def validate(
    out: Path, report: Report, options: ValidationOptions, *, deadline_s: float, on_event: Listener
) -> Report:
    """The report with accuracy and drift of every artifact that runs here.

    The samples stream once; what is kept is the judged output alone. Raises `UsageError` for bad samples or
    an output that has to be chosen; an artifact that fails becomes a typed entry and the others go on.
    """
    yardstick = open_artifact(yardstick_folder(out))
    signature = signature_of(yardstick.manifest)
    judged = _judged_output(signature, options.output)
    samples = open_samples(options.data, signature, need_labels=options.metric not in ERROR_METRICS)
    runner = StepRunner(deadline_s=deadline_s, on_event=on_event)
    warnings = check_samples(out, options.data, signature, what=_VALIDATION, runner=runner)
    label = f"validate on {samples.count} samples"
    started = time.perf_counter()
    on_event(Event(step=label, state="start", total=samples.count))
    finished: dict[tuple[str, str], ArtifactReport] = {}
    with ExitStack() as stack:
        source = stack.enter_context(
            Worker(engine=yardstick.manifest.engine, label="validate source", deadline_s=deadline_s)
        )
        source.load(yardstick.folder, threads=1, layout="source")
        trials = _start(out, report, deadline_s, stack, finished)
        source_outputs, labels = _run_all(source, trials, samples, judged, label, on_event, finished)
        for trial in trials:
            finished[_key(trial.entry)] = _judged(trial, options.metric, source_outputs, labels)
    on_event(Event(step=label, state="done", seconds=time.perf_counter() - started))
    entries = tuple(finished.get(_key(e), e) for e in report.artifacts)
    scores = [e.accuracy.source for e in entries if e.accuracy is not None]
    earlier = tuple(w for w in report.warnings if not w.startswith(_VALIDATION))
    return replace(
        report,
        artifacts=entries,
        warnings=earlier + warnings,
        source=replace(report.source, accuracy=scores[0] if scores else None),
    )


def _key(entry: ArtifactReport) -> tuple[str, str]:
    return entry.target, entry.precision


def _judged_output(signature: Signature, wanted: str) -> str:
    names = [o.name for o in signature.outputs]
    if not wanted and len(names) == 1:
        return names[0]
    if not wanted:
        raise UsageError(
            f"the model has {len(names)} outputs: {', '.join(names)}",
            hint="name the judged one with --output",
        )
    if wanted not in names:
        raise UsageError(f"the model has no output {wanted!r}; {nearest(wanted, names)}")
    return wanted


def _start(
    out: Path,
    report: Report,
    deadline_s: float,
    stack: ExitStack,
    finished: dict[tuple[str, str], ArtifactReport],
) -> list[_Trial]:
    trials = []
    for entry in report.artifacts:
        if entry.status != "ok":
            continue
        try:
            artifact = open_artifact(out / entry.path)
            worker = stack.enter_context(_worker(artifact, entry, deadline_s))
            worker.load(artifact.folder, threads=1, layout="source")
        except Unsupported as err:
            finished[_key(entry)] = replace(entry, status="not_validated", reasons=(str(err),))
        except EdgekitError as err:
            finished[_key(entry)] = replace(entry, status="failed", reasons=(str(err),))
        else:
            trials.append(_Trial(entry, worker))
    return trials


def _worker(artifact: Artifact, entry: ArtifactReport, deadline_s: float) -> Worker:
    label = f"validate {entry.target} {entry.precision}"
    return Worker(engine=artifact.manifest.engine, label=label, deadline_s=deadline_s)


def _run_all(
    source: Worker,
    trials: list[_Trial],
    samples: Samples,
    judged: str,
    label: str,
    on_event: Listener,
    finished: dict[tuple[str, str], ArtifactReport],
) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Every sample through the source and all trials; a trial that fails leaves `trials`."""
    kept: list[NDArray[Any]] = []
    labels: list[NDArray[Any]] = []
    done = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for batch in samples.calls():
            inputs = dict(batch.inputs)
            expected = source.run(inputs)[judged]
            kept.append(expected)
            if batch.labels is not None:
                labels.append(batch.labels)
            failures = list(pool.map(lambda t: _step(t, inputs, judged, expected), trials))  # noqa: B023
            for trial, failure in list(zip(trials, failures, strict=True)):
                if failure is not None:
                    finished[_key(trial.entry)] = replace(
                        trial.entry, status="failed", reasons=(str(failure),)
                    )
                    trials.remove(trial)
            done += len(batch)
            on_event(Event(step=label, state="progress", done=done, total=samples.count))
    return np.concatenate(kept), np.concatenate(labels) if labels else None


def _step(
    trial: _Trial, inputs: Mapping[str, NDArray[Any]], judged: str, expected: NDArray[Any]
) -> EdgekitError | None:
    try:
        given = typed(inputs, trial.worker.inputs) if trial.entry.origin else inputs
        output = trial.worker.run(given)[judged]
        if output.shape != expected.shape:
            return StepError(
                f"output {judged!r} has shape {output.shape}, the source's has {expected.shape}",
                where=trial.worker.label,
            )
        trial.drift.update(expected, output)
        trial.outputs.append(output)
    except EdgekitError as err:
        return err
    return None


def _judged(
    trial: _Trial, metric: Metric, source: NDArray[Any], labels: NDArray[Any] | None
) -> ArtifactReport:
    outputs = np.concatenate(trial.outputs)
    accuracy = compare_accuracy(metric, source, outputs, labels)
    drift = trial.drift.result()
    return replace(
        trial.entry,
        accuracy=accuracy,
        top1_agreement=drift.top1_agreement,
        sqnr_db=drift.sqnr_db,
        cosine=drift.cosine,
        max_abs=drift.max_abs,
    )
