"""How a step that runs in a child process tells its parent how far it is."""

from __future__ import annotations

import json
import os

__all__ = ["PROGRESS_FD", "report_note", "report_progress"]

PROGRESS_FD = "EDGEKIT_PROGRESS_FD"


def report_progress(done: int, total: int, note: str = "") -> None:
    """Tell the parent that `done` of `total` items are finished, and a figure that a display may show beside.

    Does nothing outside a step process.
    """
    _send([done, total, note])


def report_note(note: str) -> None:
    """Tell the parent something that a reader of the log wants to know; nothing outside a step process."""
    _send([0, 0, note])


def _send(line: list[int | str]) -> None:
    descriptor = os.environ.get(PROGRESS_FD)
    if descriptor:
        os.write(int(descriptor), json.dumps(line).encode() + b"\n")
