"""What a network of a graph learns, settled from its options: labels, a teacher, the judge of its epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.errors import UsageError, nearest
from edgekit.train.data import TrainingData
from edgekit.train.from_graph import trainable
from edgekit.train.judging import Judge, settled_metric, tensors
from edgekit.train.losses import Objective, label_loss, output_forms
from edgekit.train.teaching import Teacher, matching_layers, named_call, watch

__all__ = ["check_batch", "judge_of", "judged_output", "objective_of"]


def objective_of(
    module: Any, teacher: Path | None, data: TrainingData, options: TrainingOptions,
    distillation: DistillationOptions,
) -> Objective:
    """The objective of a `trainable` module; `teacher` is the ONNX file that teaches (None: labels alone).

    Raises `UsageError` for labels that do not go with the output, and for a teacher whose answers or named
    layers are not comparable.
    """
    torch = require("torch", needed_for="training")
    onnx = require("onnx")
    forms = output_forms(onnx.load(str(module.meta["source"])))
    output = judged_output(module, data, options)
    labels = data.labels()
    loss = None
    inputs = tensors(data.batch(0))[0]
    if labels is not None and (teacher is None or distillation.label_weight > 0):
        with torch.no_grad():
            example = named_call(module, inputs)[output].numpy()
        loss = label_loss(
            options.loss, output, example, labels, form=forms[output], smoothing=options.label_smoothing
        )
    taught = None
    if teacher is not None:
        network = trainable(teacher)
        taught = Teacher(module=network, layers=matching_layers(network, distillation.features))
        _check_comparable(module, taught, inputs)
    return Objective(labels=loss, teacher=taught, distillation=distillation, forms=forms)


def judge_of(
    module: Any, objective: Objective, data: TrainingData, options: TrainingOptions
) -> Judge | None:
    """The judge by the held-out samples; None where none are held out."""
    if not data.validation:
        return None
    metric = settled_metric(options.metric, objective, data)
    return Judge(objective=objective, data=data, metric=metric, output=judged_output(module, data, options))


def judged_output(module: Any, data: TrainingData, options: TrainingOptions) -> str:
    """The output that labels belong to. Raises `UsageError` where it has to be named, or is not there."""
    names = module.meta["outputs"]
    if options.output and options.output not in names:
        raise UsageError(f"the model has no output {options.output!r}; {nearest(options.output, names)}")
    if not options.output and len(names) > 1 and data.has_labels:
        raise UsageError(f"the model has {len(names)} outputs: {', '.join(names)}", hint="name one: output")
    return str(options.output or names[0])


def check_batch(module: Any, options: TrainingOptions) -> None:
    """Refuse batches that the graph cannot take."""
    if module.meta.get("batch") and options.batch_size > 1:
        raise UsageError(
            f"this graph takes one sample at a time: {module.meta['batch']}", hint="batch_size = 1"
        )


def _check_comparable(module: Any, teacher: Teacher, inputs: dict[str, Any]) -> None:
    seen: dict[str, Any] = {}
    [first, *_] = getattr(module, "policies", [module])
    unknown = [name for name in teacher.layers if name not in dict(first.named_modules())]
    if unknown:
        raise UsageError(f"features: the trained network has no layer {unknown[0]!r}, which the teacher has")
    handles = watch(module, teacher.layers, seen)
    with require("torch").no_grad():
        outputs = named_call(module, inputs)
    for handle in handles:
        handle.remove()
    teacher.check_outputs(outputs, seen, inputs)
