"""The step: a canonical ONNX file in, the same graph fine-tuned out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.core.codec import decode, encode
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.train.data import training_data
from edgekit.train.from_graph import trainable
from edgekit.train.loop import Trained, train
from edgekit.train.objective import check_batch, judge_of, objective_of
from edgekit.train.to_graph import write_back

__all__ = ["finetune_file"]


def finetune_file(
    *, model: str, out: str, options: dict[str, Any], signature: dict[str, Any],
    distillation: dict[str, Any] | None = None, teacher: str = "", checkpoint: str = "",
) -> dict[str, Any]:
    """Step: train the weights of the ONNX file `model` (BatchNormalization in place) and write `out`.

    `teacher` is the ONNX file whose answers are learned ("": labels alone). Returns a `Trained` as JSON.
    """
    require("torch", needed_for="fine-tuning")
    chosen = decode(TrainingOptions, options, where="finetune")
    soft = DistillationOptions()
    if distillation is not None:
        soft = decode(DistillationOptions, distillation, where="distill")
    data = training_data(chosen, decode(Signature, signature, where="signature"), need_labels=not teacher)
    module = trainable(Path(model))
    check_batch(module, chosen)
    objective = objective_of(module, Path(teacher) if teacher else None, data, chosen, soft)
    judge = judge_of(module, objective, data, chosen)
    place = Path(checkpoint) if checkpoint else None
    done: Trained = train(module, objective, data, chosen, judge=judge, checkpoint=place)
    write_back(module, Path(model), Path(out))
    if place is not None:
        place.unlink(missing_ok=True)
    answer: dict[str, Any] = encode(done)
    return answer
