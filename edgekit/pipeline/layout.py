"""What lies where in an output folder.

OUT/report.json, report.md
OUT/<target>/<precision>/   manifest.json and the files of one artifact
OUT/source/onnx/            the canonical float graph as an ONNX Runtime artifact: the yardstick
OUT/source/<target>/        its float32 lowering, when float32 was not asked for: the latency baseline
OUT/source/statistics.onnx  judges samples: the first layers, and what their BatchNorm remembers of training
OUT/source/example.npz      one sample of every input, in the source's layout
"""

from __future__ import annotations

from pathlib import Path

from edgekit.core.artifact import Artifact, open_artifact
from edgekit.runtime.manifest import MANIFEST_NAME

__all__ = [
    "EXAMPLE",
    "STATISTICS",
    "artifact_folder",
    "baseline_folder",
    "float32_baseline",
    "yardstick_folder",
]

EXAMPLE = "source/example.npz"
STATISTICS = "source/statistics.onnx"


def artifact_folder(out: Path, target: str, precision: str) -> Path:
    """Where the artifact of a target at a precision lies."""
    return out / target / precision


def yardstick_folder(out: Path) -> Path:
    """Where the float source lies."""
    return out / "source" / "onnx"


def baseline_folder(out: Path, target: str) -> Path:
    """Where the float32 lowering lies that only serves as a baseline."""
    return out / "source" / target


def float32_baseline(out: Path, target: str) -> Artifact | None:
    """The float32 artifact of a target's engine, asked for or not; None when there is none."""
    for folder in (artifact_folder(out, target, "float32"), baseline_folder(out, target)):
        if (folder / MANIFEST_NAME).is_file():
            return open_artifact(folder)
    return None
