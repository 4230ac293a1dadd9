"""A sensitivity analysis as a table for the terminal and as Markdown, each with its bars."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from edgekit.core.sensitivity import NodeSensitivity, Sensitivity, Standing
from edgekit.report import cells

__all__ = ["render_sensitivity", "render_sensitivity_markdown"]

_BAR = 14  # characters of the longest bar
_EIGHTHS = " ▏▎▍▌▋▊▉"
_IDENTICAL_DB = 200.0

Column = tuple[str, Callable[[NodeSensitivity], str]]


def render_sensitivity(found: Sensitivity, *, top: int = 0, width: int = 120) -> str:
    """The analysis as text, the most damaging nodes first; `top` of them (0: all), not wider than `width`."""
    nodes = found.nodes[: top or None]
    longest = max(24, width - 72)
    rows = [[cell(n) for _, cell in _columns(found, longest)] for n in nodes]
    titles = [title for title, _ in _columns(found, longest)]
    widths = [max(len(title), *(len(row[i]) for row in rows)) for i, title in enumerate(titles)]

    def line(texts: list[str]) -> str:
        left = (0, 1, len(texts) - 1)
        padded = [
            text.ljust(size) if i in left else text.rjust(size)
            for i, (text, size) in enumerate(zip(texts, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    lines = [*_head(found), "", line(titles), "  ".join("-" * size for size in widths)]
    lines += [line(row) for row in rows]
    if len(nodes) < len(found.nodes):
        lines.append(f"and {len(found.nodes) - len(nodes)} more that do less")
    lines += ["", *textwrap.wrap(_legend(found), width)]
    return "\n".join(lines) + "\n"


def render_sensitivity_markdown(found: Sensitivity) -> str:
    """The analysis as GitHub-flavoured Markdown: every node, with bars, and how it was measured."""
    columns = _columns(found, 1000)
    left = (0, 1, len(columns) - 1)
    head = f"| {' | '.join(title for title, _ in columns)} |"
    rule = "|" + "|".join("---" if i in left else "---:" for i in range(len(columns))) + "|"
    rows = [f"| {' | '.join(_escaped(cell(n)) for _, cell in columns)} |" for n in found.nodes]
    first, *rest = _head(found)
    parts = [f"# Sensitivity: {first}", "\n".join(rest), "\n".join([head, rule, *rows]), _legend(found)]
    return "\n\n".join(part for part in parts if part) + "\n"


def bar(share: float) -> str:
    """A bar of `share` 0..1 of the full length, in eighths of a character."""
    eighths = round(min(max(share, 0.0), 1.0) * _BAR * 8)
    return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def _columns(found: Sensitivity, longest: int) -> list[Column]:
    worst = max((_noise(n.alone) for n in found.nodes), default=0.0)
    columns: list[Column] = [
        ("node", lambda n: _shortened(n.name, longest)),
        ("operator", lambda n: n.op_type),
        ("MACs", lambda n: cells.percent(n.macs_share)),
        ("SQNR alone", lambda n: _decibels(n.alone.sqnr_db)),
        ("without it", lambda n: f"{n.gain_db:+.1f}"),
    ]
    if found.metric:
        columns.append(("drop alone", lambda n: _drop(n.alone)))
    elif found.whole.top1_agreement is not None:
        columns.append(("agree alone", lambda n: cells.percent(n.alone.top1_agreement)))
    columns.append(("damage", lambda n: bar(_noise(n.alone) / worst if worst else 0.0)))
    return columns


def _head(found: Sensitivity) -> list[str]:
    whole = found.whole
    figures = [f"SQNR {_decibels(whole.sqnr_db)} dB"]
    if whole.top1_agreement is not None:
        figures.append(f"same first class {cells.percent(whole.top1_agreement)}")
    if whole.drop is not None:
        figures.append(f"{found.metric} drop {_drop(whole)}")
    return [
        f"{found.model} in int8 for {found.target}",
        f"all of it: {', '.join(figures)}",
        f"{len(found.nodes)} nodes, judged on {found.samples} samples of {found.source}",
        *found.notes,
    ]


def _legend(found: Sensitivity) -> str:
    return (
        f"SQNR alone: dB of the output {found.output!r} when only this node is quantized; without it: dB "
        "that the whole gains when this node alone stays float. The bar is the noise that the node adds to "
        "the output, the longest bar the most. MACs: its share of multiply-adds. Simulated in ONNX Runtime "
        "with the target's quantizers. The recipe keeps a node in float: [quantization] keep."
    )


def _noise(standing: Standing) -> float:
    """Noise over signal, in amplitude: what the bars show."""
    return 0.0 if standing.sqnr_db >= _IDENTICAL_DB else float(10 ** (-standing.sqnr_db / 20))


def _decibels(value: float) -> str:
    return "exact" if value >= _IDENTICAL_DB else f"{value:.1f}"


def _drop(standing: Standing) -> str:
    return cells.ABSENT if standing.drop is None else f"{standing.drop:.4g}"


def _shortened(name: str, longest: int) -> str:
    """A long name without its middle; its end, which tells nodes apart, keeps the most."""
    if len(name) <= longest:
        return name
    head = longest // 4
    return f"{name[:head]}…{name[head + 1 - longest :]}"


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
