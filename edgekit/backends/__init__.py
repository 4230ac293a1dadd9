"""Lowering: one file or folder per engine, each with `why_not` and `lower`.

    why_not(model, target, precision) -> list[Reason]      empty means go
    lower(request) -> Artifact                             see `edgekit.backends.request`
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from edgekit.backends.request import Request
from edgekit.core.about import About
from edgekit.core.codec import decode, encode
from edgekit.core.target import Precision, Target
from edgekit.errors import Reason, Unsupported, nearest

__all__ = ["lower_file", "refusal"]


def refusal(target: Target, precision: Precision) -> list[Reason]:
    """Why the profile of `target` itself rules out `precision`; empty means go."""
    if target.layout == "nhwc" and target.engine != "tflite":
        hint = "leave --layout out, or give the arrays as they are needed: numpy.transpose"
        return [Reason(why=f"{target.engine} artifacts keep the source's layout", hint=hint)]
    if precision in target.precisions:
        return []
    why = target.refuse.get(precision, f"{target.name} has no {precision}; {nearest('', target.precisions)}")
    return [Reason(why=why)]


def lower_file(
    *,
    model: str,
    target: dict[str, Any],
    precision: Precision,
    out: str,
    source_digest: str,
    quantized_io: bool = False,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Step: lower the ONNX file `model` for `target` into the folder `out`; returns the manifest."""
    profile = decode(Target, target, where="target")
    if reasons := refusal(profile, precision):
        raise Unsupported(f"{profile.name} does not do {precision}", reasons=reasons)
    backend = import_module(f"edgekit.backends.{profile.engine}")
    request = Request(
        model=Path(model),
        target=profile,
        precision=precision,
        out=Path(out),
        source_digest=source_digest,
        quantized_io=quantized_io,
        about=decode(About, about or {}, where="about"),
    )
    manifest: dict[str, Any] = encode(backend.lower(request).manifest)
    return manifest
