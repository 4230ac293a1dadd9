"""Local functions become plain nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.core.large_tensors import without_hollow
from edgekit.core.packages import require
from edgekit.graph.result import PassResult

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["apply"]


def apply(model: ModelProto) -> PassResult:
    """Inline the functions that the file itself defines.

    Before: nodes that call functions of `model.functions`.
    After: the functions' own nodes; no local function is left.
    Must not change: operators of the standard that are defined as functions (Gelu, HardSwish,
    LayerNormalization ...) stay whole; inputs and outputs keep names, types and order.
    """
    if not model.functions:
        return PassResult(model=model, modified=False)
    onnx = require("onnx")
    require("onnx.inliner")
    return PassResult(model=without_hollow(model, onnx.inliner.inline_local_functions), modified=True)
