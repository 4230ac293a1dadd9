"""Arrays in .npy and .npz files, read row by row.

Rows are read with seek and read, not memory-mapped: a mapped page counts as resident memory of the process,
so the peak would grow with the number of samples. Only a compressed .npz member is loaded whole.
"""

from __future__ import annotations

import ast
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.core.model import TensorSpec
from edgekit.errors import UsageError

__all__ = ["ConvertedRows", "FileRows", "MemoryRows", "Rows", "given_whole", "open_npy", "open_npz"]

Array = NDArray[Any]
_LOCAL_HEADER = struct.Struct("<26xHH")  # ends in the lengths of name and extra field: APPNOTE.TXT 4.3.7


class Rows(Protocol):
    """Samples of one array: `shape` and `dtype` of the whole (first axis: samples), read by row numbers."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, rows: NDArray[np.int64]) -> Array:
        """The rows of these numbers, in this order: [len(rows), *shape[1:]]."""

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        """Bytes that decide what `read` gives for these rows, in pieces: for a digest."""

    def describe(self, row: int) -> str:
        """What a reader calls this row."""


def given_whole(spec: TensorSpec, rows: Rows) -> bool:
    """Whether a row is the input with all its axes: (samples, *shape), as for states without a batch axis."""
    batched = len(spec.shape) >= 2 and spec.shape[0] in (1, "")
    return not batched and all(isinstance(d, int) for d in spec.shape) and rows.shape[1:] == spec.shape


@dataclass(frozen=True, slots=True)
class MemoryRows:
    """Rows of an array that is in memory."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(self, rows: NDArray[np.int64]) -> Array:
        return self.array[rows]

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        return _content(self, rows)

    def describe(self, row: int) -> str:
        return f"sample {row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRows:
    """Rows of a C-ordered array whose bytes lie in `path` from `offset` on."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: NDArray[np.int64]) -> Array:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if out.size == 0:
            return out
        flat = out.reshape(len(rows), -1).view(np.uint8)
        with self.path.open("rb") as stream:
            for target, row in zip(flat, rows.tolist(), strict=True):
                stream.seek(self.offset + row * flat.shape[1])
                if stream.readinto(target.data) != flat.shape[1]:
                    raise UsageError(
                        f"the file ends in the middle of sample {row}",
                        where=str(self.path),
                        hint="it was changed while it was read: try again",
                    )
        return out

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        return _content(self, rows)

    def describe(self, row: int) -> str:
        return f"sample {row}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedRows:
    """Rows turned into float32 by `(stored * scale - mean) / std`, each sample reshaped to `sample_shape`.

    With scale 1, mean 0 and std 1 the stored values and their dtype are kept.
    """

    rows: Rows
    scale: float
    mean: float
    std: float
    sample_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows.shape[0], *self.sample_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype if self._kept else np.dtype(np.float32)

    @property
    def _kept(self) -> bool:
        return (self.scale, self.mean, self.std) == (1.0, 0.0, 1.0)

    def read(self, rows: NDArray[np.int64]) -> Array:
        values = self.rows.read(rows)
        if not self._kept:
            values = values.astype(np.float32) * np.float32(self.scale)
            values = (values - np.float32(self.mean)) / np.float32(self.std)
        return values.reshape(len(rows), *self.sample_shape)

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        yield repr((self.scale, self.mean, self.std, self.sample_shape)).encode()
        yield from self.rows.content(rows)

    def describe(self, row: int) -> str:
        return self.rows.describe(row)


def _content(source: Rows, rows: NDArray[np.int64]) -> Iterator[bytes]:
    yield f"{source.dtype.newbyteorder('=')}{source.shape[1:]}".encode()
    for start in range(0, len(rows), 16):
        piece = source.read(rows[start : start + 16])
        yield piece.astype(piece.dtype.newbyteorder("<"), copy=False).tobytes()


def open_npy(path: Path) -> Rows:
    """The rows of an .npy file. Raises `UsageError` when it is no array file, truncated, or a pickle."""
    try:
        with path.open("rb") as stream:
            shape, fortran, dtype = _header(stream)
            offset = stream.tell()
    except FileNotFoundError as err:
        raise UsageError("no such file", where=str(path)) from err
    except (ValueError, SyntaxError, EOFError, OSError) as err:
        raise UsageError(f"not a readable .npy file: {err}", where=str(path)) from err
    problems = _check_kind(path.name, shape, dtype)
    have, need = path.stat().st_size - offset, _bytes(shape, dtype)
    if not problems and have < need:
        problems.append(f"the file is truncated: {have} bytes of data, {list(shape)} {dtype} needs {need}")
    if problems:
        raise UsageError("the array cannot be used", where=str(path), problems=problems)
    if fortran:
        return MemoryRows(np.load(path, mmap_mode="r", allow_pickle=False))
    return FileRows(path=path, offset=offset, shape=shape, dtype=dtype)


def open_npz(path: Path, *, scalars: bool = False) -> Mapping[str, Rows]:
    """The arrays of an .npz file by name, every checksum verified. With `scalars` a single value is one row.

    Raises `UsageError`, with every bad array named, when it is no archive, damaged, or holds pickles.
    """
    found: dict[str, Rows] = {}
    problems: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.filename.endswith(".npy"):
                    problems.append(f"{info.filename!r} is not an array: an .npz holds .npy members only")
                    continue
                name = info.filename.removesuffix(".npy")
                if name in found:
                    problems.append(f"two arrays are named {name!r}")
                    continue
                try:
                    found[name] = _member(path, archive, info, problems, scalars)
                except (ValueError, SyntaxError, EOFError, zipfile.BadZipFile, zlib.error) as err:
                    problems.append(f"array {name!r} is damaged: {err}")
    except FileNotFoundError as err:
        raise UsageError("no such file", where=str(path)) from err
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as err:
        raise UsageError(
            f"not a readable .npz file: {err}",
            where=str(path),
            hint="write it with numpy.savez; is it whole?",
        ) from err
    if problems:
        raise UsageError("the arrays cannot be used", where=str(path), problems=problems)
    return found


def _member(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, problems: list[str], scalars: bool
) -> Rows:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        shape = shape or (1,) if scalars else shape
        start = stream.tell()
        bad = _check_kind(name, shape, dtype)
        have, need = info.file_size - start, _bytes(shape, dtype)
        if not bad and have != need:
            bad.append(f"array {name!r} is damaged: {have} bytes of data, {list(shape)} {dtype} needs {need}")
        problems.extend(bad)
        if bad:
            return MemoryRows(np.empty(0, np.uint8))
        if fortran or info.compress_type != zipfile.ZIP_STORED:
            flat = np.frombuffer(stream.read(), dtype)  # reading to the end verifies the checksum
            return MemoryRows(flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape))
        while stream.read(1 << 20):  # the checksum is verified at the end of the member
            pass
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        lengths = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    offset = info.header_offset + _LOCAL_HEADER.size + sum(lengths) + start
    return FileRows(path=path, offset=offset, shape=shape, dtype=dtype)


def _header(stream: BinaryIO | Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype from the header of the NPY format (numpy.lib.format, versions 1-3)."""
    magic = stream.read(8)
    if len(magic) < 8 or magic[:6] != b"\x93NUMPY" or magic[6] not in (1, 2, 3):
        raise ValueError("it does not start like an NPY file")
    size = 2 if magic[6] == 1 else 4
    length = int.from_bytes(stream.read(size), "little")
    if length > 1 << 20:
        raise ValueError("its header is damaged")
    text = stream.read(length)
    if len(text) < length:
        raise EOFError("it ends within its header")
    header = ast.literal_eval(text.decode("latin-1" if magic[6] < 3 else "utf-8").strip())
    try:
        shape = tuple(int(d) for d in header["shape"])
        return shape, bool(header["fortran_order"]), np.dtype(header["descr"])
    except (TypeError, KeyError) as err:
        raise ValueError("its header is damaged") from err


def _check_kind(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> list[str]:
    if dtype.hasobject:
        return [f"array {name!r} holds Python objects (a pickle): that could run code and is never loaded; "
                "save plain numbers"]
    if dtype.kind not in "biuf":
        return [f"array {name!r} has dtype {dtype}, numbers are needed"]
    if not shape:
        return [f"array {name!r} is a single value: the first axis must count samples"]
    return []


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    size = dtype.itemsize
    for dim in shape:
        size *= dim
    return size
