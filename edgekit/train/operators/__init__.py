"""The operators a trainable graph may hold: one function each, grouped by family, one table of them all.

A new operator is a function `def emit(op: Op) -> fx.Node | list[fx.Node]` in the family it belongs to, and
one line in that family's table. The functions that fx calls take tensors first and plain numbers after.
"""

from __future__ import annotations

from edgekit.train.module_graph import Emitter
from edgekit.train.operators.activation import OPERATORS as ACTIVATION
from edgekit.train.operators.convolution import OPERATORS as CONVOLUTION
from edgekit.train.operators.elementwise import OPERATORS as ELEMENTWISE
from edgekit.train.operators.indexing import OPERATORS as INDEXING
from edgekit.train.operators.matmul import OPERATORS as MATMUL
from edgekit.train.operators.moving import OPERATORS as MOVING
from edgekit.train.operators.normalization import OPERATORS as NORMALIZATION
from edgekit.train.operators.pooling import OPERATORS as POOLING
from edgekit.train.operators.recurrent import OPERATORS as RECURRENT
from edgekit.train.operators.reduction import OPERATORS as REDUCTION
from edgekit.train.operators.resize import OPERATORS as RESIZE

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Emitter] = {
    **CONVOLUTION,
    **MATMUL,
    **ELEMENTWISE,
    **ACTIVATION,
    **POOLING,
    **REDUCTION,
    **MOVING,
    **INDEXING,
    **RESIZE,
    **NORMALIZATION,
    **RECURRENT,
}
