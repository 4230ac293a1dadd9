"""Compression of the float network before it is quantized: pruned, then fine-tuned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.core.codec import encode
from edgekit.core.events import Event
from edgekit.core.files import digest_file, write_json
from edgekit.core.model import Model
from edgekit.core.packages import installed_version
from edgekit.core.pruning import PruningOptions
from edgekit.core.recipe import Recipe, SourceOptions
from edgekit.core.samples import open_samples
from edgekit.core.training import TrainingOptions
from edgekit.errors import UsageError
from edgekit.pipeline.cache import cached_folder, partial_result
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.steps import StepRunner

__all__ = ["compressed", "pruned"]

_FOLDED, _UNFOLDED, _RESULT = "model.onnx", "unfolded.onnx", "result.json"
_PACKAGES = ("numpy", "onnx", "onnxruntime", "torch", "torch-pruning", "pillow")


def compressed(recipe: Recipe, model: Model, *, work: Path, runner: StepRunner) -> Model:
    """The model as the recipe's [prune], [distill] and [finetune] leave it; the same where they say nothing.

    A student of the user's takes the model's place before it is trained. The notes say what was done.
    """
    original = model
    if recipe.prune is not None:
        model = pruned(model, recipe.prune, runner=runner)
    distill = recipe.distill
    if distill is not None and distill.student is not None:
        model = _student(distill.student, model, work / "student", runner)
    if recipe.finetune is None:
        return model
    teacher = original
    if distill is not None and distill.teacher is not None:
        teacher = read_model(distill.teacher, out=work / "teacher", runner=runner)
    return _finetuned(recipe, model, teacher if distill is not None else None, runner)


def pruned(model: Model, options: PruningOptions, *, runner: StepRunner) -> Model:
    """The model, pruned in a child process; what the same model, samples and options gave before is taken
    again, and a run that was interrupted goes on behind its last finished step."""
    training = options.recovery
    inputs = {
        "model": digest_file(model.unfolded),
        "options": encode(options),
        "samples": _samples(training, model) if training else [],
        "versions": {name: installed_version(name) for name in _PACKAGES},
    }
    steps = partial_result("prune", version=2, inputs=inputs)
    label = f"prune {100 * options.remove:g} % of {_what(options)}"
    arguments = {
        "model": str(model.unfolded),
        "work": str(steps),
        "options": encode(options),
        "signature": encode(model.signature),
    }

    def work(out: Path) -> Any:
        made = {**arguments, "out": str(out)}
        return runner.run("edgekit.train.pruning.step:prune_file", made, label=label)

    done, result = _built("prune", inputs, model, work, runner, label)
    shutil.rmtree(steps, ignore_errors=True)
    return replace(done, notes=(*done.notes, *_pruning_notes(result)))


def _finetuned(recipe: Recipe, model: Model, teacher: Model | None, runner: StepRunner) -> Model:
    assert recipe.finetune is not None
    inputs = {
        "model": digest_file(model.unfolded),
        "teacher": digest_file(teacher.unfolded) if teacher else "",
        "options": encode(recipe.finetune),
        "distill": encode(recipe.distill),
        "samples": _samples(recipe.finetune, model),
        "versions": {name: installed_version(name) for name in _PACKAGES},
    }
    label = "distill" if teacher else "fine-tune"
    arguments = {
        "model": str(model.unfolded),
        "teacher": str(teacher.unfolded) if teacher else "",
        "options": encode(recipe.finetune),
        "distillation": encode(recipe.distill),
        "signature": encode(model.signature),
        "checkpoint": str(partial_result("finetune", version=1, inputs=inputs)),
    }

    def work(out: Path) -> Any:
        made = {**arguments, "out": str(out)}
        return runner.run("edgekit.train.finetune:finetune_file", made, label=label)

    done, result = _built("finetune", inputs, model, work, runner, label)
    note = f"{label}: {len(result['epochs'])} epochs, no validation samples"
    if result["initial"] is not None:
        note = (
            f"{label}: {result['metric']} {result['initial']:.4g} before, {result['score']:.4g} after epoch "
            f"{result['best']} of {len(result['epochs'])}"
        )
    return replace(done, notes=(*done.notes, note))


def _built(
    step: str, inputs: dict[str, Any], model: Model, work: Callable[[Path], Any], runner: StepRunner,
    label: str,
) -> tuple[Model, Any]:  # fmt: skip
    """Both forms of the graph that `work(file)` writes, and what it returns; or what the cache holds."""

    def build(folder: Path) -> None:
        changed = folder / "changed.onnx"
        result = work(changed)
        runner.run(
            "edgekit.graph.canonical:finish",
            {
                "source": str(changed),
                "out": str(folder / _FOLDED),
                "unfolded": str(folder / _UNFOLDED),
                "simplified": False,
            },
            label="finish the graph",
        )
        changed.unlink()
        write_json(folder / _RESULT, result)

    folder, cached = cached_folder(step, version=2, inputs=inputs, build=build)
    if cached:
        runner.on_event(Event(step=label, state="cached"))
    path, unfolded = folder / _FOLDED, folder / _UNFOLDED
    result = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    return replace(
        model, path=path, unfolded=unfolded if unfolded.is_file() else path, digest=digest_file(path)
    ), result


def _student(options: SourceOptions, model: Model, out: Path, runner: StepRunner) -> Model:
    """The user's network in the model's place. Raises `UsageError` where its ports are others."""
    read = read_model(options, out=out, runner=runner)
    ours = [(s.name, s.shape, s.dtype) for s in (*model.signature.inputs, *model.signature.outputs)]
    theirs = [(s.name, s.shape, s.dtype) for s in (*read.signature.inputs, *read.signature.outputs)]
    if ours != theirs:
        wanted = ", ".join(map(str, (*model.signature.inputs, *model.signature.outputs)))
        got = ", ".join(map(str, (*read.signature.inputs, *read.signature.outputs)))
        raise UsageError(f"the student has {got}; the teacher has {wanted}", where=options.model)
    notes = (*model.notes, f"the student {options.model} was trained in its place")
    return replace(read, source=model.source, format=model.format, source_digest=model.source_digest,
                   notes=notes)  # fmt: skip


def _samples(training: TrainingOptions, model: Model) -> list[str]:
    sources = [*training.data, *([training.validation] if training.validation else [])]
    found = [open_samples(source, model.signature).digest for source in sources]
    if training.augmentation:
        found.append(digest_file(Path(training.augmentation.rpartition(":")[0])))
    return found


def _what(options: PruningOptions) -> str:
    if options.method in ("unstructured", "2:4"):
        return "weights"
    if options.method == "heads" and options.measure != "latency":
        return "heads"
    names = {"macs": "multiply-adds", "parameters": "parameters", "latency": f"latency on {options.target}"}
    return names[options.measure]


def _pruning_notes(result: dict[str, Any]) -> tuple[str, ...]:
    steps = result["steps"]
    first = steps[0]
    last = steps[result["result"]]
    text = (
        f"pruned: {first['macs']:,} multiply-adds to {last['macs']:,} ({last['macs'] / first['macs']:.2f}x), "
        f"{first['parameters']:,} parameters to {last['parameters']:,}"
    )
    if last["zeros"] > first["zeros"]:
        text += f", {last['zeros']:,} of them zero"
    if last["latency_ms"] is not None:
        text += f"; float32 latency {first['latency_ms']:.3g} ms to {last['latency_ms']:.3g} ms"
    if last["after"] is not None:
        text += f"; {result['metric']} {first['after']:.4g} before, {last['after']:.4g} after"
        if last["before"] is not None:
            text += f" ({last['before']:.4g} as it was cut last)"
    stopped = [f"pruning stopped: {result['stopped']}"] if result["stopped"] else []
    return (text, *stopped, *(f"pruning, {note}" for note in result["notes"]))
