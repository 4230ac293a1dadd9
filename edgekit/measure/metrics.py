"""Metrics of a model's answers against labels, kept sample by sample so that two models can be paired."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from edgekit.core.recipe import Metric
from edgekit.core.report import Accuracy
from edgekit.errors import InternalError, UsageError, nearest
from edgekit.measure.drift import check_outputs, class_scores
from edgekit.measure.statistics import bootstrap_interval

__all__ = [
    "ERROR_METRICS", "RATE_METRICS", "Evaluation", "check_metric", "compare_accuracy", "compare_evaluations",
    "higher_is_better", "per_sample", "score",
]

RATE_METRICS: tuple[Metric, ...] = ("accuracy", "top5", "precision", "recall", "f1")
ERROR_METRICS: tuple[Metric, ...] = ("mse", "mae", "rmse")
_COUNTED: tuple[Metric, ...] = ("precision", "recall", "f1")


def higher_is_better(metric: Metric) -> bool:
    """True for rates (accuracy, top5, precision, recall, f1), False for errors (mse, mae, rmse)."""
    return metric in RATE_METRICS


def check_metric(name: str) -> Metric:
    """The metric of this name. Raises `UsageError` with the nearest known one."""
    known: tuple[Metric, ...] = get_args(Metric)
    for metric in known:
        if metric == name:
            return metric
    raise UsageError(f"unknown metric {name!r}; {nearest(name, known)}")


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """Accumulates one model's answers, batch by batch, as a few numbers a sample.

    accuracy, top5: [n] of 1 or 0. mse, rmse: [n] mean squared difference of the sample's values. mae: [n]
    mean absolute difference. precision, recall, f1: [n, 2] of predicted and true class.
    `whose` names the model in errors.
    """

    metric: Metric
    whose: str = "the model"
    _parts: list[NDArray[Any]] = field(default_factory=list)
    _classes: int = 0

    def update(self, outputs: NDArray[Any], labels: NDArray[Any]) -> None:
        """Add a batch of outputs [n, ...] and labels. Raises `UsageError`, or `StepError` on NaN outputs."""
        check_outputs(outputs, self.whose, "judged")
        self._parts.append(per_sample(self.metric, outputs, labels))
        self._classes = _width(outputs)

    @property
    def values(self) -> NDArray[Any]:
        """The statistics of all samples so far, in their order."""
        if not self._parts:
            raise InternalError("a metric was asked for before any sample was judged")
        return np.concatenate(self._parts)

    @property
    def is_binary(self) -> bool:
        """Whether the output is one probability a sample."""
        return self._classes == 1

    def score(self) -> float:
        """The metric over all samples so far: 0..1 for rates, the label's own unit for errors."""
        return _reduce(self.metric, self.values[None], binary=self.is_binary).item()


def per_sample(metric: Metric, outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """The statistics of each sample that `metric` is made of; see `Evaluation`.

    Rates: `outputs` are class scores [n, C] and `labels` class numbers [n], the largest score wins (the first
    among equals); or outputs [n, 1] are probabilities (a sigmoid's) and labels 0 or 1, positive from 0.5 on.
    Errors: `labels` have the outputs' shape, or [n] for outputs [n, 1].
    Raises `UsageError` when labels and outputs do not go together.
    """
    if len(outputs) != len(labels):
        raise UsageError(f"{len(labels)} labels for {len(outputs)} outputs")
    if metric in ERROR_METRICS:
        return _differences(metric, outputs, labels)
    classes = _class_labels(outputs, labels)
    if _width(outputs) == 1:
        return _binary(metric, outputs.reshape(len(outputs)), classes)
    scores = class_scores(outputs)
    if scores is None:
        raise UsageError(
            f"{metric} needs one row of class scores a sample, the output has shape {list(outputs.shape)}",
            hint="judge another output, or use mse, mae or rmse",
        )
    if metric in _COUNTED:
        return np.stack([scores.argmax(axis=1), classes], axis=1)
    return (_rank(scores, classes) < _places(metric, scores.shape[1])).astype(np.float64)


def score(metric: Metric, outputs: NDArray[Any], labels: NDArray[Any]) -> float:
    """The metric of outputs [n, ...] against labels.

    precision, recall and f1 of class scores are macro averages over the classes that occur among labels or
    predictions, a class never predicted (or never true) counting 0; of a single probability they are those
    of the positive class.
    """
    evaluation = Evaluation(metric=metric)
    evaluation.update(outputs, labels)
    return evaluation.score()


def compare_accuracy(
    metric: Metric,
    source_outputs: NDArray[Any],
    artifact_outputs: NDArray[Any],
    labels: NDArray[Any] | None,
    *,
    seed: int = 0,
) -> Accuracy:
    """Both models judged on the same samples; the drop with its 95 % paired bootstrap interval.

    For errors (mse, mae, rmse) `labels` may be None: the source model's own outputs are the truth then, its
    error is 0 and the artifact's error is its deviation from the source. Rates without labels are refused.
    """
    if labels is None:
        if metric not in ERROR_METRICS:
            raise UsageError(f"{metric} needs labels", hint=f"without labels: {', '.join(ERROR_METRICS)}")
        labels = source_outputs
    source = Evaluation(metric=metric, whose="the source model")
    artifact = Evaluation(metric=metric, whose="the artifact")
    source.update(source_outputs, labels)
    artifact.update(artifact_outputs, labels)
    return compare_evaluations(source, artifact, seed=seed)


def compare_evaluations(source: Evaluation, artifact: Evaluation, *, seed: int = 0) -> Accuracy:
    """What `compare_accuracy` gives, from two evaluations that saw the same samples in the same order."""
    metric, a, b = source.metric, source.values, artifact.values
    if artifact.metric != metric or a.shape != b.shape:
        raise InternalError("two evaluations of different metrics or samples were compared")
    binary = source.is_binary

    def drop(indices: NDArray[np.int64]) -> NDArray[Any]:
        worse = _reduce(metric, a[indices], binary=binary) - _reduce(metric, b[indices], binary=binary)
        return 100.0 * worse if higher_is_better(metric) else -worse

    everything = np.arange(len(a))[None]
    low, high = bootstrap_interval(drop, len(a), seed=seed)
    return Accuracy(
        metric=metric,
        source=source.score(),
        artifact=artifact.score(),
        drop=_rounded(drop(everything).item()),
        interval=(_rounded(low), _rounded(high)),
        n=len(a),
    )


def _rounded(value: float) -> float:
    """Without the last digits, so that a drop of exactly 0.5 points is not 0.5000000000000004."""
    return float(f"{value:.12g}")


def _reduce(metric: Metric, values: NDArray[Any], *, binary: bool) -> NDArray[np.float64]:
    """The metric of each row of `values`: [b, n] or [b, n, 2] to [b]."""
    if metric in _COUNTED:
        return np.array([_counted(metric, row, binary=binary) for row in values], np.float64)
    means: NDArray[np.float64] = values.mean(axis=1, dtype=np.float64)
    return np.sqrt(means) if metric == "rmse" else means


def _counted(metric: Metric, pairs: NDArray[np.int64], *, binary: bool) -> float:
    predicted, true = pairs[:, 0], pairs[:, 1]
    classes = int(pairs.max()) + 1
    if binary:
        classes = 2
    hits = np.bincount(true[predicted == true], minlength=classes).astype(np.float64)
    claimed = np.bincount(predicted, minlength=classes)
    present = np.bincount(true, minlength=classes)
    below = {"precision": claimed, "recall": present, "f1": (claimed + present) / 2.0}[metric]
    values = np.divide(hits, below, out=np.zeros(classes), where=below > 0)
    if binary:
        return float(values[1])
    return float(values[(claimed > 0) | (present > 0)].mean())


def _width(outputs: NDArray[Any]) -> int:
    return int(np.prod(outputs.shape[1:], dtype=np.int64))


def _class_labels(outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    flat = labels.reshape(len(labels), -1)
    if flat.shape[1] != 1:
        one_hot = " (they look one-hot: take argmax)" if flat.shape[1] == _width(outputs) else ""
        raise UsageError(
            f"labels have shape {list(labels.shape)}, one class number a sample is needed{one_hot}"
        )
    values = flat[:, 0]
    if values.dtype.kind not in "biu" and not np.array_equal(values, np.floor(values)):
        raise UsageError(f"labels are {labels.dtype} and not whole, class numbers are needed")
    classes = values.astype(np.int64)
    limit = max(2, _width(outputs))
    bad = (classes < 0) | (classes >= limit)
    if bad.any():
        from_one = classes.max() == limit and classes.min() >= 1
        raise UsageError(
            f"label {classes[bad][0]} is out of range: the output has {_width(outputs)} score(s), labels go "
            f"from 0 to {limit - 1}",
            hint="do the labels count from 1?" if from_one else "",
        )
    return classes


def _binary(
    metric: Metric, probabilities: NDArray[Any], classes: NDArray[np.int64]
) -> NDArray[Any]:
    if metric == "top5":
        raise UsageError("top5 needs at least 6 classes, the output has one value")
    if len(probabilities) and (probabilities.min() < -0.01 or probabilities.max() > 1.01):
        raise UsageError(
            f"{metric} of a single value takes it for a probability with the threshold 0.5, this output goes "
            f"from {probabilities.min():g} to {probabilities.max():g}",
            hint="it looks like a logit: export the model with its sigmoid",
        )
    predicted = (probabilities >= 0.5).astype(np.int64)
    if metric == "accuracy":
        return np.equal(predicted, classes).astype(np.float64)
    return np.stack([predicted, classes], axis=1)


def _places(metric: Metric, classes: int) -> int:
    if metric == "accuracy":
        return 1
    if classes <= 5:
        raise UsageError(f"top5 needs at least 6 classes, the output has {classes}")
    return 5


def _rank(scores: NDArray[Any], classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes come before the true one: higher scores, and equal ones of a lower number."""
    own = np.take_along_axis(scores, classes[:, None], axis=1)
    earlier = np.arange(scores.shape[1])[None] < classes[:, None]
    before: NDArray[np.int64] = np.sum((scores > own) | ((scores == own) & earlier), axis=1, dtype=np.int64)
    return before


def _differences(metric: Metric, outputs: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.float64]:
    squeezed = tuple(d for d in outputs.shape[1:] if d != 1)
    if squeezed != tuple(d for d in labels.shape[1:] if d != 1):
        raise UsageError(
            f"{metric} needs labels of the output's shape {list(outputs.shape)}, got {list(labels.shape)}"
        )
    difference = outputs.reshape(len(outputs), -1).astype(np.float64) - labels.reshape(len(labels), -1)
    values = np.abs(difference) if metric == "mae" else difference * difference
    means: NDArray[np.float64] = values.mean(axis=1)
    return means
