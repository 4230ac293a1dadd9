"""The messages between a worker and its parent."""

from __future__ import annotations

import io
import json
import struct

import numpy as np
import pytest

from edgekit.runtime.protocol import CorruptStream, read_message, write_message


def _bytes(header, arrays=None):
    stream = io.BytesIO()
    write_message(stream, header, arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).transpose(2, 0, 1),
        np.float16([[1.5, np.inf, np.nan]]),
        np.array(3.25),
        np.array([], dtype=np.int64),
        np.zeros((0, 3), np.uint8),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.arange(3, dtype=">i4"),
        np.arange(10, dtype=np.int8)[::3],
    ],
)
def test_an_array_arrives_as_it_left(array):
    header, arrays = read_message(io.BytesIO(_bytes({"request": "run"}, {"x": array, "y": array})))
    assert header == {"request": "run"}
    for name in ("x", "y"):
        assert arrays[name].dtype == array.dtype
        assert arrays[name].shape == array.shape
        np.testing.assert_array_equal(arrays[name], array)


def test_an_arrived_array_can_be_written_to():
    _, arrays = read_message(io.BytesIO(_bytes({}, {"x": np.zeros(2)})))
    arrays["x"][0] = 1


def test_messages_follow_each_other_and_the_end_is_none():
    stream = io.BytesIO(_bytes({"n": 1}, {"x": np.ones(3)}) + _bytes({"n": 2}))
    assert read_message(stream)[0] == {"n": 1}
    assert read_message(stream)[0] == {"n": 2}
    assert read_message(stream) is None


def test_every_cut_through_a_message_is_found():
    whole = _bytes({"request": "run"}, {"x": np.arange(5, dtype=np.int16)})
    for length in range(1, len(whole)):
        with pytest.raises(CorruptStream):
            read_message(io.BytesIO(whole[:length]))


def _framed(text):
    return struct.pack(">I", len(text)) + text


@pytest.mark.parametrize(
    "bytes_",
    [
        b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n",
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        _framed(b"not json"),
        _framed(b"[1, 2]"),
        _framed(b"{}"),
        _framed(b'{"arrays": [{"name": "x", "dtype": "object", "shape": [1]}]}') + bytes(8),
        _framed(b'{"arrays": [{"name": "x", "dtype": "float33", "shape": [1]}]}') + bytes(8),
        _framed(b'{"arrays": [{"name": "x", "dtype": "<f4", "shape": [-1]}]}') + bytes(8),
        _framed(b'{"arrays": [{"name": "x", "dtype": "<f4"}]}') + bytes(8),
    ],
)
def test_what_is_no_message_is_refused(bytes_):
    with pytest.raises(CorruptStream):
        read_message(io.BytesIO(bytes_))


def test_objects_are_not_sent():
    with pytest.raises(TypeError, match="no plain numbers"):
        write_message(io.BytesIO(), {}, {"x": np.array([object()])})


def test_a_message_is_a_length_a_json_header_and_raw_bytes():
    raw = _bytes({"request": "run"}, {"x": np.array([1, 2], "<i2")})
    (length,) = struct.unpack(">I", raw[:4])
    listed = [{"name": "x", "dtype": "<i2", "shape": [2]}]
    assert json.loads(raw[4 : 4 + length]) == {"request": "run", "arrays": listed}
    assert raw[4 + length :] == b"\1\0\2\0"
