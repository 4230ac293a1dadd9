"""What a pass gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["PassResult"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """The model after a pass, whether the pass changed it, and what a reader should know of it.

    A pass works on the model it is given: the old value must not be used again.
    """

    model: ModelProto
    modified: bool
    notes: tuple[str, ...] = ()
