"""Where a tensor's readers tell its values apart: beyond that, an activation is flat and codes are wasted.

HardSwish answers 0 to everything under -3, HardSigmoid 0 or 1 outside its slope, Relu 0 to what is negative.
A range that ends there loses nothing, exactly, and the codes it frees make every step smaller: a convolution
before a HardSwish often reaches as far below 0 as above.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from edgekit.quantize.calibrate import Calibration
from edgekit.quantize.graph_index import GraphIndex, attribute

__all__ = ["told_apart", "trimmed"]

_EVERYTHING = (-math.inf, math.inf)


def trimmed(index: GraphIndex, calibration: Calibration) -> Calibration:
    """The calibration with no range beyond what the readers of its tensor tell apart."""
    ranges = {}
    for tensor, (low, high) in calibration.ranges.items():
        least, most = told_apart(index, tensor)
        ranges[tensor] = max(low, least), max(min(high, most), max(low, least))
    return replace(calibration, ranges=ranges)


def told_apart(index: GraphIndex, tensor: str) -> tuple[float, float]:
    """The least interval outside of which no reader of `tensor` answers otherwise than at its ends.

    (-inf, inf) for a graph output, and where any reader tells all values apart.
    """
    readers = index.readers.get(tensor, ())
    if tensor in index.outputs or not readers:
        return _EVERYTHING
    slopes = [_slope(index, node) for node in readers]
    return min(low for low, _ in slopes), max(high for _, high in slopes)


def _slope(index: GraphIndex, node: Any) -> tuple[float, float]:
    """Between which inputs an activation is not flat."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type == "HardSwish":
        return -3.0, math.inf
    if node.op_type == "HardSigmoid":
        alpha, beta = attribute(node, "alpha", 0.2), attribute(node, "beta", 0.5)
        return (-beta / alpha, (1.0 - beta) / alpha) if alpha > 0 else _EVERYTHING
    if node.op_type == "Clip":
        return _limit(index, node, 1, -math.inf), _limit(index, node, 2, math.inf)
    return _EVERYTHING


def _limit(index: GraphIndex, node: Any, position: int, missing: float) -> float:
    name = node.input[position] if len(node.input) > position else ""
    if not name:
        return missing
    value = index.constants.get(name)
    return float(value.item()) if value is not None and value.size == 1 else missing
