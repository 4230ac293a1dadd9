"""The report: the evidence and the verdict, as data. `edgekit.report` renders it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgekit.core.recipe import Budgets

__all__ = ["Accuracy", "ArtifactReport", "Latency", "Report", "SourceReport", "Speedup", "Status", "Verdict"]

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
class ArtifactReport:
    """What is known of one target at one precision. A value that was not measured is None."""

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
