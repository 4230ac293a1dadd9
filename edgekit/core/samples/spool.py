"""From a Python iterable to a folder of array files: only one item is held, child processes read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.arrays import save_npz
from edgekit.errors import UsageError

__all__ = ["spool"]

_WHERE = "iterable of samples"


def spool(items: Iterable[Any], folder: Path) -> int:
    """Write what `items` yields to the new `folder`, one .npz each; returns their number.

    An item is a mapping of names to arrays, a tuple or list of arrays in the order of the inputs (labels
    last), or an array; either of one sample, or of several on the first axis. What has `detach` and `cpu` (a
    tensor) is brought to numpy. Raises `UsageError` with the place of an item that is none of these.
    """
    folder.mkdir(parents=True)
    names: list[str] = []
    count = 0
    for count, item in enumerate(items, start=1):
        arrays = _arrays(item, count - 1)
        if names and sorted(arrays) != names:
            raise UsageError(f"item {count - 1} has {sorted(arrays)}, item 0 had {names}", where=_WHERE)
        names = sorted(arrays)
        save_npz(folder / f"{count - 1:08d}.npz", arrays)
    if not count:
        raise UsageError("it yielded nothing", where=_WHERE, hint="a generator can be read only once")
    return count


def _arrays(item: Any, number: int) -> dict[str, NDArray[Any]]:
    if isinstance(item, Mapping):
        named = {str(name): value for name, value in item.items()}
    elif isinstance(item, (tuple, list)) and item and not np.isscalar(item[0]):
        named = {str(i): value for i, value in enumerate(item)}
    else:
        named = {"0": item}
    if not named:
        raise UsageError(f"item {number} is empty", where=_WHERE)
    return {name: _array(value, f"item {number}, {name!r}") for name, value in named.items()}


def _array(value: Any, what: str) -> NDArray[Any]:
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as err:
        raise UsageError(f"{what}: {err}", where=_WHERE) from err
    if array.dtype.kind not in "biuf":
        raise UsageError(
            f"{what} is {type(value).__name__}, numbers are needed",
            where=_WHERE,
            hint="yield mappings of input name to array, tuples of arrays in the order of the inputs, arrays",
        )
    return array.reshape(1) if array.ndim == 0 else array
