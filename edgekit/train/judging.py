"""What an epoch is judged by: a metric of the validation samples, higher or lower being better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.core.training import TrainingMetric
from edgekit.errors import UsageError
from edgekit.measure.drift import class_scores
from edgekit.measure.metrics import ERROR_METRICS, check_metric, higher_is_better, score
from edgekit.train.data import ArrayBatch, TrainingData
from edgekit.train.losses import Objective
from edgekit.train.teaching import Call, watch

__all__ = ["Judge", "settled_metric", "tensors"]


def settled_metric(metric: TrainingMetric, objective: Objective, data: TrainingData) -> TrainingMetric:
    """What "auto" means: the metric that goes with the loss of the labels; "loss" without labels."""
    labelled = all(v.has_labels for v in data.validation)
    if metric not in ("auto", "loss", "agreement") and not labelled:
        raise UsageError(f"metric {metric!r} needs labels, validation has none", hint='metric = "loss"')
    if metric == "agreement" and objective.teacher is None:
        raise UsageError('metric "agreement" is that with a teacher; there is none', hint="distill")
    if metric != "auto":
        return metric
    if objective.labels is None or not labelled:
        return "loss"
    return "mse" if objective.labels.kind == "mse" else "accuracy"


@dataclass(slots=True, kw_only=True)
class Judge:
    """Judges a module on the validation samples of `data`, in eval mode.

    `metric` is settled (`settled_metric`); `output` is the output that labels or the teacher's classes are
    compared with.
    """

    objective: Objective
    data: TrainingData
    metric: TrainingMetric
    output: str

    @property
    def name(self) -> str:
        """What the figure is called: "validation loss", "accuracy"."""
        return "validation loss" if self.metric == "loss" else str(self.metric)

    def better(self, score: float, best: float) -> bool:
        """Whether a score is better than another."""
        if self.metric == "agreement" or (self.metric != "loss" and higher_is_better(self._metric)):
            return score > best
        return score < best

    def __call__(self, module: Any, call: Call) -> float:
        """The score over all validation samples. Raises `StepError` where answers are NaN or infinite."""
        torch = require("torch")
        module.eval()
        features: dict[str, Any] = {}
        handles = watch(module, self.objective.teacher.layers, features) if self.objective.teacher else []
        try:
            with torch.no_grad():
                if self.metric == "loss":
                    return self._loss(module, call, features)
                return self._metric_of(module, call)
        finally:
            for handle in handles:
                handle.remove()

    @property
    def _metric(self) -> Any:
        return check_metric(str(self.metric))

    def _loss(self, module: Any, call: Call, features: dict[str, Any]) -> float:
        total, count = 0.0, 0
        for batch in self.data.judged():
            inputs, labels, labelled = tensors(batch)
            loss = self.objective(call(module, inputs), inputs, labels, labelled, features)
            total += float(loss) * len(batch.labelled)
            count += len(batch.labelled)
        return total / count

    def _metric_of(self, module: Any, call: Call) -> float:
        answers: list[NDArray[Any]] = []
        truths: list[NDArray[Any]] = []
        for batch in self.data.judged():
            inputs, _, _ = tensors(batch)
            answers.append(call(module, inputs)[self.output].numpy())
            truths.append(self._truth(batch, inputs))
        outputs, labels = np.concatenate(answers), np.concatenate(truths)
        if self.metric == "agreement":
            return float((_classes(outputs) == labels).mean())
        if self.metric not in ERROR_METRICS and outputs[0].size == 1:
            outputs = _probabilities(outputs, self.objective)
        return score(self._metric, outputs, labels)

    def _truth(self, batch: ArrayBatch, inputs: dict[str, Any]) -> NDArray[Any]:
        if self.metric == "agreement":
            assert self.objective.teacher is not None
            return _classes(self.objective.teacher.answer(inputs)[0][self.output].numpy())
        assert batch.labels is not None
        return batch.labels


def tensors(batch: ArrayBatch) -> tuple[dict[str, Any], Any, Any]:
    """Inputs (pictures with channels innermost in memory, which is faster), labels, which are labelled."""
    torch = require("torch")
    inputs = {}
    for name, value in batch.inputs.items():
        tensor = torch.from_numpy(value)
        if tensor.dim() == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        inputs[name] = tensor
    labels = None
    if batch.labels is not None:
        labels = torch.from_numpy(batch.labels)
        labels = labels.float() if labels.is_floating_point() else labels.long()
    return inputs, labels, torch.from_numpy(batch.labelled)


def _classes(outputs: NDArray[Any]) -> NDArray[np.int64]:
    scores = class_scores(outputs)
    if scores is None:
        raise UsageError(
            f"agreement needs one row of class scores a sample, the output has shape {list(outputs.shape)}",
            hint='metric = "loss"',
        )
    found: NDArray[np.int64] = scores.argmax(axis=1)
    return found


def _probabilities(outputs: NDArray[Any], objective: Objective) -> NDArray[Any]:
    """A single score as the metrics take it: the probability."""
    if objective.labels is not None and objective.labels.form == "logits":
        return np.asarray(1.0 / (1.0 + np.exp(-outputs.astype(np.float64))))
    return outputs
