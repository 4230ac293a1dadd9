"""Messages between a worker and its parent: JSON and raw arrays, no pickle.

A message is a 4-byte big-endian length, a JSON header of that length and, for every entry of the header's
"arrays" ({"name", "dtype", "shape"}), the array's bytes in C order, one after the other.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

__all__ = ["CorruptStream", "read_message", "write_message"]

_LENGTH = struct.Struct(">I")
_LONGEST_HEADER = 1 << 24  # any printable text read as a length is above 2**29
_NUMBERS = frozenset("biufc")


class CorruptStream(Exception):
    """The bytes on the stream are no message."""


def write_message(
    stream: BinaryIO, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
) -> None:
    """Write one message and flush. Raises `TypeError` for an array that holds no plain numbers."""
    arrays = arrays or {}
    for name, array in arrays.items():
        if array.dtype.kind not in _NUMBERS:
            raise TypeError(f"array {name!r} of dtype {array.dtype} holds no plain numbers")
    listed = [{"name": n, "dtype": a.dtype.str, "shape": list(a.shape)} for n, a in arrays.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    if len(text) > _LONGEST_HEADER:
        raise ValueError(f"a header of {len(text)} bytes is too long, at most {_LONGEST_HEADER}")
    stream.write(_LENGTH.pack(len(text)) + text)
    for array in arrays.values():
        stream.write(np.asarray(array, order="C").data if array.size else b"")
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
    """Read one message: its header and its arrays by name; None at the end of the stream.

    Raises `CorruptStream` for anything else than a whole message.
    """
    start = stream.read(_LENGTH.size)
    if not start:
        return None
    if len(start) < _LENGTH.size:
        raise CorruptStream("the stream ends inside a length")
    (length,) = _LENGTH.unpack(start)
    if length > _LONGEST_HEADER:
        raise CorruptStream(f"not a message: it begins with {start!r}")
    text = stream.read(length)
    if len(text) < length:
        raise CorruptStream("the stream ends inside a header")
    try:
        header = json.loads(text)
        listed = [
            (str(a["name"]), np.dtype(a["dtype"]), tuple(map(int, a["shape"]))) for a in header.pop("arrays")
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise CorruptStream(f"not a message header: {text[:80]!r}") from err
    return header, {name: _read_array(stream, dtype, shape) for name, dtype, shape in listed}


def _read_array(stream: BinaryIO, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if dtype.kind not in _NUMBERS or min(shape, default=0) < 0:
        raise CorruptStream(f"not an array of numbers: {dtype}{list(shape)}")
    buffer = bytearray(math.prod(shape) * dtype.itemsize)
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        got = stream.readinto(view[filled:])  # type: ignore[attr-defined]
        if not got:
            raise CorruptStream("the stream ends inside an array")
        filled += got
    return np.frombuffer(buffer, dtype=dtype).reshape(shape)
