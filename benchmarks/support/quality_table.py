"""The figures of quantization_quality.py as a table in Markdown."""

from __future__ import annotations

from typing import Any

__all__ = ["markdown"]

_NAMES = {"tflite": "LiteRT", "openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
_COLUMNS = (
    "network", "engine", "file", "drop, points [95 %]", "agreement %", "SQNR dB", "ours / this",
    "int8 / float32", "seconds", "peak MiB",
)  # fmt: skip


def markdown(answer: dict[str, Any]) -> str:
    """One row for each file of each engine."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|" + "---|" * len(_COLUMNS)]
    for network in answer["networks"]:
        for engine in _NAMES:
            for row in network["rows"]:
                if row["engine"] == engine and row["file"] != "float32":
                    lines.append("| " + " | ".join([network["network"], _NAMES[engine], *_cells(row)]) + " |")
    lines.append("")
    for network in answer["networks"]:
        for setting, found in network["litert_as_its_graph"].items():
            share = f"{found['equal']} of {found['of']}"
            name = f"{network['network']}, {setting}"
            lines.append(f"{name}: LiteRT gives {share} answers of its quantized graph.")
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["file"], row["error"][:60].replace("|", "/"), *["–"] * 6]
    ratios = [_ratio(row.get("default_over_this")), _ratio(row.get("over_float32"))]
    if "sqnr_db" not in row:
        return [row["file"], *["–"] * 3, *ratios, *["–"] * 2]
    drop = "–"
    if "drop" in row:
        low, high = row["interval"]
        drop = f"{row['drop']:+.2f} [{low:.2f}, {high:.2f}]"
    return [
        row["file"],
        drop,
        f"{100 * row['agreement']:.2f}" if "agreement" in row else "–",
        f"{row['sqnr_db']:.1f}",
        *ratios,
        _figure(row.get("seconds")),
        _figure(row.get("peak_mib")),
    ]


def _ratio(value: list[float] | None) -> str:
    return "–" if value is None else f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"
