"""Checkpoints: everything that a run needs to go on, in one file that is never half-written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.core.files import atomic_file
from edgekit.core.packages import require
from edgekit.errors import UsageError

__all__ = ["load_checkpoint", "save_checkpoint"]

_LAYOUT = 1


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, text and containers of them. The file before stays whole until this one is."""
    torch = require("torch", needed_for="training")
    with atomic_file(path) as temporary:
        torch.save({"layout": _LAYOUT, **state}, temporary)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """What `save_checkpoint` wrote; None where there is no file. No code in the file is run.

    Raises `UsageError` for a file that is damaged or of another kind.
    """
    torch = require("torch", needed_for="training")
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # torch raises RuntimeError, EOFError, UnpicklingError, KeyError and others
        raise UsageError(
            f"this checkpoint cannot be read: {str(err).splitlines()[0] if str(err) else type(err).__name__}",
            where=str(path),
            hint="remove it: training then starts from the beginning",
        ) from err
    if not isinstance(state, dict) or state.get("layout") != _LAYOUT:
        raise UsageError("this is no checkpoint of this edgekit", where=str(path), hint="remove it")
    return {str(key): value for key, value in state.items() if key != "layout"}
