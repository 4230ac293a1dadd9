"""Training side: any canonical graph as one differentiable `torch.fx.GraphModule`, and its weights back.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "trainable": "edgekit.train.from_graph",
    "write_back": "edgekit.train.to_graph",
}

__all__ = ["trainable", "write_back"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgekit.train' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
