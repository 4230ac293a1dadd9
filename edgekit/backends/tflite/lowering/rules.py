"""When a quantized site may become one integer operator. The limits are those of the engine's kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.backends.tflite.ir import Quant
from edgekit.backends.tflite.plan import Site

__all__ = [
    "ADD_RATIO",
    "MAX_REQUANTIZATION",
    "MUL_RATIO",
    "add_ratios",
    "fixed_output",
    "mul_ratio",
    "quantized",
    "rescales",
    "same_scales",
    "weighted",
]

MAX_REQUANTIZATION = 256.0  # s_x * s_w / s_y from here on: XNNPACK fails at allocation
ADD_RATIO = (2.0**-10, 2.0**8)  # s_x / s_y of ADD and SUB
MUL_RATIO = (2.0**-16, 2.0**8)  # s_a * s_b / s_y of MUL
_CODES = {"int8": ("int8", "uint8"), "int16": ("int16",)}


def quantized(site: Site, *indices: int) -> bool:
    """Whether these inputs are known as codes of one dtype (int8, or int16) with one scale."""
    return all(
        index < len(site.inputs)
        and (quant := site.inputs[index]) is not None
        and len(quant.scales) == 1
        and quant.codes == site.codes
        and _is_code(site, index)
        for index in indices
    )


def _is_code(site: Site, index: int) -> bool:
    constant = site.constant(index)
    return constant is None or str(constant.dtype) in _CODES[site.codes]


def rescales(site: Site) -> bool:
    """One activation, any scales."""
    return quantized(site, 0)


def same_scales(site: Site) -> bool:
    """Every input given is an activation of the first one's scale and zero point."""
    given = [i for i, name in enumerate(site.node.inputs) if name]
    return quantized(site, *given) and len({site.inputs[i] for i in given}) == 1


def fixed_output(scale: float, zero_point: int) -> Callable[[Site], bool]:
    """The kernel writes one scale only."""
    wanted = Quant(scales=(scale,), zero_point=zero_point)
    return lambda site: quantized(site, 0) and site.output == wanted


def add_ratios(site: Site) -> bool:
    """ADD and SUB."""
    if site.output is None or not quantized(site, 0, 1):
        return False
    low, high = ADD_RATIO
    scales = [quant.scale for quant in site.inputs[:2] if quant is not None]
    return all(low <= scale / site.output.scale < high for scale in scales)


def mul_ratio(site: Site) -> bool:
    """MUL."""
    a, b = site.inputs[0], site.inputs[1]
    if a is None or b is None or site.output is None or not quantized(site, 0, 1):
        return False
    return MUL_RATIO[0] <= a.scale * b.scale / site.output.scale < MUL_RATIO[1]


def weighted(axis: Callable[[Site], int]) -> Callable[[Site], bool]:
    """Convolutions and matrix products with constant weights.

    `axis` tells which axis of the ONNX weights holds the outputs: per-channel scales must lie along it, the
    zero point must be 0 and no code -128 (kernels with 16-bit sums overflow).
    """

    def rule(site: Site) -> bool:
        codes, weight = site.constant(1), site.inputs[1]
        x, y = site.inputs[0], site.output
        if codes is None or weight is None or x is None or y is None or not quantized(site, 0):
            return False
        if codes.dtype != np.int8 or weight.zero_point != 0 or int(codes.min()) < -127:
            return False
        if len(weight.scales) > 1 and weight.axis != axis(site) % codes.ndim:
            return False
        return x.scale * max(weight.scales) / y.scale < MAX_REQUANTIZATION

    return rule
