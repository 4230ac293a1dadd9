"""Quantization-aware training as a step: QDQ graphs of all policies in, the same graphs trained out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekit.core.codec import encode
from edgekit.core.events import Event
from edgekit.core.files import digest_file, digest_json, write_json
from edgekit.core.packages import installed_version
from edgekit.core.qat import QatOptions
from edgekit.core.samples import open_samples
from edgekit.core.target import Int8Policy, Target
from edgekit.pipeline.cache import cached_folder, partial_result
from edgekit.pipeline.job import Job
from edgekit.pipeline.quantizing import calibrated, evened_out, policy_of

__all__ = ["trained_graphs"]

_RESULT = "training.json"


def trained_graphs(
    job: Job, graphs: dict[str, Path], targets: list[Target]
) -> tuple[dict[str, Path], tuple[str, ...]]:
    """`graphs` (policy digest -> ONNX file) with the int8 ones trained as the recipe's [qat] says; and notes.

    All policies are trained together, on one set of float weights. What the same graphs, samples and options
    gave before is taken again; a run that was interrupted goes on where it stopped.
    """
    options = job.recipe.qat
    policies = {
        digest_json(encode(p)): p for t in targets if isinstance(p := policy_of(t, "int8"), Int8Policy)
    }
    if options is None or not policies or "int8" not in job.recipe.precisions:
        return graphs, ()
    keys = sorted(policies)
    together = [policies[k] for k in keys]
    model = calibrated(evened_out(job, together), together)[0].model.path
    arguments: dict[str, Any] = {
        "model": str(model),
        "graphs": [{"qdq": str(graphs[k]), "policy": encode(policies[k])} for k in keys],
        "options": encode(options),
        "distillation": encode(job.recipe.distill),
        "signature": encode(job.model.signature),
        "keep": sorted(job.recipe.quantization.keep),
        "leave_float": job.recipe.quantization.leave_float,
    }
    inputs = {
        **{name: arguments[name] for name in ("options", "distillation", "keep", "leave_float")},
        "model": digest_file(model),
        "graphs": [digest_file(graphs[k]) for k in keys],
        "policies": keys,
        "samples": _digests(options, job),
        "versions": {name: installed_version(name) for name in ("numpy", "onnx", "torch", "pillow")},
    }
    interrupted = partial_result("train-quantized", version=3, inputs=inputs)
    label = f"train {len(keys)} quantized graph{'s' if len(keys) > 1 else ''}"

    def build(folder: Path) -> None:
        outs = [str(folder / f"{k}.onnx") for k in keys]
        rows = [{**g, "out": out} for g, out in zip(arguments["graphs"], outs, strict=True)]
        given = {**arguments, "graphs": rows, "checkpoint": str(interrupted)}
        done = job.runner.run(
            "edgekit.train.quantized.step:train_quantized_file", given, label=label
        )
        write_json(folder / _RESULT, done)

    folder, cached = cached_folder("train-quantized", version=3, inputs=inputs, build=build)
    if cached:
        job.runner.on_event(Event(step=label, state="cached"))
    done = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    return {**graphs, **{k: folder / f"{k}.onnx" for k in keys}}, (_note(done),)


def _digests(options: QatOptions, job: Job) -> list[str]:
    training = options.training
    sources = [*training.data, *([training.validation] if training.validation else [])]
    found = [open_samples(source, job.model.signature).digest for source in sources]
    if training.augmentation:
        found.append(digest_file(Path(training.augmentation.partition(":")[0])))
    return found


def _note(done: dict[str, Any]) -> str:
    if done["initial"] is None:
        return f"quantization-aware training: {len(done['epochs'])} epochs, no validation samples"
    return (
        f"quantization-aware training: {done['metric']} {done['initial']:.4g} after calibration, "
        f"{done['score']:.4g} after epoch {done['best']} of {len(done['epochs'])} (learning rate "
        f"{done['rate']:g})"
    )
