"""Named arrays in one file, between steps: any name is allowed, the order is kept, nothing is pickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.files import atomic_file

__all__ = ["load_arrays", "save_arrays", "save_npz"]


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as an .npz of our own layout: `names` (JSON, uint8) and `a0`, `a1`, ...

    numpy's own naming by keyword cannot hold every tensor name ("file" is a parameter of `np.savez`).
    """
    names = np.frombuffer(json.dumps(list(arrays)).encode(), dtype=np.uint8)
    numbered = {f"a{i}": np.asarray(value) for i, value in enumerate(arrays.values())}
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, names=names, **numbered)  # type: ignore[arg-type]


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `save_arrays` wrote."""
    with np.load(path, allow_pickle=False) as data:
        names = json.loads(data["names"].tobytes())
        return {name: data[f"a{i}"] for i, name in enumerate(names)}


def save_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as an ordinary .npz, under any name; object arrays are refused by numpy."""
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(values), allow_pickle=False)
