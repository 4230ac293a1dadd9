"""Put a state-dict file into a module: nothing in the file can run code, and it must fit exactly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.core.packages import installed_version, require
from edgekit.errors import UsageError
from edgekit.formats.pickled import pickled_class

__all__ = ["load_state"]

_WRAPPERS = ("state_dict", "model_state_dict")
_SHOWN = 12


def load_state(module: Any, path: Path) -> tuple[str, ...]:
    """Load `path` into the `torch.nn.Module`, strictly, and return notes on the reading.

    A checkpoint that holds the state dict under "state_dict" or "model_state_dict" is opened, and said so.
    Raises `UsageError` with every missing, unexpected and misshapen key.
    """
    if not path.is_file():
        raise UsageError("no such state file", where=str(path), hint="name it with --state FILE")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    notes: tuple[str, ...] = ()
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state, notes = state[key], (f"the weights are those under {key!r} in {path.name}",)
            break
    _check_fit(module, state, path)
    module.load_state_dict(state, strict=True)
    return notes


def _read_safetensors(path: Path) -> Any:
    if not installed_version("safetensors"):
        raise UsageError(
            "a .safetensors file needs the package 'safetensors', which is not installed",
            where=str(path),
            hint="pip install safetensors, or save the state dict with torch.save",
        )
    safetensors = require("safetensors", needed_for="reading .safetensors files")
    try:
        return require("safetensors.torch").load_file(str(path))
    except safetensors.SafetensorError as err:
        raise UsageError(f"not a safetensors file that can be read: {err}", where=str(path)) from err


def _read_pickle(path: Path) -> Any:
    torch = require("torch")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as err:
        code = pickled_class(path)
        inside = f"a pickled {code}" if code else str(err).splitlines()[0]
        raise UsageError(
            f"the state file holds more than tensors and is not loaded: {inside}",
            where=str(path),
            hint="save the weights alone: torch.save(module.state_dict(), FILE)",
        ) from err
    except (RuntimeError, EOFError, ValueError, OSError) as err:
        raise UsageError(
            f"not a state-dict file that can be read: {str(err).splitlines()[0] if str(err) else err!r}",
            where=str(path),
            hint="the file may be truncated: copy or download it again",
        ) from err


def _check_fit(module: Any, state: Any, path: Path) -> None:
    torch = require("torch")
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        is_table = isinstance(state, Mapping)
        inside = f"a table with the keys {list(state)[:6]}" if is_table else f"a {type(state).__name__}"
        raise UsageError(
            f"a state dict (name -> tensor) is needed, the file holds {inside}",
            where=str(path),
            hint="save the weights alone: torch.save(module.state_dict(), FILE)",
        )
    own = module.state_dict()
    problems = [f"missing: {key}" for key in own if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in own]
    problems += [
        f"shape of {key}: the file has {tuple(state[key].shape)}, the module {tuple(own[key].shape)}"
        for key in own
        if key in state and tuple(state[key].shape) != tuple(own[key].shape)
    ]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise UsageError(
            f"the state dict does not fit the module: {len(problems)} keys differ",
            where=str(path),
            problems=[*problems[:_SHOWN], *more],
            hint="give the state file that was saved from this very module",
        )
