"""How a step that runs in a child process tells its parent how far it is."""

from __future__ import annotations

import json
import os

__all__ = ["PROGRESS_FD", "report_progress"]

PROGRESS_FD = "EDGEKIT_PROGRESS_FD"


def report_progress(done: int, total: int) -> None:
    """Tell the parent that `done` of `total` items are finished; does nothing outside a step process."""
    descriptor = os.environ.get(PROGRESS_FD)
    if descriptor:
        os.write(int(descriptor), json.dumps([done, total]).encode() + b"\n")
