"""Benchmark: the source and every artifact, interleaved, each in a process of its own."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.arrays import load_arrays
from edgekit.core.artifact import Artifact, open_artifact
from edgekit.core.events import Event, Listener
from edgekit.core.machine import describe_machine
from edgekit.core.recipe import BenchmarkOptions
from edgekit.core.report import ArtifactReport, Report
from edgekit.devices.local import Worker
from edgekit.errors import EdgekitError, Unsupported
from edgekit.measure.latency import measure_latency, paired_speedup, summarize
from edgekit.pipeline.beside import typed
from edgekit.pipeline.layout import EXAMPLE, float32_baseline, yardstick_folder

__all__ = ["benchmark"]

SOURCE = "source"
Arrays = dict[str, NDArray[Any]]


def benchmark(
    out: Path, report: Report, options: BenchmarkOptions, *, deadline_s: float, on_event: Listener
) -> Report:
    """The report with latency, speed-up and peak memory of every artifact that runs here.

    A speed-up is paired round by round with the float32 artifact of the same engine, that of a file of
    another maker with edgekit's own float32 artifact of that engine. An artifact that fails
    becomes a typed entry and the others go on.
    """
    example = load_arrays(out / EXAMPLE)
    finished: dict[str, ArtifactReport] = {}
    label = "benchmark"
    started = time.perf_counter()
    on_event(Event(step=label, state="start"))
    with ExitStack() as stack:
        workers, inputs = _start(out, report, options, deadline_s, stack, finished, example)
        times, failures = measure_latency(
            workers,
            inputs,
            rounds=options.rounds,
            warmup=options.warmup,
            on_progress=lambda done, total: on_event(
                Event(step=label, state="progress", done=done, total=total)
            ),
        )
        memory = {name: workers[name].memory() for name in times}
    for entry in report.artifacts:
        name = _name(entry)
        if name in failures:
            finished[name] = replace(entry, status="failed", reasons=(str(failures[name]),))
        elif name in times:
            finished[name] = _measured(entry, times, memory, options)
    on_event(Event(step=label, state="done", seconds=time.perf_counter() - started))
    source = report.source
    if SOURCE in times:
        source = replace(
            source,
            latency_ms=summarize(times[SOURCE], warmup=options.warmup, threads=options.threads),
            peak_memory_bytes=memory[SOURCE],
        )
    entries = tuple(finished.get(_name(e), e) for e in report.artifacts)
    return replace(report, artifacts=entries, source=source, machine=describe_machine())


def _name(entry: ArtifactReport) -> str:
    return f"{entry.target}/{entry.precision}"


def _base(entry: ArtifactReport) -> str:
    """The target whose float32 artifact a speed-up is over."""
    return "tflite" if entry.origin else entry.target


def _baseline_name(target: str) -> str:
    return f"{target}/float32"


def _start(
    out: Path,
    report: Report,
    options: BenchmarkOptions,
    deadline_s: float,
    stack: ExitStack,
    finished: dict[str, ArtifactReport],
    example: Arrays,
) -> tuple[dict[str, Worker], dict[str, Arrays]]:
    """A loaded worker for the source, every runnable artifact and every engine's float32 baseline.

    Also their inputs, moved into each artifact's own layout beforehand: the move is not timed.
    """
    workers: dict[str, Worker] = {}
    inputs: dict[str, Arrays] = {}

    def start(name: str, artifact: Artifact) -> None:
        worker = stack.enter_context(
            Worker(engine=artifact.manifest.engine, label=f"benchmark {name}", deadline_s=deadline_s)
        )
        worker.load(artifact.folder, threads=options.threads)
        workers[name] = worker
        given = typed(example, worker.inputs)
        inputs[name] = {
            t.name: np.ascontiguousarray(given[t.name].transpose(t.axes) if t.axes else given[t.name])
            for t in artifact.manifest.inputs
        }

    start(SOURCE, open_artifact(yardstick_folder(out)))
    for entry in report.artifacts:
        if entry.status != "ok":
            continue
        try:
            start(_name(entry), open_artifact(out / entry.path))
            baseline = float32_baseline(out, _base(entry))
            if baseline is not None and _baseline_name(_base(entry)) not in workers:
                start(_baseline_name(_base(entry)), baseline)
        except Unsupported as err:
            finished[_name(entry)] = replace(entry, status="not_validated", reasons=(str(err),))
        except EdgekitError as err:
            finished[_name(entry)] = replace(entry, status="failed", reasons=(str(err),))
    return workers, inputs


def _measured(
    entry: ArtifactReport,
    times: dict[str, NDArray[Any]],
    memory: dict[str, int],
    options: BenchmarkOptions,
) -> ArtifactReport:
    name = _name(entry)
    baseline = times.get(_baseline_name(_base(entry)))
    detail = None
    if baseline is not None and name != _baseline_name(_base(entry)):
        detail = paired_speedup(baseline, times[name])
    return replace(
        entry,
        latency_ms=summarize(times[name], warmup=options.warmup, threads=options.threads),
        speedup=detail.ratio if detail else None,
        speedup_detail=detail,
        peak_memory_bytes=memory[name],
    )
