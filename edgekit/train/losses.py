"""What training makes small: the loss of labelled samples, and the distance to a teacher's answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.core.training import DistillationOptions, LossKind
from edgekit.errors import UsageError
from edgekit.train.teaching import Teacher

__all__ = ["Form", "LabelLoss", "Objective", "chosen_loss", "label_loss", "output_forms"]

Form = Literal["logits", "probabilities", "log-probabilities"]
_FORMS: dict[str, Form] = {
    "Softmax": "probabilities", "Sigmoid": "probabilities", "HardSigmoid": "probabilities",
    "LogSoftmax": "log-probabilities",
}  # fmt: skip
_TRANSPARENT = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Transpose")
_SMALLEST = 1e-30  # of a probability whose logarithm is taken


def output_forms(model: Any) -> dict[str, Form]:
    """Of each output of an ONNX model, what its last operator says that its scores are."""
    producers = {name: node for node in model.graph.node for name in node.output}
    forms: dict[str, Form] = {}
    for output in model.graph.output:
        node = producers.get(output.name)
        while node is not None and node.op_type in _TRANSPARENT:
            node = producers.get(node.input[0])
        forms[output.name] = _FORMS.get(node.op_type, "logits") if node is not None else "logits"
    return forms


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelLoss:
    """The loss of `output` against labels: `kind` is settled, `form` says what the scores are."""

    output: str
    kind: Literal["cross-entropy", "binary-cross-entropy", "mse"]
    form: Form = "logits"
    smoothing: float = 0.0

    def __call__(self, scores: Any, labels: Any) -> Any:
        """The mean loss of scores [n, ...] against labels [n, ...], both tensors."""
        torch = require("torch")
        functional = torch.nn.functional
        if self.kind == "mse":
            return functional.mse_loss(scores.reshape(len(scores), -1), labels.reshape(len(labels), -1))
        if self.kind == "binary-cross-entropy":
            wanted = labels.reshape(scores.shape)
            if self.smoothing:
                wanted = wanted * (1 - self.smoothing) + self.smoothing / 2
            if self.form == "logits":
                return functional.binary_cross_entropy_with_logits(scores, wanted)
            return functional.binary_cross_entropy(scores.clamp(0.0, 1.0), wanted)
        rows = scores.reshape(len(scores), -1)
        logits = as_logits(rows, self.form)
        return functional.cross_entropy(logits, labels.reshape(-1), label_smoothing=self.smoothing)


def label_loss(
    kind: LossKind, output: str, scores: NDArray[Any], labels: NDArray[Any], *, form: Form, smoothing: float
) -> LabelLoss:
    """The loss for an output of which `scores` [n, ...] are an example, checked against all labels [m, ...].

    Raises `UsageError` for labels that do not go with it: of another shape, out of range, not whole.
    """
    width = int(np.prod(scores.shape[1:], dtype=np.int64))
    settled = chosen_loss(kind, scores.shape, labels)
    flat = labels.reshape(len(labels), -1)
    if settled == "cross-entropy":
        _check_classes(output, scores.shape, flat)
    elif flat.shape[1] != width:
        raise UsageError(
            f"labels have shape {list(labels.shape)}, {settled} of the output {output!r} needs "
            f"{['n', *scores.shape[1:]]}".replace("'", "")
        )
    elif settled == "binary-cross-entropy" and not ((flat >= 0) & (flat <= 1)).all():
        bad = flat[~((flat >= 0) & (flat <= 1))][0]
        raise UsageError(f"label {bad:g} is out of range: binary cross-entropy takes labels from 0 to 1")
    elif not np.isfinite(flat.astype(np.float64)).all():
        raise UsageError("the labels hold NaN or infinity")
    return LabelLoss(output=output, kind=settled, form=form, smoothing=smoothing)


def chosen_loss(
    kind: LossKind, shape: tuple[int, ...], labels: NDArray[Any]
) -> Literal["cross-entropy", "binary-cross-entropy", "mse"]:
    """What "auto" means for an output of this shape [n, ...] and these labels."""
    if kind != "auto":
        return kind
    flat = labels.reshape(len(labels), -1)
    whole = labels.dtype.kind in "biu"
    width = int(np.prod(shape[1:], dtype=np.int64))
    row = sum(d != 1 for d in shape[1:]) <= 1
    if whole and row and flat.shape[1] == width:
        return "binary-cross-entropy"
    return "cross-entropy" if whole and row and flat.shape[1] == 1 and width > 1 else "mse"


def _check_classes(output: str, shape: tuple[int, ...], flat: NDArray[Any]) -> None:
    width = max(shape[1:], default=1)
    if sum(d != 1 for d in shape[1:]) != 1:
        raise UsageError(
            f"cross-entropy needs one row of class scores a sample, {output!r} has shape {list(shape)}",
            hint='loss = "mse", or another output',
        )
    if flat.shape[1] != 1:
        hot = " (they look one-hot: take argmax)" if flat.shape[1] == width else ""
        raise UsageError(f"labels have {flat.shape[1]} values a sample, one class number is needed{hot}")
    values = flat[:, 0]
    if values.dtype.kind == "f" and not np.array_equal(values, np.floor(values)):
        raise UsageError(f"labels are {values.dtype} and not whole, class numbers are needed")
    bad = (values < 0) | (values >= width)
    if bad.any():
        raise UsageError(
            f"label {values[bad][0]:g} is out of range: the output {output!r} has {width} scores, labels go "
            f"from 0 to {width - 1} ({int(bad.sum())} of {len(values)} labels are outside)",
            hint="do the labels count from 1?" if values.max() == width and values.min() >= 1 else "",
        )


def as_logits(scores: Any, form: Form) -> Any:
    """Scores whose softmax are the class probabilities: the logarithm of probabilities is one such."""
    return scores.clamp_min(_SMALLEST).log() if form == "probabilities" else scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """All that is made small together: `labels`, and what a `teacher` answers (None: there is none).

    `forms` says what each output's scores are, for outputs that are no logits.
    """

    labels: LabelLoss | None
    teacher: Teacher | None = None
    distillation: DistillationOptions = field(default_factory=DistillationOptions)
    forms: Mapping[str, Form] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels is None and self.teacher is None:
            raise UsageError(
                "there is nothing to learn from: no labels, and no teacher",
                hint="give labelled samples, or distill from the float network",
            )

    def __call__(
        self, outputs: Mapping[str, Any], inputs: Mapping[str, Any], labels: Any, labelled: Any,
        features: Mapping[str, Any],
    ) -> Any:
        """The loss of a batch: a tensor of one value.

        `outputs`, `inputs` by name; `labels` of the samples that the boolean tensor `labelled` marks, or
        None; `features` by layer, as `Teacher.watch` collects them.
        """
        total: Any = 0.0
        if self.labels is not None and labels is not None:
            weight = self.distillation.label_weight if self.teacher else 1.0
            scores = outputs[self.labels.output][labelled]
            total = total + weight * self.labels(scores, labels)
        if self.teacher is not None:
            total = total + self._distance(outputs, features, *self.teacher.answer(inputs))
        return total

    def _distance(
        self, outputs: Mapping[str, Any], features: Mapping[str, Any],
        taught: Mapping[str, Any], wanted: Mapping[str, Any],
    ) -> Any:
        missing = sorted(set(outputs) - set(taught))
        if missing:
            raise UsageError(f"the teacher has no output {missing[0]!r}; it has {', '.join(taught)}")
        terms = [self._output_distance(name, outputs[name], taught[name]) for name in outputs
                 if outputs[name].is_floating_point()]  # fmt: skip
        loss = sum(terms[1:], terms[0]) / len(terms)
        if wanted:
            apart = [_relative(features[name], value) for name, value in wanted.items()]
            loss = loss + self.distillation.feature_weight * sum(apart[1:], apart[0]) / len(apart)
        return loss

    def _output_distance(self, name: str, got: Any, wanted: Any) -> Any:
        if got.shape != wanted.shape:
            raise UsageError(
                f"output {name!r} has shape {list(got.shape)}, the teacher's has {list(wanted.shape)}"
            )
        form, options = self.forms.get(name, "logits"), self.distillation
        soft = options.soft == "soft-targets" or (options.soft == "auto" and form != "logits")
        if not soft or got[0].numel() < 2:
            return _relative(got, wanted)
        functional = require("torch").nn.functional
        t = options.temperature
        student = functional.log_softmax(as_logits(got.flatten(1), form) / t, dim=1)
        target = functional.log_softmax(as_logits(wanted.flatten(1), form) / t, dim=1)
        return t * t * functional.kl_div(student, target, reduction="batchmean", log_target=True)


def _relative(got: Any, wanted: Any) -> Any:
    """The mean squared difference over the variance of what is wanted."""
    torch = require("torch")
    spread = wanted.var(unbiased=False) if wanted.numel() > 1 else wanted.square().mean()
    return torch.nn.functional.mse_loss(got, wanted) / spread.clamp_min(1e-12)
