"""What we claim of our LiteRT files, judged on the rows of `lowering.py`: held, broken, or open.

A ratio of latencies is held when its whole 95 % interval lies below the limit, broken when all of it lies
above, and open else: a busy machine leaves claims open, it does not decide them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

__all__ = ["judge", "table"]

Verdict = Literal["held", "broken", "open"]

HARD = ("mobilenet_v3", "ocr_recognizer", "ocr_direction", "ocr_detector",  # HardSwish, HardSigmoid
        "transformer", "bert")  # GELU, products of activations  # fmt: skip
FASTER, NEVER_ABOVE = 0.9, 1.02  # int8 latency, ours over ai-edge-quantizer's
FLOAT_DB = 60.0  # a lowering in float32 only reorders sums
SECONDS = ("efficientnet_lite0", 1.0)  # conversion after the graph is loaded
MEMORY = 4.0  # growth in sizes of the model file the user gives
SMALLEST_MIB = 1.0  # below, the interpreter's own objects outweigh the model


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every claim on every network it is about: {"claim", "network", "found", "limit", "verdict"}."""
    return [claim for row in rows for claim in _of_row(row)]


def _of_row(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    network = row["network"]
    cells = {cell["file"]: cell for cell in row.get("files", [])}
    ours = {name.partition("/")[2]: cell for name, cell in cells.items() if name.startswith("ours/")}
    if not ours:
        yield _claim("converts", network, row.get("error") or row.get("refused"), "a file", held=False)
    for precision, cell in ours.items():
        yield _claim(f"{precision} loads", network, cell["outcome"], "ok", held=cell["outcome"] == "ok")
        if "sqnr_db" in cell:
            yield _agrees(network, precision, cell, row)
        if "growth_mib" in cell and row["model_mib"] >= SMALLEST_MIB:
            found = round(cell["growth_mib"] / row["model_mib"], 2)
            yield _claim(f"{precision} memory", network, found, MEMORY, held=found < MEMORY)
        if network == SECONDS[0] and "seconds_without_loading" in cell:
            found = cell["seconds_without_loading"]
            yield _claim(f"{precision} conversion", network, found, SECONDS[1], held=found < SECONDS[1])
    ratio = cells.get("ai-edge-quantizer/int8", {}).get("ours_over_theirs")
    if ratio:
        limit = FASTER if network in HARD else NEVER_ABOVE
        verdict: Verdict = "held" if ratio[2] <= limit else "broken" if ratio[1] > limit else "open"
        yield {"claim": "int8 latency ratio", "network": network, "found": [round(r, 3) for r in ratio],
               "limit": limit, "verdict": verdict}  # fmt: skip


def _agrees(network: str, precision: str, cell: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """float32: as the source; int8: closer to the QDQ graph than that is to the source."""
    found, limit = cell["sqnr_db"], FLOAT_DB
    if precision == "int8":
        found, limit = cell["to_qdq"]["sqnr_db"], row["quantization"]["sqnr_db"]
    return _claim(f"{precision} agrees", network, found, limit, held=found > limit)


def _claim(claim: str, network: str, found: Any, limit: Any, *, held: bool) -> dict[str, Any]:
    verdict: Verdict = "held" if held else "broken"
    return {"claim": claim, "network": network, "found": found, "limit": limit, "verdict": verdict}


def table(rows: Sequence[dict[str, Any]], *, claims: Sequence[dict[str, Any]] = ()) -> str:
    """The rows for people: a line for each file; then the claims that are not held."""
    lines = []
    for row in rows:
        lines += [f"{row['network']:20s} {row['error']}"] if "error" in row else []
        lines += [_line(row["network"], cell) for cell in row.get("files", [])]
    left = [c for c in claims if c["verdict"] != "held"]
    if claims:
        lines.append(f"{len(claims) - len(left)} of {len(claims)} claims held")
    lines += [f"{c['verdict']}: {c['claim']} of {c['network']}: {c['found']} for {c['limit']}" for c in left]
    return "\n".join(lines)


def _line(network: str, cell: dict[str, Any]) -> str:
    start = f"{network:20s} {cell['file']:24s}"
    if cell["outcome"] != "ok":
        return f"{start} {cell['outcome']}: {cell.get('error', '')[:90]}"
    ratio = cell.get("ours_over_theirs")
    shown = "" if ratio is None else f"  ours/theirs {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}]"
    return (
        f"{start} {cell['latency_ms']:9.3f} ms {cell['size_bytes'] / 1e6:7.2f} MB {cell['seconds']:7.2f} s"
        f" {cell['sqnr_db']:6.1f} dB{shown}"
    )
