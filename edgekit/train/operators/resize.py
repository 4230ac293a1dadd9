"""Resize of pictures and series."""

from __future__ import annotations

from typing import Any

from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "interpolate_axis"]


def resize(op: Op) -> Any:
    before, after = op.shape(0), op.output_shape()
    mode = op.attribute("mode", "nearest")
    if op.attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        raise op.refuse("a Resize that crops")
    if op.attribute("antialias", 0) or op.attribute("exclude_outside", 0) or mode == "cubic":
        raise op.refuse(f"a {mode} Resize with these options", "linear and nearest are known")
    x = op.tensor(0)
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        scale = _scale(op, axis, old, new)
        if old != new or scale != 1.0:
            indices, weights = _taps(op, old, new, scale)
            x = op.call(interpolate_axis, x, axis, indices, weights)
    return x


def _scale(op: Op, axis: int, old: int, new: int) -> float:
    scales = op.constant(2)
    if scales is not None and scales.size:
        axes = op.attribute("axes")
        places = [a % len(op.shape(0)) for a in axes] if axes else list(range(scales.size))
        return float(scales.reshape(-1)[places.index(axis)]) if axis in places else 1.0
    return new / old


def _taps(op: Op, old: int, new: int, scale: float) -> tuple[list[list[int]], list[list[float]]]:
    """For each output place the input places it reads and their weights (operator Resize)."""
    mode = op.attribute("mode", "nearest")
    indices: list[list[int]] = []
    weights: list[list[float]] = []
    for place in range(new):
        at = _source(op, place, old, new, scale)
        if mode == "nearest":
            indices.append([min(max(_nearest(op, at), 0), old - 1)])
            weights.append([1.0])
            continue
        at = min(max(at, 0.0), old - 1.0)
        left = min(int(at), max(old - 2, 0))
        indices.append([left, min(left + 1, old - 1)])
        weights.append([1.0 - (at - left), at - left])
    return indices, weights


def _source(op: Op, place: int, old: int, new: int, scale: float) -> float:
    mode = op.attribute("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        return place / scale
    if mode == "align_corners":
        return place * (old - 1) / (new - 1) if new > 1 else 0.0
    if mode == "pytorch_half_pixel" and new <= 1:
        return 0.0
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (place + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        middle = old / 2 * (1 - new / (scale * old))
        return middle + (place + 0.5) / scale - 0.5
    raise op.refuse(f"the coordinates {mode!r}")


def _nearest(op: Op, at: float) -> int:
    from math import ceil, floor

    mode = op.attribute("nearest_mode", "round_prefer_floor")
    if mode == "floor":
        return floor(at)
    if mode == "ceil":
        return ceil(at)
    return ceil(at - 0.5) if mode == "round_prefer_floor" else floor(at + 0.5)


def interpolate_axis(x: Any, axis: int, indices: list[list[int]], weights: list[list[float]]) -> Any:
    """Each place of an axis as a weighed sum of one or two places of it."""
    import torch

    total = None
    for tap in range(len(indices[0])):
        chosen = x.index_select(axis, torch.tensor([i[tap] for i in indices], device=x.device))
        share = [w[tap] for w in weights]
        if any(s != 1.0 for s in share):
            shape = [1] * x.dim()
            shape[axis] = len(share)
            chosen = chosen * torch.tensor(share, dtype=x.dtype, device=x.device).reshape(shape)
        total = chosen if total is None else total + chosen
    return total


OPERATORS: dict[str, Emitter] = {"Resize": resize}
