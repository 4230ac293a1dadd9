"""Eight-bit weight codes that never saturate the u8*s8 multiply-add of x86 without VNNI.

VPMADDUBSW adds two neighbouring products in 16 signed bits: 255 * (a + b) leaves them only where two
neighbouring codes of one sign sum above 128. Kernels lay input channels side by side, so neighbours are the
input channels 2k and 2k+1 of one output channel and kernel position. Capping just the pairs that offend, and
choosing each channel's scale by the squared error that is left, keeps most of the eighth bit that 7-bit codes
give up everywhere. That a kernel packs pairs so is proven by a bit-exact comparison with the engine's own
exact mode, in the tests.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.algorithms.weight_clipping import clipped_codes
from edgekit.quantize.scales import SMALLEST_SCALE, weight_codes

__all__ = ["PAIR_LIMIT", "cap_pairs", "code_limits", "pair_aware_codes", "saturation_free_codes"]

PAIR_LIMIT = 128  # 255 * 128 = 32640 fits 16 signed bits, 255 * 129 does not
_LARGEST_CODES = (127, 119, 111, 103, 95, 87, 79, 71, 63)  # at 63 no pair can offend
_CLIPPED_CODES = (254, 222, 195, 173, 157, 141)  # what lies above 127 is clipped


def cap_pairs(codes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bring every same-sign pair of neighbours (2k, 2k+1) along axis 1 to a sum of at most `PAIR_LIMIT`.

    `codes` is (output channels, input channels, ...) with an even number of input channels; both of a pair
    give up half of the excess.
    """
    even, odd = codes[:, 0::2], codes[:, 1::2]
    excess = np.maximum(np.abs(even + odd) - PAIR_LIMIT, 0.0)
    excess[np.sign(even) != np.sign(odd)] = 0.0
    first = np.ceil(excess / 2)
    capped = codes.copy()
    capped[:, 0::2] -= np.sign(even) * first
    capped[:, 1::2] -= np.sign(odd) * (excess - first)
    return capped


def pair_aware_codes(
    weight: NDArray[np.float32], *, smallest: NDArray[np.float64] | None = None, clip: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes like `weight` (output channels, input channels, ...) and one float32 scale an output channel.

    The number of input channels must be even. Of nine scales, from full 8-bit to 7-bit range, each channel
    takes the one with the least squared error after capping; with `clip` six more are tried, down to half of
    the full range, that clip the largest weights. No scale is below `smallest` (output channels,).
    """
    values = weight.astype(np.float64)
    others = tuple(range(1, weight.ndim))
    shape = (-1, *(1 for _ in others))
    bound = np.abs(values).max(axis=others)
    best_error: NDArray[Any] = np.full(bound.shape, np.inf)
    best_scales = np.ones(bound.shape, np.float32)
    best_codes = np.zeros(weight.shape, np.int8)
    for largest in (*_LARGEST_CODES, *(_CLIPPED_CODES if clip else ())):
        scales = np.where(bound > 0, np.maximum(bound / largest, SMALLEST_SCALE), 1.0)
        if smallest is not None:
            scales = np.maximum(scales, smallest)
        scales32 = scales.astype(np.float32)
        steps = scales32.astype(np.float64).reshape(shape)
        codes = cap_pairs(np.clip(np.rint(values / steps), -127, 127))
        error = ((codes * steps - values) ** 2).sum(axis=others)
        better = error < best_error
        best_error[better] = error[better]
        best_scales[better] = scales32[better]
        best_codes[better] = codes[better].astype(np.int8)
    return best_codes, best_scales


def saturation_free_codes(
    weight: NDArray[np.float32],
    *,
    op_type: str,
    group: int,
    axis: int | None,
    smallest: NDArray[np.float64] | None = None,
    clip: bool = False,
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The most exact codes of an operator's weights (its ONNX layout) that cannot saturate; and their scales.

    Depthwise convolutions multiply one channel at a time and take all 8 bits. Other convolutions and matrix
    products take pair-aware codes where an even number of input channels keeps the pairs whole, else 7 bits.
    """
    limit, paired = code_limits(weight.shape, op_type=op_type, group=group, axis=axis)
    if paired and op_type == "MatMul":
        codes, scales = pair_aware_codes(weight.T, smallest=smallest, clip=clip)
        return np.ascontiguousarray(codes.T), scales
    if paired:
        return pair_aware_codes(weight, smallest=smallest, clip=clip)
    codes, scales = weight_codes(weight, bits=8 if limit == 127 else 7, axis=axis, smallest=smallest)
    if clip:
        return clipped_codes(weight, scales, axis=axis, limit=limit, smallest=smallest)
    return codes, scales


def code_limits(shape: tuple[int, ...], *, op_type: str, group: int, axis: int | None) -> tuple[int, bool]:
    """The largest code of an operator's weights that cannot saturate, and whether pairs are capped too."""
    if op_type == "Conv" and 1 < group == shape[0] and shape[1] == 1:
        return 127, False
    if axis == 0 and op_type in ("Conv", "Gemm") and shape[1] % 2 == 0:
        return 127, True
    if axis == 1 and op_type == "MatMul" and shape[0] % 2 == 0:
        return 127, True
    return 63, False
