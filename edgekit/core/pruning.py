"""What pruning is asked to remove, how much of it, by which criterion, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgekit.core.training import DistillationOptions, TrainingOptions
from edgekit.errors import UsageError

__all__ = ["PruningOptions", "PruningStep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningOptions:
    """How a network is made smaller.

    `method`: whole channels of layers ("channels"), whole attention heads ("heads"), both ("structured"),
    single weights of least magnitude ("unstructured"), or two of every four neighbours along a sum ("2:4").
    The last two leave zeros, no smaller arrays. `remove`: the share of `measure` that goes: multiply-adds,
    parameters (for "unstructured" the share of weights; for "heads" the share of heads), or the latency
    on `target`.

    `criterion`, of what a unit is worth: the squared norm of its weights ("magnitude": Li et al. 2017), the
    change of the loss to first order when it goes ("taylor": Molchanov et al. 2019, section 3.1; without
    labels the change of the answers), or the
    energy of what its readers make of it ("activation"). `scope`: every layer loses the same share
    ("uniform"), or the least worthy units of all layers go, none below a `floor` share of its own
    ("global"). Counts that are left are multiples of `multiple`, where a layer has that many. `keep`: names
    (globs) of layers whose units stay.

    `steps` removes it bit by bit, by equal factors; `recovery` trains after each, learning from the unpruned
    network's answers as `distill` says ("teacher", no labels needed) or from "labels" alone. `compensation`:
    before that, layers that read removed channels get the "least-squares" prediction of them from those that
    stay (He, Zhang & Sun 2017, section 3.1), on the samples of `recovery`; or "none". `max_drop`: when
    a step's validation score is worse than the unpruned one by more (in points for rates, else in its
    unit), pruning stops and the step before is the result.
    """

    method: Literal["channels", "heads", "structured", "unstructured", "2:4"] = "channels"
    remove: float = 0.5
    measure: Literal["macs", "parameters", "latency"] = "macs"
    target: str = ""
    criterion: Literal["magnitude", "taylor", "activation"] = "magnitude"
    scope: Literal["global", "uniform"] = "global"
    floor: float = 0.25
    multiple: int = 8
    keep: tuple[str, ...] = ()
    steps: int = 1
    recovery: TrainingOptions | None = None
    learn_from: Literal["teacher", "labels"] = "teacher"
    distill: DistillationOptions = field(default_factory=DistillationOptions)
    compensation: Literal["least-squares", "none"] = "least-squares"
    max_drop: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.remove < 1:
            problems.append(f"remove: got {self.remove!r}, a share between 0 and 1 is needed")
        if not 0 <= self.floor <= 1:
            problems.append(f"floor: got {self.floor!r}, allowed: 0 to 1")
        for name in ("multiple", "steps"):
            if getattr(self, name) < 1:
                problems.append(f"{name}: got {getattr(self, name)!r}, at least 1 is needed")
        if (self.measure == "latency") != bool(self.target):
            problems.append('target: name the device for measure = "latency", and only for that')
        if self.measure == "latency" and self.method in ("unstructured", "2:4"):
            problems.append("measure: zeros make no engine here faster; remove channels or heads")
        if self.recovery is None and self.criterion != "magnitude":
            problems.append(f"criterion {self.criterion!r} needs samples: [prune.recovery] with data")
        if self.max_drop is not None and self.recovery is None:
            problems.append("max_drop needs samples to judge by: [prune.recovery] with data")
        if self.method == "2:4" and self.remove != 0.5:
            problems.append("remove: 2:4 removes half of the weights, 0.5")
        if problems:
            raise UsageError("the pruning options do not hold", problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class PruningStep:
    """One step: multiply-adds and parameters that are left, the score of the validation samples as it was cut
    (`before`), with the readers of what is gone adjusted (`compensated`) and trained (`after`; None: not
    judged), and latency in ms where that was measured."""

    number: int
    macs: int
    parameters: int
    zeros: int
    before: float | None
    after: float | None
    compensated: float | None = None
    latency_ms: float | None = None
