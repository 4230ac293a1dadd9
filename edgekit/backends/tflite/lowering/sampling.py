"""Resize as it is defined: the coordinate of every output place and the weights of its neighbours.

Source: https://onnx.ai/onnx/operators/onnx__Resize.html; computed in float64, stored in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from edgekit.backends.tflite.ir import Array

__all__ = ["Axis", "coordinates", "interpolation", "nearest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One resized dimension: its sizes, the scale ONNX computes with, and the part that is cropped."""

    size: int
    out: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def coordinates(axis: Axis, where: str) -> Array:
    """The place in the input, in elements, that each output element shows (float64)."""
    x = np.arange(axis.out, dtype=np.float64)
    last = axis.size - 1
    if where == "asymmetric":
        return x / axis.scale
    if where == "align_corners":
        return x * last / (axis.out - 1) if axis.out > 1 else np.zeros(1)
    if where == "tf_crop_and_resize":
        if axis.out == 1:
            return np.full(1, 0.5 * (axis.start + axis.end) * last)
        return axis.start * last + x * (axis.end - axis.start) * last / (axis.out - 1)
    if where == "pytorch_half_pixel" and axis.out == 1:
        return np.zeros(1)
    moved = 0.0
    if where == "half_pixel_symmetric":
        moved = axis.size / 2 * (1 - axis.out / (axis.scale * axis.size))
    return moved + (x + 0.5) / axis.scale - 0.5


def nearest(axis: Axis, where: str, rounding: str) -> Array:
    """The element that each output place shows."""
    x = coordinates(axis, where)
    rule: dict[str, Callable[[Array], Array]] = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda v: np.ceil(v - 0.5),
        "round_prefer_ceil": lambda v: np.floor(v + 0.5),
    }
    return np.clip(rule[rounding](x), 0, axis.size - 1).astype(np.int32)


def interpolation(
    axis: Axis, where: str, *, mode: str, cubic: float, antialias: bool, exclude_outside: bool
) -> Array:
    """The matrix (out, size), float32, that resizes one dimension; `cubic` is the coefficient a.

    Antialiasing stretches the kernel over the elements that one output place covers.
    """
    x = coordinates(axis, where)
    reach = 1 if mode == "linear" else 2
    stretch = max(1.0, 1 / axis.scale) if antialias else 1.0
    result = np.zeros((axis.out, axis.size))
    for row, place in enumerate(x):
        first = int(np.floor(place)) - int(np.ceil(reach * stretch)) + 1
        taps = np.arange(first, first + 2 * int(np.ceil(reach * stretch)))
        weights = _kernel((taps - place) / stretch, mode, cubic)
        if exclude_outside:
            weights = np.where((taps < 0) | (taps >= axis.size), 0, weights)
        np.add.at(result[row], np.clip(taps, 0, axis.size - 1), weights / weights.sum())
    return result.astype(np.float32)


def _kernel(x: Array, mode: str, a: float) -> Array:
    """The triangle, or the cubic convolution of R. Keys (1981) with coefficient a."""
    x = np.abs(x)
    if mode == "linear":
        return np.asarray(np.maximum(1 - x, 0))
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
    return np.asarray(np.where(x <= 1, near, np.where(x < 2, far, 0)))
