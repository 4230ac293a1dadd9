"""edgekit: one trained model in; small, fast artifacts out, each proven to answer like its source.

The public names are loaded on first use; importing this package loads no framework.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "open": "edgekit.api",
    "prune": "edgekit.api",
    "convert": "edgekit.api",
    "validate": "edgekit.api",
    "benchmark": "edgekit.api",
    "analyze": "edgekit.api",
    "train_quantized": "edgekit.api",
    "run": "edgekit.api",
    "Recipe": "edgekit.core.recipe",
    "Target": "edgekit.core.target",
    "Model": "edgekit.core.model",
    "Samples": "edgekit.core.samples",
    "Artifact": "edgekit.core.artifact",
    "Report": "edgekit.core.report",
    "Session": "edgekit.runtime",
    "EdgekitError": "edgekit.errors",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgekit' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
