"""Control flow that is still there when everything decided was written out (`unfold`): refused by name."""

from __future__ import annotations

from collections.abc import Callable

from edgekit.backends.tflite.op import DTYPES, Op, Refusal
from edgekit.backends.tflite.plan import Lowering
from edgekit.backends.tflite.unfold import MAX_NODES, MAX_TRIPS

__all__ = ["OPERATORS"]

_LIMITS = f"at most {MAX_TRIPS} times and {MAX_NODES} nodes are written out"


def _refuse(why: str, hint: str) -> Callable[[Op], None]:
    def emit(op: Op) -> None:
        raise Refusal(why, hint)

    return emit


OPERATORS = {
    "If": Lowering(
        emit=_refuse(
            "If on a computed condition whose branches differ in shape or are long",
            "make the condition constant, or both branches of one shape",
        ),
        dtypes=DTYPES,
    ),
    "Loop": Lowering(
        emit=_refuse(
            "Loop whose end is computed, or that is too long", f"make its trip count constant; {_LIMITS}"
        ),
        dtypes=DTYPES,
    ),
    "Scan": Lowering(
        emit=_refuse("Scan over shapes that are not static, or too long", f"fix the input shapes; {_LIMITS}"),
        dtypes=DTYPES,
    ),
}
