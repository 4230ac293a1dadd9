"""Scales of weights by least squared error: where a few weights are far larger, clipping them costs less.

Source: Banner et al., "Post Training 4-bit Quantization of Convolutional Networks for Rapid-Deployment"
(2019), section 3, with a search on the weights themselves in place of an assumed distribution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.scales import SMALLEST_SCALE

__all__ = ["clipped_codes", "tightened_scales"]

_SHRINK = np.linspace(1.0, 0.5, 26)


def tightened_scales(weight: NDArray[np.float32], scales: NDArray[np.float32], limit: int) -> Any:
    """The scales, each at most as given, that leave the least squared error with codes in [-limit, limit].

    `scales` broadcasts against `weight`; each is tried at 26 fractions from 1 down to 0.5. With 15 codes the
    few largest weights cost more when they are kept than when they are clipped.
    """
    axes = tuple(a for a in range(weight.ndim) if scales.ndim == 0 or scales.shape[a] == 1)
    exact = weight.astype(np.float64)
    best, least = scales, np.full(scales.shape, np.inf)
    for fraction in _SHRINK:
        tried = np.maximum(scales * np.float32(fraction), np.float32(SMALLEST_SCALE)).astype(np.float32)
        wide = tried.astype(np.float64)
        error = np.clip(np.rint(exact / wide), -limit, limit) * wide - exact
        total = np.square(error).sum(axis=axes, keepdims=scales.ndim > 0)
        best, least = np.where(total < least, tried, best), np.minimum(total, least)
    return best.astype(np.float32)


def clipped_codes(
    weight: NDArray[np.float32],
    scales: NDArray[np.float32],
    *,
    axis: int | None,
    limit: int,
    smallest: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes in [-limit, limit] and scales, none above those given nor below `smallest` (same shape)."""
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    tight = tightened_scales(weight, scales.reshape(shape), limit)
    if smallest is not None:
        tight = np.maximum(tight, smallest.reshape(shape)).astype(np.float32)
    codes = np.clip(np.rint(weight.astype(np.float64) / tight.astype(np.float64)), -limit, limit)
    return codes.astype(np.int8), tight.reshape(scales.shape)
