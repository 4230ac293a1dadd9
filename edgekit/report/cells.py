"""How one figure is written: units, digits, what stands for a figure that was not measured."""

from __future__ import annotations

from edgekit.core.report import Accuracy, ArtifactReport, Report, Speedup
from edgekit.core.target import INTEGER
from edgekit.measure.metrics import RATE_METRICS

__all__ = [
    "ABSENT",
    "accuracy_value",
    "drop",
    "drop_unit",
    "integer_share",
    "interval",
    "milliseconds",
    "percent",
    "size",
    "smaller",
    "speedup",
    "verdict_word",
]

ABSENT = "–"


def size(size_bytes: int | None) -> str:
    """Decimal units, as app stores count: 1 MB is 1,000,000 bytes."""
    if size_bytes is None:
        return ABSENT
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value, unit = (size_bytes / 1e3, "kB") if size_bytes < 1_000_000 else (size_bytes / 1e6, "MB")
    return f"{value:.1f} {unit}"


def smaller(entry: ArtifactReport, report: Report) -> str:
    """How many times smaller than the float32 artifact of the same target, else than the source: "3.9x"."""
    same = (a for a in report.artifacts if a.target == entry.target and a.precision == "float32")
    base = next((a.size_bytes for a in same if a.size_bytes), report.source.size_bytes)
    return f"{base / entry.size_bytes:.2f}x" if entry.size_bytes and base else ABSENT


def percent(share: float | None, digits: int = 1) -> str:
    """A share 0..1 as percent; 100 only when it is exact: 0.99999 is "99.9 %"."""
    if share is None:
        return ABSENT
    if share == int(share):
        return f"{100 * share:.0f} %"
    step = 10.0**-digits
    return f"{min(max(100.0 * share, step), 100.0 - step):.{digits}f} %"


def integer_share(entry: ArtifactReport) -> str:
    """The share of operators that ran in integers; nothing is said of float artifacts."""
    return percent(entry.integer_share, 0) if entry.precision in INTEGER else ABSENT


def accuracy_value(metric: str, value: float | None) -> str:
    """A rate in percent, an error in its own unit."""
    if value is None:
        return ABSENT
    return f"{100 * value:.2f} %" if metric in RATE_METRICS else f"{value:.4g}"


def drop(accuracy: Accuracy | None) -> str:
    """"0.40 [-0.20, 1.00]": points for rates, the metric's unit for errors; positive is worse."""
    if accuracy is None:
        return ABSENT
    form = ".2f" if accuracy.metric in RATE_METRICS else ".3g"
    return f"{_signed(accuracy.drop, form)} {interval(accuracy.interval, form)}"


def drop_unit(metric: str) -> str:
    """What a drop is counted in."""
    return "points (hundredths)" if metric in RATE_METRICS else "the metric's own unit"


def interval(bounds: tuple[float, float], form: str = ".2f") -> str:
    """A 95 % interval: "[0.92, 1.10]"."""
    low, high = (_signed(b, form) for b in bounds)
    return f"[{low}, {high}]"


def milliseconds(value: float | None) -> str:
    """Three digits that matter: "0.123", "4.83", "129"."""
    if value is None:
        return ABSENT
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f}"


def speedup(detail: Speedup | None, ratio: float | None) -> str:
    """"1.52x [1.40, 1.63]"; the claim is a word of its own."""
    if detail is not None:
        return f"{detail.ratio:.2f}x {interval(detail.interval)}"
    return ABSENT if ratio is None else f"{ratio:.2f}x"


def verdict_word(entry: ArtifactReport) -> str:
    """"PASS", "FAIL" (with the status that made it so), or why there is no verdict."""
    status = {"not_validated": "not validated", "refused": "refused", "failed": "failed", "ok": "not judged"}
    if entry.verdict == "none":
        return status[entry.status]
    return "FAIL: refused" if (entry.verdict, entry.status) == ("fail", "refused") else entry.verdict.upper()


def _signed(value: float, form: str) -> str:
    text = f"{value:{form}}"
    return text.replace("-", "", 1) if float(text) == 0 and text.startswith("-") else text
