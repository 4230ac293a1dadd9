"""Samples from folders of WAV files."""

from __future__ import annotations

import struct
import wave
from pathlib import Path

import numpy as np
import pytest

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.samples import open_samples
from edgekit.core.samples.audio import open_wav
from edgekit.errors import UsageError

RATE = 8000


def signature(*shape: int) -> Signature:
    return Signature(inputs=(TensorSpec(name="sound", dtype="float32", shape=(1, *shape)),), outputs=())


def tone(frames: int, channels: int = 1) -> np.ndarray:
    """[frames, channels] in -1..1, another pitch in every channel."""
    time = np.arange(frames)[:, None] / RATE
    return 0.5 * np.sin(2 * np.pi * 200 * (1 + np.arange(channels)) * time)


def write(path: Path, sound: np.ndarray, bits: int = 16, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(sound.shape[1])
        file.setsampwidth(bits // 8)
        file.setframerate(rate)
        codes = np.round(sound * 2 ** (bits - 1)).astype(np.int64)
        octets = (codes + 128 if bits == 8 else codes).astype("<i8").view(np.uint8).reshape(*codes.shape, 8)
        file.writeframes(octets[..., : bits // 8].tobytes())
    return path


def write_chunks(path: Path, form: bytes, data: bytes, before: bytes = b"") -> Path:
    """A RIFF file by hand: what `wave` cannot write."""
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def spec(folder: Path, audio: str, head: str = "") -> str:
    text = f'schema = 1\nname = "t"\nkind = "audio"\n{head}\n[audio]\nrate = {RATE}\n{audio}\n'
    (folder / "spec.toml").write_text(text)
    return str(folder / "spec.toml")


def refusal(source: DataSource, given: Signature) -> str:
    with pytest.raises(UsageError) as caught:
        list(open_samples(source, given).batches(2))
    return str(caught.value)


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_integers_of_every_width_become_their_value(tmp_path: Path, bits: int, channels: int) -> None:
    sound = tone(500, channels)
    file = open_wav(write(tmp_path / "a.wav", sound, bits))
    assert (file.rate, file.channels, file.frames) == (RATE, channels, 500)
    np.testing.assert_allclose(file.read(0, 500), sound, atol=0.5 / 2 ** (bits - 1) + 1e-7)
    np.testing.assert_array_equal(file.read(100, 20), file.read(0, 500)[100:120])


@pytest.mark.parametrize("bits", [32, 64])
def test_floats_and_other_chunks_are_read(tmp_path: Path, bits: int) -> None:
    sound = tone(40)
    form = struct.pack("<HHIIHH", 3, 1, RATE, RATE * bits // 8, bits // 8, bits)
    odd = b"LIST" + struct.pack("<I", 3) + b"abc\0"
    file = open_wav(write_chunks(tmp_path / "a.wav", form, sound.astype(f"<f{bits // 8}").tobytes(), odd))
    np.testing.assert_array_equal(file.read(0, 40), sound.astype(np.float32))


def test_the_extensible_header_is_read(tmp_path: Path) -> None:
    guid = struct.pack("<H", 1) + bytes.fromhex("000000001000800000aa00389b71")
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, RATE * 2, 2, 16, 22, 16, 4) + guid
    file = open_wav(write_chunks(tmp_path / "a.wav", form, np.int16([0, 16384, -32768]).tobytes()))
    np.testing.assert_array_equal(file.read(0, 3).ravel(), [0, 0.5, -1])


def test_a_folder_is_cut_into_windows_with_the_label_of_their_file(tmp_path: Path) -> None:
    for name, frames in (("no/2.wav", 250), ("no/10.wav", 100), ("yes/1.wav", 299), ("yes/short.wav", 99)):
        write(tmp_path / "d" / name, tone(frames))
    source = DataSource(path=str(tmp_path / "d"), preprocessing=spec(tmp_path, "window = 100\nhop = 50"))
    samples = open_samples(source, signature(100), need_labels=True)
    batches = list(samples.batches(3))
    assert samples.count == 4 + 1 + 4
    assert np.concatenate([b.labels for b in batches]).tolist() == [0] * 5 + [1] * 4
    found = np.concatenate([b.inputs["sound"] for b in batches])
    np.testing.assert_allclose(found[1], tone(250)[50:150, 0], atol=1e-4)
    assert "1 file(s) are shorter than a window" in samples.notes[0]
    assert "9 windows of 100 at 8000 Hz, 4 files, mono, labels from 2 sub-folders" in samples.spec
    padded = DataSource(
        path=str(tmp_path / "d"), preprocessing=spec(tmp_path, 'window = 100\nhop = 50\nshort = "pad"')
    )
    last = list(open_samples(padded, signature(100)).batches(1))[-1].inputs["sound"][0]
    assert last[99] == 0
    np.testing.assert_allclose(last[:99], tone(99)[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("audio", "shape"),
    [("", (1, 100)), ("", (100, 1)), ('channels = "mean"', (100,)), ('channels = "all"', (2, 100))],
)
def test_channels_and_shapes_follow_the_spec_and_the_model(
    tmp_path: Path, audio: str, shape: tuple[int, ...]
) -> None:
    stereo = tone(100, 2 if audio else 1)
    write(tmp_path / "d" / "a.wav", stereo)
    path = spec(tmp_path, f"window = 100\nscale = 2.0\n{audio}")
    samples = open_samples(DataSource(path=str(tmp_path / "d"), preprocessing=path), signature(*shape))
    [batch] = samples.batches(1)
    wanted = 2 * (stereo.mean(1, keepdims=True) if "mean" in audio else stereo).T
    np.testing.assert_allclose(batch.inputs["sound"], wanted.reshape(1, *shape), atol=1e-4)


def test_what_is_wrong_with_a_file_is_named_with_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    write(folder / "fine.wav", tone(200))
    write(folder / "fast.wav", tone(200), rate=44100)
    write(folder / "stereo.wav", tone(200, 2))
    whole = write(folder / "cut.wav", tone(200)).read_bytes()
    (folder / "cut.wav").write_bytes(whole[:-100])
    (folder / "head.wav").write_bytes(whole[:30])
    (folder / "none.wav").write_bytes(b"ID3 this is music")
    form = struct.pack("<HHIIHH", 6, 1, RATE, RATE, 1, 8)
    write_chunks(folder / "alaw.wav", form, b"\0" * 200)
    said = refusal(DataSource(path=str(folder), preprocessing=spec(tmp_path, "window = 100")), signature(100))
    for words in (
        "fast.wav: 44100 Hz, audio.rate is 8000",
        'stereo.wav: 2 channels, audio.channels is "mono"',
        "cut.wav: the WAV file is truncated: 300 of 400 bytes of sound are there",
        "head.wav: ",
        "none.wav: not a WAV file",
        "alaw.wav: a WAV file of format 6 with 8 bits",
    ):
        assert words in said
    assert "fine.wav" not in said


def test_a_folder_of_sounds_needs_a_spec_and_windows_that_fit_the_model(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.wav", tone(100))
    assert "needs a preprocessing spec of kind 'audio'" in refusal(
        DataSource(path=str(tmp_path / "d")), signature(100)
    )
    path = spec(tmp_path, "window = 50")
    said = refusal(DataSource(path=str(tmp_path / "d"), preprocessing=path), signature(100))
    assert "'sound' has shape [2, 50], expected [n, 100]" in said
    path = spec(tmp_path, "window = 500")
    said = refusal(DataSource(path=str(tmp_path / "d"), preprocessing=path), signature(500))
    assert "no file is as long as one window of 500 frames" in said
