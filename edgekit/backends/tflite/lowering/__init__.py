"""The operators LiteRT gets: one function each, grouped by family, one table of them all.

A new operator is a function `def emit(op: Op) -> None` in the family it belongs to, and one line in that
family's table. Spatial operators write explicit transposes around LiteRT's channels-last kernels and leave
their removal to `layout`.
"""

from __future__ import annotations

from edgekit.backends.tflite.lowering import (
    activation,
    convolution,
    elementwise,
    matmul,
    moving,
    normalization,
    pooling,
    reduction,
    resize,
    slicing,
)
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Lowering] = {
    **convolution.OPERATORS,
    **matmul.OPERATORS,
    **elementwise.OPERATORS,
    **activation.OPERATORS,
    **pooling.OPERATORS,
    **reduction.OPERATORS,
    **moving.OPERATORS,
    **slicing.OPERATORS,
    **resize.OPERATORS,
    **normalization.OPERATORS,
}
