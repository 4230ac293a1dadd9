"""ONNX files without their large tensors in memory: these stay in the file until their values are read.

A hollow initializer says, as external data does, in which file its data lies, from where and how long; the
file is any, also an ONNX file itself, and its path is absolute. Such a model is for this process alone:
`save_hollow` writes it as one ordinary file. No framework is loaded: a model is a message of the caller's.

Source: https://protobuf.dev/programming-guides/encoding/, the numbers of fields: onnx.proto.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LARGE_BYTES",
    "digest_aside",
    "fill",
    "hollow_copy",
    "is_hollow",
    "load_hollow",
    "made_external",
    "made_hollow",
    "save_hollow",
    "set_aside",
    "values_aside",
    "without_hollow",
]

LARGE_BYTES = 2**16  # constants whose values decide a shape are far smaller

_DTYPES: dict[int, type[np.generic]] = {  # by TensorProto.data_type
    1: np.float32, 2: np.uint8, 3: np.int8, 10: np.float16, 11: np.float64
}  # fmt: skip
_EXTERNAL = 1  # TensorProto.EXTERNAL
_GRAPH, _INITIALIZER = 7, 5  # of ModelProto, of GraphProto
_DIMS, _TYPE, _RAW = 1, 2, 9  # of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_CHUNK = 1 << 24

Message = TypeVar("Message", bound=Any)  # a ModelProto: onnx is not imported here


class _Damaged(Exception):
    """The file is not encoded as it should be: the ordinary parser says what is wrong."""


def load_hollow(path: Path, model: Message) -> Message:
    """Parse the ONNX file at `path` into `model`, an empty ModelProto, its large initializers hollow.

    Raises what the parser raises for a file that is damaged.
    """
    with path.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return model
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                text = b"".join(_hollow_model(data, str(path.absolute())))
            except (_Damaged, IndexError):
                text = data[:]
    model.ParseFromString(text)
    return model


def is_hollow(tensor: Any) -> bool:
    """Whether the data of the tensor is not in the message."""
    return bool(tensor.data_location == _EXTERNAL)


def made_hollow(tensor: Any, path: Path, offset: int, length: int) -> bool:
    """Let the tensor refer to the data at this place in a file; False where it is small or of a rare type."""
    dtype = _DTYPES.get(tensor.data_type)
    size = int(np.prod(tensor.dims, dtype=np.int64))
    if dtype is None or length < LARGE_BYTES or size * np.dtype(dtype).itemsize != length:
        return False
    made_external(tensor, str(path.absolute()), offset, length)
    return True


def made_external(tensor: Any, location: str, offset: int, length: int) -> None:
    """Make the tensor hollow, whatever it holds; a location "" is for data given to `save_hollow` by name."""
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = _EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def hollow_copy(model: Message) -> Message:
    """The model without the data of any large initializer, for tools that look at types and shapes alone."""
    copy: Message = type(model)()
    for source, target, without in (
        (model, copy, "graph"),
        (model.graph, copy.graph, "initializer"),
    ):
        _copy_fields(source, target, lambda field, without=without: field.name != without)  # type: ignore[misc]
    for tensor in model.graph.initializer:
        made = copy.graph.initializer.add()
        large = len(tensor.raw_data) >= LARGE_BYTES
        _copy_fields(tensor, made, lambda field, large=large: not large or field.name != "raw_data")  # type: ignore[misc]
        if large:
            made.data_location = _EXTERNAL
            entry = made.external_data.add()
            entry.key, entry.value = "location", "aside"
    return copy


def values_aside(tensor: Any) -> NDArray[Any]:
    """The values of a hollow tensor, mapped from its file and read only when they are looked at."""
    path, offset, length = _place(tensor)
    data = _mapped(path, os.stat(path).st_mtime_ns, os.stat(path).st_size)
    return data[offset : offset + length].view(_DTYPES[tensor.data_type]).reshape(tuple(tensor.dims))


def digest_aside(tensor: Any) -> bytes:
    """SHA-256 of the data of a hollow tensor."""
    digest = sha256()
    for chunk in _chunks(tensor, {}):
        digest.update(chunk)
    return digest.digest()


def fill(tensor: Any) -> None:
    """Put the data of a hollow tensor into the message."""
    data = b"".join(_chunks(tensor, {}))
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.raw_data = data


def without_hollow(model: Message, change: Callable[[Message], Message]) -> Message:
    """`change(model)`, with the hollow initializers as inputs meanwhile: for tools that know files alone."""
    graph = model.graph
    aside = [type(t).FromString(t.SerializeToString()) for t in graph.initializer if is_hollow(t)]
    if not aside:
        return change(model)
    names = {tensor.name for tensor in aside}
    _keep(graph.initializer, lambda tensor: tensor.name not in names)
    listed = {value.name for value in graph.input} & names  # before IR version 4 weights are inputs, too
    for tensor in (t for t in aside if t.name not in listed):
        value = graph.input.add()
        value.name = tensor.name
        value.type.tensor_type.elem_type = tensor.data_type
        for size in tensor.dims:
            value.type.tensor_type.shape.dim.add().dim_value = size
        value.type.tensor_type.shape.SetInParent()
    changed = change(model)
    graph = changed.graph
    _keep(graph.input, lambda value: value.name not in names or value.name in listed)
    graph.initializer.extend(aside)
    return changed


def set_aside(model: Message, path: Path) -> Message:
    """The model with the data of its large initializers in the new file `path`, and in it no longer."""
    with path.open("wb") as stream:
        for tensor in model.graph.initializer:
            data = tensor.raw_data
            if len(data) >= LARGE_BYTES and made_hollow(tensor, path, stream.tell(), len(data)):
                stream.write(data)
    _mapped.cache_clear()  # what was read of the files before counts as memory as long as they are mapped
    hollow = type(model).FromString(model.SerializeToString())
    return cast(Message, hollow)


def save_hollow(model: Any, path: Path, given: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Write the model as one ONNX file, one tensor in memory at a time: the bytes of `SerializeToString`.

    `given`: the data of hollow initializers that lies in no file, by name.
    """
    head, tail = _around(model, "graph", _GRAPH)
    before, after = _around(model.graph, "initializer", _INITIALIZER)
    tensors = list(model.graph.initializer)
    sizes = [_length(tensor) for tensor in tensors]
    whole = len(before) + len(after) + sum(len(_prefix(_INITIALIZER, size)) + size for size in sizes)
    with path.open("wb") as stream:
        stream.write(head + _prefix(_GRAPH, whole) + before)
        for tensor, size in zip(tensors, sizes, strict=True):
            stream.write(_prefix(_INITIALIZER, size))
            _write_tensor(tensor, stream, given or {})
        stream.write(after + tail)


def _keep(items: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [type(item).FromString(item.SerializeToString()) for item in items if wanted(item)]
    if len(kept) != len(items):
        del items[:]
        items.extend(kept)


def _place(tensor: Any) -> tuple[str, int, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries["offset"]), int(entries["length"])


@lru_cache(maxsize=4)
def _mapped(path: str, modified_ns: int, size: int) -> NDArray[np.uint8]:
    return np.memmap(path, dtype=np.uint8, mode="r")


def _chunks(tensor: Any, given: Mapping[str, NDArray[Any]]) -> Iterator[bytes | memoryview]:
    if tensor.name in given:
        yield memoryview(np.ascontiguousarray(given[tensor.name]).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        return
    path, offset, length = _place(tensor)
    with open(path, "rb") as stream:
        stream.seek(offset)
        while length:
            chunk = stream.read(min(length, _CHUNK))
            if not chunk:
                raise EOFError(f"{path} is shorter than it was")
            length -= len(chunk)
            yield chunk


def _write_tensor(tensor: Any, stream: BinaryIO, given: Mapping[str, NDArray[Any]]) -> None:
    if not is_hollow(tensor):
        stream.write(tensor.SerializeToString(deterministic=True))
        return
    head, tail = _around(_bare(tensor), "raw_data", _RAW)
    stream.write(head + _prefix(_RAW, _data_length(tensor)))
    for chunk in _chunks(tensor, given):
        stream.write(chunk)
    stream.write(tail)


def _bare(tensor: Any) -> Any:
    bare = type(tensor).FromString(tensor.SerializeToString())
    bare.ClearField("external_data")
    bare.ClearField("data_location")
    return bare


def _data_length(tensor: Any) -> int:
    size = int(np.prod(tensor.dims, dtype=np.int64))
    return size * np.dtype(_DTYPES[tensor.data_type]).itemsize


def _length(tensor: Any) -> int:
    if not is_hollow(tensor):
        return int(tensor.ByteSize())
    length = _data_length(tensor)
    return int(_bare(tensor).ByteSize()) + len(_prefix(_RAW, length)) + length


def _around(message: Any, without: str, number: int) -> tuple[bytes, bytes]:
    """The encoded fields of a message before and behind the field `without`, whose number that is."""

    def encoded(wanted: Callable[[Any], bool]) -> bytes:
        part = type(message)()
        _copy_fields(message, part, lambda field: field.name != without and wanted(field))
        text: bytes = part.SerializeToString(deterministic=True)
        return text

    return encoded(lambda field: field.number < number), encoded(lambda field: field.number > number)


def _copy_fields(source: Any, target: Any, wanted: Callable[[Any], bool]) -> None:
    for field, value in source.ListFields():
        if not wanted(field):
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _prefix(number: int, length: int) -> bytes:
    """The key of a field of bytes, and their count."""
    return _encoded(number << 3 | _BYTES) + _encoded(length)


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """The number that starts at a place, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise _Damaged


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Every field between two places: number, wire type, where it starts, where its content starts, ends."""
    while at < end:
        start = at
        key, at = _varint(data, at)
        kind, body = key & 7, at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, body = _varint(data, at)
            at = body + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise _Damaged
        if at > end:
            raise _Damaged
        yield key >> 3, kind, start, body, at


def _hollow_model(data: mmap.mmap, path: str) -> Iterator[bytes]:
    for number, kind, start, body, end in _fields(data, 0, len(data)):
        if number != _GRAPH or kind != _BYTES:
            yield data[start:end]
            continue
        parts = [
            _hollow_tensor(data, b, e, path) if n == _INITIALIZER and k == _BYTES else data[s:e]
            for n, k, s, b, e in _fields(data, body, end)
        ]
        graph = b"".join(parts)
        yield _prefix(_GRAPH, len(graph)) + graph


def _hollow_tensor(data: mmap.mmap, at: int, end: int, path: str) -> bytes:
    """The encoded field of an initializer, without its data where that is large."""
    fields = list(_fields(data, at, end))
    raw = [(body, stop) for number, _, _, body, stop in fields if number == _RAW]
    dtype = next((_varint(data, body)[0] for number, _, _, body, _ in fields if number == _TYPE), 0)
    if len(raw) != 1 or dtype not in _DTYPES or raw[0][1] - raw[0][0] < LARGE_BYTES:
        return _prefix(_INITIALIZER, end - at) + data[at:end]
    dims: list[int] = []
    for number, kind, _, body, stop in fields:
        if number == _DIMS and kind == _VARINT:
            dims.append(_varint(data, body)[0])
        while number == _DIMS and kind == _BYTES and body < stop:
            size, body = _varint(data, body)  # packed
            dims.append(size)
    offset, length = raw[0][0], raw[0][1] - raw[0][0]
    if int(np.prod(dims, dtype=np.int64)) * np.dtype(_DTYPES[dtype]).itemsize != length:
        raise _Damaged  # the checker says so of the whole tensor
    rest = b"".join(data[start:stop] for number, _, start, _, stop in fields if number != _RAW)
    for key, value in (("location", path), ("offset", str(offset)), ("length", str(length))):
        entry = b"".join(_prefix(n, len(t.encode())) + t.encode() for n, t in ((1, key), (2, value)))
        rest += _prefix(13, len(entry)) + entry
    rest += _encoded(14 << 3 | _VARINT) + _encoded(_EXTERNAL)
    return _prefix(_INITIALIZER, len(rest)) + rest
