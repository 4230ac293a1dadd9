"""Convert: read, calibrate once, quantize once a policy, lower for every target and precision, check each."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit import __version__
from edgekit.core.about import check_labels, read_about
from edgekit.core.arrays import load_arrays, save_arrays
from edgekit.core.artifact import Artifact, open_artifact
from edgekit.core.codec import encode
from edgekit.core.events import Listener
from edgekit.core.files import digest_json
from edgekit.core.machine import describe_machine, package_versions
from edgekit.core.model import Model
from edgekit.core.packages import EXTRAS
from edgekit.core.recipe import Recipe
from edgekit.core.report import ArtifactReport, Report, SourceReport
from edgekit.core.samples import open_samples
from edgekit.core.target import CALIBRATED, Precision, Target, load_target
from edgekit.errors import EdgekitError, MissingPackage, Reason, StepError, Unsupported
from edgekit.pipeline.check import check_artifact
from edgekit.pipeline.compressing import compressed
from edgekit.pipeline.job import Job, Mend
from edgekit.pipeline.layout import EXAMPLE, artifact_folder, baseline_folder, yardstick_folder
from edgekit.pipeline.quantizing import policy_of, quantized_graphs
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.sample_check import check_samples, keep_statistics
from edgekit.pipeline.steps import StepRunner
from edgekit.pipeline.training import trained_graphs

__all__ = ["convert", "lower_graph"]

_ENGINE_MODULE = {"tflite": "ai_edge_litert", "openvino": "openvino", "onnxruntime": "onnxruntime"}


def convert(recipe: Recipe, out: Path, *, on_event: Listener, mend: Mend | None = None) -> Report:
    """Fill the folder `out` with an artifact for every target and precision; returns the report so far.

    `mend` may put another int8 graph in the place of a target's plain one.
    A target that refuses or whose step fails becomes a typed entry of the report and the others finish.
    Raises when the recipe, the model or the samples are wrong, and when not one artifact could be made.
    """
    targets = [_target(name, recipe) for name in recipe.targets]
    about = read_about(recipe)
    _need_engines(targets)
    runner = StepRunner(deadline_s=recipe.deadline_s, on_event=on_event)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        work = Path(folder)
        (work / "model").mkdir()
        model = read_model(recipe.source, out=work / "model", runner=runner, simplify=recipe.simplify)
        check_labels(about, model.signature)
        _check_samples(recipe, model)
        keep_statistics(model, out, runner)
        warnings: tuple[str, ...] = ()
        if recipe.calibration is not None:
            data = recipe.calibration.data
            warnings = check_samples(out, data, model.signature, what="calibration", runner=runner)
        original = model
        model = compressed(recipe, model, work=work / "compressed", runner=runner)
        job = Job(
            recipe=recipe, model=model, original=original, out=out, work=work, runner=runner, about=about,
            mend=mend,
        )  # fmt: skip
        graphs, learned = trained_graphs(job, quantized_graphs(job, targets), targets)
        example = _example(job)
        _lower_yardstick(job)
        entries = [
            _make(job, target, precision, graphs, example)
            for target in targets
            for precision in recipe.precisions
        ]
        missing = [note for target in targets for note in _lower_baseline(job, target)]
        size = original.path.stat().st_size
    _raise_if_nothing_was_made(entries)
    source = SourceReport(
        model=model.source,
        format=model.format,
        digest=model.source_digest,
        size_bytes=size,
        notes=(*model.notes, *learned, *missing),
    )
    return Report(
        edgekit=__version__,
        source=source,
        verdict="pass",
        artifacts=tuple(entries),
        warnings=warnings,
        machine=describe_machine(),
        versions=package_versions(),
    )


def _target(name: str, recipe: Recipe) -> Target:
    target = load_target(name)
    return replace(target, layout=recipe.layout) if recipe.layout else target


def _need_engines(targets: list[Target]) -> None:
    for target in targets:
        module = _ENGINE_MODULE[target.engine]
        if find_spec(module) is None:
            distribution, extra = EXTRAS[module]
            raise MissingPackage(distribution, extra=extra, needed_for=f"target {target.name}")


def _check_samples(recipe: Recipe, model: Model) -> None:
    """Open every sample source before the long steps, so that a wrong one is found at once."""
    if recipe.calibration is not None:
        open_samples(recipe.calibration.data, model.signature).calls()
    if recipe.validation is not None:
        needs_labels = recipe.validation.metric not in ("mse", "mae", "rmse")
        open_samples(recipe.validation.data, model.signature, need_labels=needs_labels).calls()


def _example(job: Job) -> dict[str, NDArray[Any]]:
    """One sample of every input: a calibration sample, else generated; kept for checks and benchmarks."""
    place = job.out / EXAMPLE
    place.parent.mkdir(parents=True, exist_ok=True)
    if job.recipe.calibration is not None:
        samples = open_samples(job.recipe.calibration.data, job.model.signature)
        inputs = dict(next(iter(samples.calls())).inputs)
        save_arrays(place, inputs)
        return inputs
    job.runner.run(
        "edgekit.graph.generate:generate_files",
        {"model": str(job.model.path), "out": [str(place)]},
        label="generate an example input",
    )
    return load_arrays(place)


def lower_graph(
    job: Job, target: Target, precision: Precision, graph: Path, place: Path, label: str
) -> Artifact:
    """Lower an ONNX file into the new folder `place`, in a child process. Raises what the backend raises."""
    with _staged(place) as staged:
        job.runner.run(
            "edgekit.backends:lower_file",
            {
                "model": str(graph),
                "target": encode(target),
                "precision": precision,
                "out": str(staged),
                "source_digest": job.model.digest,
                "about": encode(job.about),
                "quantized_io": job.recipe.quantized_io and precision in CALIBRATED,
            },
            label=label,
        )
    return open_artifact(place)


@contextmanager
def _staged(place: Path) -> Iterator[Path]:
    """A folder that becomes `place` only when the block ends well."""
    place.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".lower-", dir=place.parent))
    staged.chmod(0o755)
    try:
        yield staged
        staged.rename(place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
        if not any(place.parent.iterdir()):
            place.parent.rmdir()


def _as_read(job: Job) -> Path:
    """The float graph before it was pruned or fine-tuned."""
    return (job.original or job.model).path


def _lower_yardstick(job: Job) -> None:
    """The canonical float graph in ONNX Runtime: what every artifact is compared with."""
    target = replace(load_target("onnxruntime"), name="source")
    place = yardstick_folder(job.out)
    lower_graph(job, target, "float32", _as_read(job), place, "keep the float source")


def _lower_baseline(job: Job, target: Target) -> tuple[str, ...]:
    """The float32 artifact of an engine, for speed-ups, where the recipe does not ask for it anyway.

    Returns a note for the report when it cannot be made: there is no speed-up for this engine then.
    """
    made = any((artifact_folder(job.out, target.name, p)).is_dir() for p in job.recipe.precisions)
    if target.requires or "float32" in job.recipe.precisions or not made:
        return ()
    try:
        place = baseline_folder(job.out, target.name)
        graph = _as_read(job)
        lower_graph(job, target, "float32", graph, place, f"lower {target.name} float32 (baseline)")
    except EdgekitError as err:
        if isinstance(err, StepError) and err.kind == "disk_full":
            raise
        return (f"no speed-up for {target.name}: its float32 baseline was not made: {err.message}",)
    return ()


def _make(
    job: Job, target: Target, precision: Precision, graphs: dict[str, Path], example: dict[str, NDArray[Any]]
) -> ArtifactReport:
    """Lower and check one artifact; every failure becomes a typed entry."""
    entry = ArtifactReport(target=target.name, precision=precision, status="ok")
    label = f"lower {target.name} {precision}"
    try:
        graph = job.model.path
        if policy := policy_of(target, precision):
            graph = graphs[digest_json(encode(policy))]
        if job.mend is not None and precision == "int8" and not target.requires:
            mended = job.mend(job, target, graph, example)
            graph, entry = mended.graph, replace(entry, rescue=mended.rescue)
        place = artifact_folder(job.out, target.name, precision)
        artifact = lower_graph(job, target, precision, graph, place, label)
    except Unsupported as err:
        reasons = err.reasons or (Reason(why=err.message, hint=err.hint),)
        return replace(entry, status="refused", reasons=tuple(str(r) for r in reasons))
    except EdgekitError as err:
        if isinstance(err, StepError) and err.kind == "disk_full":
            raise  # the next target would meet the same disk
        return replace(entry, status="failed", reasons=(str(err),))
    entry = replace(
        entry,
        path=str(place.relative_to(job.out)),
        size_bytes=artifact.size_bytes,
        notes=artifact.manifest.notes,
    )
    return check_artifact(artifact, entry, example, deadline_s=job.recipe.deadline_s)


def _raise_if_nothing_was_made(entries: list[ArtifactReport]) -> None:
    if any(e.status in ("ok", "not_validated") for e in entries):
        return
    named = [f"{e.target} {e.precision}: {reason}" for e in entries for reason in e.reasons]
    if all(e.status == "refused" for e in entries):
        raise Unsupported("no target can run this model", reasons=[Reason(why=why) for why in named])
    raise StepError("no artifact could be made\n  - " + "\n  - ".join(named))
