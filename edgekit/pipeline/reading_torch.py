"""Read a PyTorch source: one process exports it and answers for it, its own or that in which it lives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.core.codec import encode
from edgekit.core.model import ModelFormat
from edgekit.core.recipe import SourceOptions
from edgekit.pipeline.steps import StepRunner

__all__ = ["EXPORTERS", "run_export"]

# in the order they are tried
EXPORTERS: dict[ModelFormat, tuple[str, ...]] = {
    "torch": ("legacy", "dynamo"),
    "torch-module": ("legacy", "dynamo"),
    "torchscript": ("legacy",),
    "torch-export": ("dynamo",),
    "transformers": ("legacy", "dynamo"),
}


def run_export(
    kind: ModelFormat, source: SourceOptions, exporter: str, folder: Path, runner: StepRunner
) -> dict[str, Any]:
    """What `edgekit.formats.torch_export.export` returns, run in a child; for a module in memory, here.

    Such a module cannot be taken to another process. What it answers is taken there, and is the yardstick.
    """
    arguments = {"kind": kind, "options": encode(source), "exporter": exporter, "out": str(folder)}
    label = f"export from PyTorch ({exporter})"
    answer: dict[str, Any]
    if kind == "torch-module":
        from edgekit.formats.torch_export import export

        answer = runner.run_here(export, arguments, label=label)
    else:
        answer = runner.run("edgekit.formats.torch_export:export", arguments, label=label)
    return answer
