"""The operators LiteRT gets: one function each, grouped by family, one table of them all.

A new operator is a function `def emit(op: Op) -> None` in the family it belongs to, and one line in that
family's table. Spatial operators write explicit transposes around LiteRT's channels-last kernels and leave
their removal to `layout`.
"""

from __future__ import annotations

from edgekit.backends.tflite.lowering.activation import OPERATORS as ACTIVATION
from edgekit.backends.tflite.lowering.bitwise import OPERATORS as BITWISE
from edgekit.backends.tflite.lowering.control import OPERATORS as CONTROL
from edgekit.backends.tflite.lowering.convolution import OPERATORS as CONVOLUTION
from edgekit.backends.tflite.lowering.einsum import OPERATORS as EINSUM
from edgekit.backends.tflite.lowering.elementwise import OPERATORS as ELEMENTWISE
from edgekit.backends.tflite.lowering.functions import OPERATORS as FUNCTIONS
from edgekit.backends.tflite.lowering.grids import OPERATORS as GRIDS
from edgekit.backends.tflite.lowering.indexing import OPERATORS as INDEXING
from edgekit.backends.tflite.lowering.matmul import OPERATORS as MATMUL
from edgekit.backends.tflite.lowering.moving import OPERATORS as MOVING
from edgekit.backends.tflite.lowering.normalization import OPERATORS as NORMALIZATION
from edgekit.backends.tflite.lowering.pooling import OPERATORS as POOLING
from edgekit.backends.tflite.lowering.quantized import OPERATORS as QUANTIZED
from edgekit.backends.tflite.lowering.recurrent import OPERATORS as RECURRENT
from edgekit.backends.tflite.lowering.reduction import OPERATORS as REDUCTION
from edgekit.backends.tflite.lowering.resize import OPERATORS as RESIZE
from edgekit.backends.tflite.lowering.slicing import OPERATORS as SLICING
from edgekit.backends.tflite.lowering.spectral import OPERATORS as SPECTRAL
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Lowering] = {
    **CONVOLUTION,
    **MATMUL,
    **EINSUM,
    **ELEMENTWISE,
    **FUNCTIONS,
    **BITWISE,
    **ACTIVATION,
    **POOLING,
    **REDUCTION,
    **MOVING,
    **SLICING,
    **INDEXING,
    **GRIDS,
    **SPECTRAL,
    **RESIZE,
    **NORMALIZATION,
    **RECURRENT,
    **QUANTIZED,
    **CONTROL,
}
