"""The outputs of a PyTorch module by name, however they are nested."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgekit.core.packages import require
from edgekit.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["named_outputs", "tensors_of"]

_NUMBERS = (bool, int, float, str)


def named_outputs(outputs: Any, model: str) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    """What a module returned as tensors by name, and notes on what was left out.

    A tensor in a dict, dataclass or named tuple is named by its key or field, with dots where they are
    nested ("box.0"); in plain tuples and lists "output", "output_1", ... in the order they come. `None` is no
    output; a number is left out and noted. Raises `UsageError` for names that repeat and for anything else.
    """
    named: dict[str, torch.Tensor] = {}
    unnamed = 0
    left_out = []
    for key, value in _leaves(outputs, ""):
        name = key
        if isinstance(value, _NUMBERS):
            left_out.append(f"the output {name or 'without a name'} is {value!r}, no tensor: it is left out")
            continue
        if not _is_tensor(value):
            raise _no_tensor(name, value, model)
        if not name:
            name = "output" if unnamed == 0 else f"output_{unnamed}"
            unnamed += 1
        if name in named:
            raise UsageError(
                f"two outputs are named {name!r}", where=model, hint="give the outputs names of their own"
            )
        named[name] = value
    if not named:
        raise UsageError(f"forward() returned {type(outputs).__name__}, tensors are needed", where=model)
    return named, tuple(left_out)


def tensors_of(outputs: Any) -> tuple[torch.Tensor, ...]:
    """The tensors alone, in the order of `named_outputs`."""
    return tuple(value for _, value in _leaves(outputs, "") if _is_tensor(value))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, require("torch").Tensor)


def _no_tensor(name: str, value: Any, model: str) -> UsageError:
    kind = type(value).__name__
    hint = "return tensors, or tuples, lists, dicts and dataclasses of tensors"
    if "Cache" in kind:
        hint = "set model.config.use_cache = False; a Transformers folder has --signature decoder-with-past"
    what = f"the output {name!r}" if name else "an output"
    return UsageError(f"{what} is a {kind}, a tensor is needed", where=model, hint=hint)


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if value is None:
        return
    named: Mapping[Any, Any] | None = None
    if isinstance(value, Mapping):  # Transformers' outputs are dicts and dataclasses at once
        named = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        named = dict(zip(value._fields, value, strict=True))
    if named is not None:
        for key, item in named.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{name}.{i}" if name else "")
    else:
        yield name, value
