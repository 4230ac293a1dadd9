"""Scales, zero points and integer codes: the arithmetic of affine quantization.

real = scale * (code - zero_point), as in Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference" (2018), section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CODE_RANGE",
    "SMALLEST_SCALE",
    "Affine",
    "activation_affine",
    "bias_codes",
    "quantize_array",
    "smallest_weight_scale",
    "weight_codes",
]

CODE_RANGE = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767)}
SMALLEST_SCALE = 1e-15  # the product of two is a normal float32
_LARGEST_BIAS_CODE = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Affine:
    """One tensor's scale (a float32 value) and zero point, for codes of `dtype` (a key of `CODE_RANGE`)."""

    scale: float
    zero_point: int
    dtype: str


def activation_affine(low: float, high: float, *, dtype: str, symmetric: bool) -> Affine:
    """The scale and zero point that cover [low, high] and represent 0 exactly.

    A range that never leaves 0 (a dead tensor) gets scale 1.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    first, last = CODE_RANGE[dtype]
    if symmetric:
        bound = max(-low, high)
        scale = _float32(bound / ((last - first) // 2))
        return Affine(scale=scale, zero_point=0 if first < 0 else 128, dtype=dtype)
    scale = _float32((high - low) / (last - first))
    zero_point = int(np.clip(np.rint(first - low / scale), first, last))
    return Affine(scale=scale, zero_point=zero_point, dtype=dtype)


def _float32(scale: float) -> float:
    if scale == 0.0:
        return 1.0
    return float(np.float32(min(max(scale, SMALLEST_SCALE), float(np.finfo(np.float32).max))))


def quantize_array(values: NDArray[Any], affine: Affine) -> NDArray[Any]:
    """Codes of float values: round half to even, saturate."""
    first, last = CODE_RANGE[affine.dtype]
    codes = np.rint(values.astype(np.float64) / affine.scale) + affine.zero_point
    return np.asarray(np.clip(codes, first, last), dtype=affine.dtype)


def weight_codes(
    weight: NDArray[np.float32], *, bits: int, axis: int | None, smallest: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 codes in [-(2^(bits-1)-1), 2^(bits-1)-1] and float32 scales.

    One scale for each index of `axis`, or one in all (shape ()). A channel of zeros gets scale 1; no scale is
    below `smallest` (same shape as the scales).
    """
    limit = 2 ** (bits - 1) - 1
    others = tuple(a for a in range(weight.ndim) if a != axis) if axis is not None else None
    bound = np.abs(weight.astype(np.float64)).max(axis=others)
    scales = np.where(bound > 0, np.maximum(bound / limit, SMALLEST_SCALE), 1.0)
    if smallest is not None:
        scales = np.maximum(scales, smallest)
    scales32 = scales.astype(np.float32)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = weight.shape[axis]
    codes = np.rint(weight.astype(np.float64) / scales32.astype(np.float64).reshape(shape))
    return np.clip(codes, -limit, limit).astype(np.int8), scales32


def bias_codes(
    bias: NDArray[np.float64], input_scale: float, weight_scales: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """int32 codes at scale input_scale * weight_scale, and those scales as float32."""
    scales = (np.float32(input_scale) * weight_scales).astype(np.float32)
    codes = np.rint(bias / scales.astype(np.float64))
    limits = np.iinfo(np.int32)
    return np.clip(codes, limits.min, limits.max).astype(np.int32), np.broadcast_to(scales, bias.shape)


def smallest_weight_scale(bias: NDArray[np.float64], input_scale: float) -> NDArray[np.float64]:
    """The weight scale per channel below which the bias would leave int32."""
    return np.asarray(np.abs(bias) / (input_scale * _LARGEST_BIAS_CODE))
