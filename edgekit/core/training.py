"""What training is asked to do: samples, loss, optimizer, schedule, when to stop; and distillation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.core.sources import DataSource, Metric, SourceOptions
from edgekit.errors import UsageError

__all__ = ["DistillationOptions", "LossKind", "TrainingMetric", "TrainingOptions"]

LossKind = Literal["auto", "cross-entropy", "binary-cross-entropy", "mse"]
TrainingMetric = Literal["auto", "loss", "agreement", Metric]

_EPOCHS = 10
_RATE = 1e-3  # of AdamW, for a network that was trained before


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How a network is trained.

    `data`: sources of samples; every batch holds of each its share (`shares`, in parts of one; empty: by
    their sizes), and an epoch is one pass over all of them (over the one that takes most batches, where
    shares are given). `validation`: samples by which epochs are judged (None: `held_out`, a share of each
    source that training then does not see). `metric`: what the best epoch is best by; "auto" is the loss's
    own ("accuracy", "mse"), and "loss" without labels. "agreement" is the share of samples whose first class
    is the teacher's. `output` is the output that labels belong to ("": the only one).

    `loss`: of labelled samples; "auto" is cross-entropy for whole-number labels of a row of class scores,
    binary cross-entropy for a single score or as many scores as labels, else the mean squared error.
    Scores may be logits or probabilities (Softmax or Sigmoid at the end): the graph says which.

    `epochs` (0: 10, and in quantization-aware training at least as many as make 1,000 steps) and `steps` (0:
    what the epochs give) end the schedule; steps must not be more than the epochs give. `learning_rate`
    is the highest rate (0: 0.001, or what quantization-aware training and the recovery of pruned channels
    choose by held-out samples). The rate rises
    linearly over the first `warmup` share of the steps and falls along a half cosine to a hundredth of itself
    ("cosine": Loshchilov & Hutter, SGDR, 2017, section 3, one cycle), or stays. `clip_norm` bounds the norm
    of all gradients together (0: no bound). `patience`: epochs without a better metric after which training
    stops (0: never). `augmentation`: "file.py:function" of the user's, called as
    function(inputs, labels, rng) with arrays of a batch and a numpy Generator, giving (inputs, labels).
    `freeze_norm`: BatchNorm keeps the statistics it came with. Runs with equal options, samples and `threads`
    give equal bytes.
    """

    data: tuple[DataSource, ...]
    shares: tuple[float, ...] = ()
    validation: DataSource | None = None
    held_out: float = 0.1
    metric: TrainingMetric = "auto"
    output: str = ""
    loss: LossKind = "auto"
    label_smoothing: float = 0.0
    epochs: int = 0
    steps: int = 0
    batch_size: int = 64
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = 0.0
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = 0.05
    clip_norm: float = 0.0
    patience: int = 0
    augmentation: str = ""
    freeze_norm: bool = False
    seed: int = 0
    threads: int = 2

    @property
    def passes(self) -> int:
        """How many epochs there are at most."""
        return self.epochs or _EPOCHS

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or _RATE

    def __post_init__(self) -> None:
        problems = _out_of_range(self)
        if not self.data:
            problems.append("data: at least one source of samples is needed")
        if self.shares and len(self.shares) != len(self.data):
            problems.append(f"shares: got {len(self.shares)} for {len(self.data)} sources of samples")
        if self.shares and (min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6):
            problems.append(f"shares: got {list(self.shares)}, they must be above 0 and add up to 1")
        if self.validation is None and self.held_out == 0 and self.patience:
            problems.append("patience needs validation samples: name some, or a share that is held out")
        if self.augmentation and ":" not in self.augmentation:
            problems.append(f"augmentation: got {self.augmentation!r}, file.py:function is needed")
        if problems:
            raise UsageError("the training options do not hold", problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillationOptions:
    """What the trained network learns from a teacher, on every sample, labelled or not.

    `teacher`: another trained model (None: the float source itself). `student`: a network to be trained in
    the source's place, of the same inputs and outputs (None: the source, or what pruning left of it).
    `soft`: how outputs are compared: "soft-targets" is the Kullback-Leibler divergence of softened class
    probabilities times the square of `temperature` (Hinton, Vinyals & Dean 2015, section 2), "logits" the
    squared difference over the teacher's variance; "auto" is soft targets for an output of class
    probabilities, logits for any other. `features`: names (globs) of layers whose outputs are compared, too,
    as "logits" are, weighed by `feature_weight`; their shapes must be the same in both. `label_weight`: the
    weight of the loss of labelled samples beside the teacher's (0: labels are not looked at).
    """

    teacher: SourceOptions | None = None
    student: SourceOptions | None = None
    soft: Literal["auto", "soft-targets", "logits"] = "auto"
    temperature: float = 2.0
    features: tuple[str, ...] = ()
    feature_weight: float = 1.0
    label_weight: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.temperature < float("inf"):
            problems.append(f"temperature: got {self.temperature!r}, allowed: above 0")
        for name in ("feature_weight", "label_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                problems.append(f"{name}: got {getattr(self, name)!r}, allowed: 0 or more")
        if problems:
            raise UsageError("the distillation options do not hold", problems=problems)


def _out_of_range(options: TrainingOptions) -> list[str]:
    ranges: Sequence[tuple[str, float, float, str]] = (
        ("held_out", 0.0, 0.9, "0 to 0.9"),
        ("label_smoothing", 0.0, 0.999, "0 to below 1"),
        ("epochs", 0, 1e9, "0 (10, or more in quantization-aware training) or more"),
        ("steps", 0, 1e12, "0 (all that the epochs give) or more"),
        ("batch_size", 1, 1e9, "1 or more"),
        ("learning_rate", 0.0, 1e6, "0 (chosen, or 0.001) or more"),
        ("weight_decay", 0.0, 1e6, "0 or more"),
        ("momentum", 0.0, 0.9999, "0 to below 1"),
        ("warmup", 0.0, 0.9, "a share of the steps, 0 to 0.9"),
        ("clip_norm", 0.0, 1e12, "0 (no bound) or more"),
        ("patience", 0, 1e9, "0 (never stop) or more"),
        ("seed", 0, 2**62, "0 or more"),
        ("threads", 1, 1024, "1 or more"),
    )
    return [
        f"{name}: got {getattr(options, name)!r}, allowed: {allowed}"
        for name, low, high, allowed in ranges
        if not low <= getattr(options, name) <= high
    ]
