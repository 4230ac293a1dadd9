"""report.md: for the engineer who has to decide whether an artifact ships."""

from __future__ import annotations

from collections.abc import Sequence

from edgekit.core.report import Accuracy, ArtifactReport, Latency, Report
from edgekit.core.target import INTEGER
from edgekit.report import cells

__all__ = ["render_markdown"]

_CLAIMS = {"faster": "faster", "slower": "slower than float32 here", "inconclusive": "inconclusive"}


def render_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown: verdict, artifacts, why, source, method, machine."""
    sections = [
        _verdict(report),
        _artifacts(report),
        _details(report),
        _source(report),
        _method(report),
        _facts("Machine", report.machine),
        _facts("Versions", {"edgekit": report.edgekit, **report.versions}),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(report: Report) -> str:
    counts = {
        word: sum(1 for a in report.artifacts if a.verdict == verdict)
        for word, verdict in (("passed", "pass"), ("failed", "fail"), ("not judged", "none"))
    }
    summary = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    total = len(report.artifacts)
    lines = [
        f"# Verdict: {report.verdict.upper()}",
        "",
        f"`{report.source.model}`: {total} artifact{'' if total == 1 else 's'} asked for"
        f"{', ' + summary if summary else ''}.",
    ]
    if report.verdict_reasons:
        lines += ["", *(f"- {_flat(reason)}" for reason in report.verdict_reasons)]
    if report.warnings:
        lines += ["", *(f"> **Warning:** {_flat(warning)}" for warning in report.warnings)]
    return "\n".join(lines)


def _artifacts(report: Report) -> str:
    metric = next((a.accuracy.metric for a in report.artifacts if a.accuracy), "accuracy")
    heads = (
        "target", "precision", "size", "smaller", metric, "drop [95 %]", "agreement", "SQNR, dB",
        "latency, ms: median / p90 / p99", "speedup [95 %]", "integer ops", "verdict",
    )
    rows = [_artifact_row(entry, report) for entry in report.artifacts]
    return "\n".join(["## Artifacts", "", *_table(heads, rows, left=(0, 1, 11))])


def _artifact_row(entry: ArtifactReport, report: Report) -> tuple[str, ...]:
    accuracy, detail = entry.accuracy, entry.speedup_detail
    claim = f", {_CLAIMS[detail.claim]}" if detail else ""
    return (
        entry.target,
        entry.precision,
        cells.size(entry.size_bytes),
        cells.smaller(entry, report),
        cells.accuracy_value(accuracy.metric, accuracy.artifact) if accuracy else cells.ABSENT,
        cells.drop(accuracy),
        cells.percent(entry.top1_agreement),
        cells.ABSENT if entry.sqnr_db is None else f"{entry.sqnr_db:.1f}",
        _latency(entry.latency_ms),
        cells.speedup(detail, entry.speedup) + claim,
        cells.integer_share(entry),
        f"**{cells.verdict_word(entry)}**" if entry.verdict != "none" else cells.verdict_word(entry),
    )


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return cells.ABSENT
    return " / ".join(cells.milliseconds(v) for v in (latency.median, latency.p90, latency.p99))


def _details(report: Report) -> str:
    blocks = []
    for entry in report.artifacts:
        lines = _detail_lines(entry)
        if lines:
            head = f"### {entry.target}, {entry.precision}: {cells.verdict_word(entry)}"
            blocks.append("\n".join([head, "", *lines]).rstrip())
    return "\n\n".join(["## What is to be said of each", *blocks]) if blocks else ""


def _detail_lines(entry: ArtifactReport) -> list[str]:
    lines = [f"- {_flat(reason)}" for reason in entry.verdict_reasons]
    covered = " ".join(entry.verdict_reasons)
    for reason in entry.reasons:
        lines += _quoted(reason, covered)
    lines += _rescue_lines(entry)
    if entry.float_nodes:
        named = ", ".join(f"`{node}`" for node in entry.float_nodes[:10])
        more = f" and {len(entry.float_nodes) - 10} more" if len(entry.float_nodes) > 10 else ""
        lines.append(f"- left in float: {named}{more}")
    lines += [f"- {_flat(note)}" for note in entry.notes]
    if entry.total_ops is not None and entry.integer_ops is not None and entry.precision in INTEGER:
        lines.append(f"- {entry.integer_ops} of {entry.total_ops} operators ran in integers, says the engine")
    if entry.max_abs is not None and entry.cosine is not None:
        lines.append(f"- largest difference {entry.max_abs:.4g}, mean cosine {entry.cosine:.6f}")
    if entry.peak_memory_bytes is not None:
        lines.append(f"- peak memory of its process {cells.size(entry.peak_memory_bytes)}")
    if entry.path:
        lines.append(f"- lies in `{entry.path}`")
    return lines


def _rescue_lines(entry: ArtifactReport) -> list[str]:
    """What a rescue tried, in order, and which nodes it left in float."""
    found = entry.rescue
    if found is None or not found.tried:
        return []
    lines = ["- tried, by simulation on the search half of the validation samples:"]
    for attempt in found.tried:
        drop = "" if attempt.standing.drop is None else f", drop {attempt.standing.drop:.4g}"
        lines.append(f"  - {_flat(attempt.what)}: SQNR {attempt.standing.sqnr_db:.1f} dB{drop}")
    if found.kept:
        lines.append(f"- kept: {', '.join(f'`{node}` in {kept}' for node, kept in found.kept.items())}")
    return lines


def _quoted(reason: str, covered: str) -> list[str]:
    """A reason as a point, unless that was said already; the further lines of an error keep their shape."""
    first, *rest = reason.strip().splitlines() or [""]
    point = [] if first in covered else [f"- {_flat(first)}"]
    return [*point, "", "  ```text", *(f"  {line}" for line in rest), "  ```", ""] if rest else point


def _source(report: Report) -> str:
    source = report.source
    metric = next((a.accuracy.metric for a in report.artifacts if a.accuracy), "accuracy")
    facts = [
        f"- `{source.model}` ({source.format}), {cells.size(source.size_bytes)}, SHA-256 `{source.digest}`",
        "- It is run as the float canonical ONNX graph in ONNX Runtime: the yardstick of every figure above.",
    ]
    if source.accuracy is not None:
        facts.append(f"- {metric} {cells.accuracy_value(metric, source.accuracy)}")
    if source.latency_ms is not None:
        facts.append(f"- latency {_latency(source.latency_ms)} ms (median / p90 / p99)")
    if source.peak_memory_bytes is not None:
        facts.append(f"- peak memory of its process {cells.size(source.peak_memory_bytes)}")
    facts += [f"- {_flat(note)}" for note in source.notes]
    return "\n".join(["## Source", "", *facts])


def _method(report: Report) -> str:
    facts = ["- Sizes are in decimal units; \"smaller\" is against the float32 artifact of the same target, "
             "else against the source."]
    accuracies = [a.accuracy for a in report.artifacts if a.accuracy]
    if accuracies:
        facts += _accuracy_method(accuracies)
    latencies = [a.latency_ms for a in report.artifacts if a.latency_ms]
    if latencies:
        first = latencies[0]
        facts.append(
            f"- Latency: {first.n} timed calls after {first.warmup} untimed ones, {first.threads} thread(s), "
            "every artifact in a process of its own, their rounds interleaved. Speedup is the paired ratio "
            "to the float32 artifact of the same engine; it is inconclusive when its 95 % interval holds 1 "
            "or the rounds are too few."
        )
    if any(a.integer_share is not None for a in report.artifacts):
        facts.append("- Integer ops: share of operators run by integer kernels, read back from the engine.")
    return "\n".join(["## How it was measured", "", *facts])


def _accuracy_method(accuracies: Sequence[Accuracy]) -> list[str]:
    first = accuracies[0]
    facts = [
        f"- {first.metric} of source and artifact on the same {first.n} samples; drop in "
        f"{cells.drop_unit(first.metric)}, positive is worse, with its 95 % paired bootstrap interval.",
        "- Agreement: samples with the same first class in source and artifact. SQNR: power of the source's "
        "output over power of the difference; 200 dB stands for identical.",
    ]
    if any(a.interval[0] == a.interval[1] for a in accuracies):
        facts.append(
            f"- An interval of no width means that no sample was judged differently; with {first.n} samples, "
            f"differences rarer than 1 in {max(1, first.n // 3)} can go unseen."
        )
    return facts


def _facts(title: str, facts: dict[str, str]) -> str:
    if not facts:
        return ""
    rows = [(key.replace("_", " "), value) for key, value in facts.items()]
    return "\n".join([f"## {title}", "", *_table(("", ""), rows, left=(0, 1))])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> list[str]:
    def line(texts: Sequence[str]) -> str:
        return f"| {' | '.join(_flat(text).replace('|', chr(92) + '|') for text in texts)} |"

    rule = "|".join("---" if i in left else "---:" for i in range(len(heads)))
    return [line(heads), f"|{rule}|", *(line(row) for row in rows)]


def _flat(text: str) -> str:
    return " ".join(text.split())
