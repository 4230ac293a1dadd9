"""Progress as values: the pipeline emits events, the caller decides how to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Event", "Listener", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened while a plan runs.

    `step` names it ("calibrate", "lower tflite int8"); `done` and `total` count items while it is running
    (0 when unknown); `seconds` is filled when it ends; `note` says what a reader wants to know of it.
    """

    step: str
    state: Literal["start", "progress", "done", "cached", "refused", "failed", "note"]
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    note: str = ""


Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that shows nothing."""
