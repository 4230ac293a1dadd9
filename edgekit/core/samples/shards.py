"""A folder of .npy or .npz files, one sample or several in each, opened as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.samples.arrays import Rows, open_npy, open_npz
from edgekit.errors import UsageError

__all__ = ["SUFFIXES", "ShardRows", "first_arrays", "open_shards"]

SUFFIXES = (".npy", ".npz")
_OPEN = 4  # files at once: a compressed one is held whole


@dataclass(frozen=True, slots=True)
class _Files:
    """Files by their place in the folder, the last few opened."""

    folder: Path
    names: tuple[str, ...]
    opened: dict[int, Mapping[str, Rows]] = field(default_factory=dict)

    def get(self, place: int) -> Mapping[str, Rows]:
        """The arrays of one file; that of an .npy is named ""."""
        if place not in self.opened:
            while len(self.opened) >= _OPEN:
                del self.opened[next(iter(self.opened))]
            path = self.folder / self.names[place]
            one = path.suffix.lower() == ".npy"
            self.opened[place] = {"": open_npy(path)} if one else open_npz(path, scalars=True)
        return self.opened[place]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRows:
    """The array `key` of every file, one after the other: `starts` are the first rows of the files, and the
    number of all; with `single` a file is one row."""

    files: _Files
    key: str
    starts: NDArray[np.int64]
    single: bool
    sample_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self.starts[-1]), *self.sample_shape)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.sample_shape), self.dtype)
        places = np.searchsorted(self.starts, rows, side="right") - 1
        for place in np.unique(places):
            mine = places == place
            source = self.files.get(int(place))[self.key]
            inside = rows[mine] - self.starts[place]
            if self.single:
                out[mine] = source.read(np.arange(source.shape[0])).reshape(self.sample_shape)
            else:
                out[mine] = source.read(inside)
        return out

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        yield f"{self.dtype.newbyteorder('=')}{self.sample_shape}".encode()
        for start in range(0, len(rows), 16):
            piece = self.read(rows[start : start + 16])
            yield piece.astype(piece.dtype.newbyteorder("<"), copy=False).tobytes()

    def describe(self, row: int) -> str:
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        inside = "" if self.single else f" at {row - int(self.starts[place])}"
        return f"{self.files.names[place]}{inside}"


def first_arrays(folder: Path, names: tuple[str, ...]) -> Mapping[str, Rows]:
    """The arrays of the first file; that of an .npy is named ""."""
    return _Files(folder, names).get(0)


def open_shards(folder: Path, names: tuple[str, ...], *, label: str, single: bool) -> dict[str, ShardRows]:
    """The arrays of the files, by name; an .npy is named "".

    With `single` a file holds one sample (the array `label` may be one value then), else several on the first
    axis. Raises `UsageError` naming the files that do not go with the first.
    """
    files = _Files(folder, names)
    first = dict(files.get(0))
    problems: list[str] = []
    counts = [_count(names[0], first, n, files.get(i), single, problems) for i, n in enumerate(names)]
    if problems:
        more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UsageError(
            "the files do not go together",
            where=str(folder),
            problems=[*problems[:10], *more],
            hint="samples are cut or padded to one size where they are made",
        )
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return {
        key: ShardRows(
            files=files,
            key=key,
            starts=starts,
            single=single,
            sample_shape=_sample_shape(rows.shape, single, key == label),
            dtype=rows.dtype,
        )
        for key, rows in first.items()
    }


def _sample_shape(shape: tuple[int, ...], single: bool, label: bool) -> tuple[int, ...]:
    if not single:
        return shape[1:]
    return () if label and shape == (1,) else shape


def _count(
    first_name: str, first: Mapping[str, Rows], name: str, found: Mapping[str, Rows], single: bool,
    problems: list[str],
) -> int:  # fmt: skip
    if set(found) != set(first):
        problems.append(f"{name} holds {sorted(found)}, {first_name} {sorted(first)}")
        return 0
    counts = {1 if single else rows.shape[0] for rows in found.values()}
    if len(counts) > 1:
        problems.append(f"{name}: its arrays have different numbers of samples")
    for key, rows in found.items():
        begin = 0 if single else 1
        if rows.shape[begin:] != first[key].shape[begin:] or rows.dtype != first[key].dtype:
            label = f" {key!r}" if key else ""
            problems.append(
                f"{name}: samples{label} of {list(rows.shape[begin:])} {rows.dtype}, in {first_name} they "
                f"are {list(first[key].shape[begin:])} {first[key].dtype}"
            )
    return min(counts)
