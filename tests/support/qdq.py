"""A target that keeps the quantized graph of the tflite profile for ONNX Runtime, optimizer off."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["write_profile"]


def write_profile(tflite: Path, out: Path) -> Path:
    """Write the profile: same int8 policy, so both artifacts come from one graph."""
    profile = tflite.read_text(encoding="utf-8")
    policy = "".join(re.findall(r"(?ms)^\[int8[.\]].*?(?=^\[(?!int8)|\Z)", profile))
    out.write_text(
        'schema = 1\nname = "qdq"\nsummary = "the quantized graph"\nengine = "onnxruntime"\n'
        'precisions = ["int8"]\n[options]\ngraph_optimization = "disable"\n'
        f'[refuse]\nfloat32 = "the source is that"\n{policy}',
        encoding="utf-8",
    )
    return out
