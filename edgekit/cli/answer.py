"""What a command answers: a JSON value, the same as text, and an exit code. Commands never print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.core.report import Report

__all__ = ["Answer", "report_answer", "size_text", "table"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of a command. `value` is printed with --json, `text` without."""

    value: Any
    text: str
    exit_code: int = 0


def report_answer(report: Report, output: str | Path) -> Answer:
    """A report as an answer: its table and where its files lie; exit code 1 when the verdict is fail."""
    from pathlib import Path

    from edgekit.core.codec import encode
    from edgekit.report import render_table

    text = f"{render_table(report).rstrip()}\n\nreport: {Path(output) / 'report.md'} (and report.json)"
    return Answer(value=encode(report), text=text, exit_code=1 if report.verdict == "fail" else 0)


def table(rows: Sequence[tuple[str, ...]], *, indent: str = "") -> str:
    """Rows of cells as aligned columns, two spaces apart; the last column is not padded."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append(indent + "  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)


def size_text(size_bytes: int) -> str:
    """A size in decimal units: "1.2 MB"."""
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
