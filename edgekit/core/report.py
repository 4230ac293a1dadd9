"""The report: the evidence and the verdict, as data. `edgekit.report` renders it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgekit.core.recipe import Budgets
from edgekit.core.sensitivity import Standing

__all__ = [
    "Accuracy", "ArtifactReport", "Attempt", "Latency", "Report", "Rescue", "SourceReport", "Speedup",
    "Status", "Verdict",
]  # fmt: skip

Status = Literal["ok", "refused", "failed", "not_validated"]
Verdict = Literal["pass", "fail", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """A metric on the same samples for the source and the artifact.

    `drop` is how much worse the artifact is (positive is worse): in points (hundredths) for rates, in the
    metric's own unit for errors. `interval` is its 95 % paired bootstrap interval. `n` counts samples.
    """

    metric: str
    source: float
    artifact: float
    drop: float
    interval: tuple[float, float]
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of one call in milliseconds over `n` interleaved, timed calls after `warmup` untimed ones."""

    median: float
    p90: float
    p99: float
    n: int
    warmup: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """Paired ratio float32 / artifact of the same engine (above 1 is faster) with its 95 % interval.

    `claim`: "faster", "slower", or "inconclusive" when the interval holds 1.
    """

    ratio: float
    interval: tuple[float, float]
    claim: Literal["faster", "slower", "inconclusive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One thing that a rescue tried, and how it stands by simulation on the search samples."""

    what: str
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescue:
    """What was done so that an int8 artifact keeps its budgets on accuracy, SQNR and agreement.

    `reached`: it keeps them in the target's engine. `plain` and `final`: how int8 stood there before and
    after, on the `judge_samples` that the search has not seen. `done`: the algorithms that were turned on.
    `kept`: node -> the precision it keeps, `kept_macs_share` (0..1) their share of multiply-adds. `tried`:
    every attempt in order. `slowdown`: latency over that of plain int8, paired (above 1 is slower), with its
    95 % interval; None when nothing had to be done, or it could not be timed.
    """

    reached: bool
    plain: Standing
    final: Standing
    done: tuple[str, ...] = ()
    kept: dict[str, str] = field(default_factory=dict)
    kept_macs_share: float = 0.0
    tried: tuple[Attempt, ...] = ()
    judge_samples: int
    slowdown: float | None = None
    slowdown_interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactReport:
    """What is known of one target at one precision. A value that was not measured is None.

    `origin` is the file of another maker that stands beside edgekit's own artifacts ("" for those): it has a
    name of its own as `target`, and no verdict.
    """

    target: str
    precision: str
    status: Status
    reasons: tuple[str, ...] = ()
    path: str = ""
    size_bytes: int | None = None
    integer_share: float | None = None
    integer_ops: int | None = None
    total_ops: int | None = None
    float_nodes: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    top1_agreement: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    max_abs: float | None = None
    latency_ms: Latency | None = None
    speedup: float | None = None
    speedup_detail: Speedup | None = None
    peak_memory_bytes: int | None = None
    verdict: Verdict = "none"
    verdict_reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    rescue: Rescue | None = None
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """The source model, run as the float canonical ONNX graph in ONNX Runtime: the yardstick."""

    model: str
    format: str
    digest: str
    size_bytes: int
    accuracy: float | None = None
    latency_ms: Latency | None = None
    peak_memory_bytes: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One run.

    `warnings` are findings that change no verdict and that the reader should act on: samples that do not look
    like those the network was trained on.
    `budgets` and `allow_refused` are what the verdict was judged by; a later command adds to them. `machine`
    says where it was measured, `versions` with what.
    """

    schema: int = 1
    edgekit: str
    source: SourceReport
    verdict: Literal["pass", "fail"]
    verdict_reasons: tuple[str, ...] = ()
    artifacts: tuple[ArtifactReport, ...]
    warnings: tuple[str, ...] = ()
    budgets: Budgets = field(default_factory=Budgets)
    allow_refused: tuple[str, ...] = ()
    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
