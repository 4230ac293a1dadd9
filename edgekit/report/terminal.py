"""The table for the terminal: plain text that fits 120 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from edgekit.core.report import ArtifactReport, Report
from edgekit.report import cells

__all__ = ["render_table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    title: str
    cell: Callable[[ArtifactReport], str]
    left: bool = False
    optional: bool = False


def render_table(report: Report, *, width: int = 120) -> str:
    """The report as text: the verdict, one row an artifact, then what has to be said of each.

    A column that has no figure in any row is left out. To keep to `width` gaps narrow, then the share of
    integer operators and the agreement are left to report.md.
    """
    lines = [_head(report), ""]
    lines += _rows(report, width)
    remarks = [line for entry in report.artifacts for line in _remarks(entry, width)]
    remarks = [line for text in report.warnings for line in _wrapped(f"warning: {text}", width)] + remarks
    if remarks:
        lines += ["", *remarks]
    lines += ["", *_legend(report, width)]
    return "\n".join(lines).rstrip() + "\n"


def _head(report: Report) -> str:
    source = report.source
    parts = [f"source {source.model} ({source.format}, {cells.size(source.size_bytes)})"]
    metric = _metric(report)
    if source.accuracy is not None:
        parts.append(f"{metric} {cells.accuracy_value(metric, source.accuracy)}")
    if source.latency_ms is not None:
        parts.append(f"{cells.milliseconds(source.latency_ms.median)} ms in ONNX Runtime")
    return f"verdict: {report.verdict.upper()}\n{', '.join(parts)}"


def _metric(report: Report) -> str:
    return next((a.accuracy.metric for a in report.artifacts if a.accuracy), "accuracy")


def _columns(report: Report) -> list[_Column]:
    def accuracy(entry: ArtifactReport) -> str:
        found = entry.accuracy
        return cells.accuracy_value(found.metric, found.artifact) if found else cells.ABSENT

    def latency(entry: ArtifactReport) -> str:
        return cells.milliseconds(entry.latency_ms.median) if entry.latency_ms else cells.ABSENT

    return [
        _Column(title="target", cell=lambda e: e.target, left=True),
        _Column(title="precision", cell=lambda e: e.precision, left=True),
        _Column(title="size", cell=lambda e: cells.size(e.size_bytes)),
        _Column(title=_metric(report), cell=accuracy),
        _Column(title="drop [95 %]", cell=lambda e: cells.drop(e.accuracy)),
        _Column(title="agree", cell=lambda e: cells.percent(e.top1_agreement), optional=True),
        _Column(title="SQNR", cell=lambda e: cells.ABSENT if e.sqnr_db is None else f"{e.sqnr_db:.1f}"),
        _Column(title="ms", cell=latency),
        _Column(title="speedup [95 %]", cell=lambda e: cells.speedup(e.speedup_detail, e.speedup)),
        _Column(title="int", cell=cells.integer_share, optional=True),
        _Column(title="verdict", cell=cells.verdict_word, left=True),
    ]


def _rows(report: Report, width: int) -> list[str]:
    shown: list[tuple[_Column, list[str]]] = []
    for column in _columns(report):
        values = [column.cell(entry) for entry in report.artifacts]
        if column.left or any(value != cells.ABSENT for value in values):
            shown.append((column, values))

    def measure() -> list[int]:
        return [max(len(column.title), *map(len, values), 0) for column, values in shown]

    optional = [pair for pair in shown if pair[0].optional]
    while sum(measure()) + len(shown) - 1 > width and optional:
        shown.remove(optional.pop())
    widths = measure()
    gap = " " * (2 if sum(widths) + 2 * (len(widths) - 1) <= width else 1)

    def line(texts: list[str]) -> str:
        padded = [
            text.ljust(size) if column.left else text.rjust(size)
            for text, size, (column, _) in zip(texts, widths, shown, strict=True)
        ]
        return gap.join(padded).rstrip()

    body = [line([values[i] for _, values in shown]) for i in range(len(report.artifacts))]
    return [line([column.title for column, _ in shown]), gap.join("-" * size for size in widths), *body]


def _remarks(entry: ArtifactReport, width: int) -> list[str]:
    said = list(entry.verdict_reasons)
    covered = " ".join(said)
    said += [r for r in entry.reasons if r.splitlines()[0] not in covered]
    if entry.speedup_detail is not None and entry.speedup_detail.claim == "inconclusive":
        low, high = entry.speedup_detail.interval
        why = "its interval holds 1" if low <= 1 <= high else "too few rounds for a claim"
        said.append(f"speedup is inconclusive: {why}")
    lines = []
    for text in said:
        lines += _wrapped(f"{entry.target} {entry.precision}: {text}", width)
    return lines


def _wrapped(text: str, width: int) -> list[str]:
    flat = " ".join(text.split())
    return textwrap.wrap(flat, width, subsequent_indent="  ", break_long_words=False)


def _legend(report: Report, width: int) -> list[str]:
    parts = []
    accuracies = [a.accuracy for a in report.artifacts if a.accuracy]
    if accuracies:
        first = accuracies[0]
        parts.append(
            f"drop: {first.metric} lost against the source, in {cells.drop_unit(first.metric)}, on {first.n} "
            "paired samples; agree: same first class; SQNR in dB; int: operators run in integers"
        )
    latencies = [a.latency_ms for a in report.artifacts if a.latency_ms]
    if latencies:
        timed = latencies[0]
        parts.append(
            f"ms: median of {timed.n} calls after {timed.warmup} untimed ones, {timed.threads} thread(s); "
            "speedup: over float32 of the same engine, paired"
        )
    return [line for part in parts for line in textwrap.wrap(part, width)]
