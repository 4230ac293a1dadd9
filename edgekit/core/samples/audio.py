"""Folders of WAV files as windows of sound, read where they lie.

The chunks of a file are read here: the standard library's `wave` knows neither floats nor, before Python
3.12, the extensible header that recorders of 24 bits write.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.core.samples.spec import AudioOptions
from edgekit.errors import UsageError

__all__ = ["SUFFIXES", "AudioRows", "WavFile", "cut_windows", "open_wav"]

SUFFIXES = (".wav", ".wave")
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE  # wFormatTag, Microsoft's "New Multimedia Data Types", 1994


@dataclass(frozen=True, slots=True, kw_only=True)
class WavFile:
    """The sound of a WAV file: `frames` of `channels` at `rate` Hz, from byte `offset` on; `kind` is "int"
    (`bits` 8, 16, 24 or 32, those of 8 unsigned) or "float" (32 or 64)."""

    path: Path
    rate: int
    channels: int
    frames: int
    offset: int
    bits: int
    kind: str

    def read(self, start: int, count: int) -> NDArray[np.float32]:
        """[count, channels] from frame `start` on, in -1..1 for integers, as stored for floats."""
        size = self.bits // 8 * self.channels
        with self.path.open("rb") as stream:
            stream.seek(self.offset + start * size)
            data = stream.read(count * size)
        if len(data) != count * size:
            raise UsageError("the file ends in the middle of a window", where=str(self.path))
        return _decoded(data, self.bits, self.kind).reshape(count, self.channels)


def _decoded(data: bytes, bits: int, kind: str) -> NDArray[np.float32]:
    if kind == "float":
        return np.frombuffer(data, f"<f{bits // 8}").astype(np.float32)
    if bits == 8:
        centred: NDArray[np.float32] = np.frombuffer(data, np.uint8).astype(np.float32) - 128
        return centred * np.float32(1 / 128)
    if bits == 24:
        octets = np.frombuffer(data, np.uint8).reshape(-1, 3)
        wide = np.zeros((len(octets), 4), np.uint8)
        wide[:, 1:] = octets  # the upper three bytes of 32: the sign comes along
        data, bits = wide.tobytes(), 32
    scaled: NDArray[np.float64] = np.frombuffer(data, f"<i{bits // 8}") / 2 ** (bits - 1)
    return scaled.astype(np.float32)


def open_wav(path: Path) -> WavFile:
    """Read the chunks of a RIFF file. Raises `UsageError` for what is no WAV, compressed, or truncated."""
    try:
        with path.open("rb") as stream:
            return _parse(path, stream)
    except (OSError, struct.error) as err:
        raise UsageError(f"not a readable WAV file: {err}") from err


def _parse(path: Path, stream: BinaryIO) -> WavFile:
    head = stream.read(12)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        raise UsageError("not a WAV file: it does not start with RIFF and WAVE")
    total = path.stat().st_size
    form: tuple[int, int, int, int] | None = None
    while len(header := stream.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"fmt ":
            body = stream.read(size)
            tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", body[:16])
            if tag == _EXTENSIBLE and len(body) >= 26:
                (tag,) = struct.unpack("<H", body[24:26])
            form = tag, channels, rate, bits
        elif name == b"data":
            return _with_data(path, form, stream.tell(), size, total)
        else:
            stream.seek(size, 1)
        if size % 2:
            stream.seek(1, 1)  # chunks start at even places
    raise UsageError("the WAV file is truncated: it holds no sound")


def _with_data(
    path: Path, form: tuple[int, int, int, int] | None, offset: int, size: int, total: int
) -> WavFile:
    if form is None:
        raise UsageError("not a readable WAV file: the sound comes before its format")
    tag, channels, rate, bits = form
    kind = {_PCM: "int", _FLOAT: "float"}.get(tag, "")
    if (kind == "int" and bits not in (8, 16, 24, 32)) or (kind == "float" and bits not in (32, 64)):
        kind = ""
    if not kind or not channels or not rate:
        raise UsageError(
            f"a WAV file of format {tag} with {bits} bits; read are PCM of 8, 16, 24 and 32 bits and floats"
        )
    if offset + size > total:
        raise UsageError(f"the WAV file is truncated: {total - offset} of {size} bytes of sound are there")
    frames = size // (bits // 8 * channels)
    return WavFile(
        path=path, rate=rate, channels=channels, frames=frames, offset=offset, bits=bits, kind=kind
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioRows:
    """Windows of sound as samples, `sample_shape` each; `file_of` and `start_of` say where a window lies."""

    files: tuple[WavFile, ...]
    names: tuple[str, ...]
    file_of: NDArray[np.int64]
    start_of: NDArray[np.int64]
    options: AudioOptions
    sample_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.file_of), *self.sample_shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.sample_shape), np.float32)
        for target, row in zip(out, rows.tolist(), strict=True):
            target[...] = self._window(row).reshape(self.sample_shape)
        return out

    def _window(self, row: int) -> NDArray[np.float32]:
        file, start = self.files[self.file_of[row]], int(self.start_of[row])
        have = min(self.options.window, file.frames - start)
        sound = file.read(start, have)
        if have < self.options.window:
            sound = np.pad(sound, ((0, self.options.window - have), (0, 0)))
        if self.options.channels == "mean":
            sound = sound.mean(axis=1, keepdims=True)
        scaled: NDArray[np.float32] = np.float32(self.options.scale) * sound.T
        return scaled

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        yield repr((self.options, self.sample_shape)).encode()
        for row in rows.tolist():
            yield self._window(row).astype("<f4", copy=False).tobytes()

    def describe(self, row: int) -> str:
        file = self.files[self.file_of[row]]
        return f"{self.names[self.file_of[row]]} at {self.start_of[row] / file.rate:.3f} s"


def cut_windows(
    folder: Path, names: tuple[str, ...], options: AudioOptions, sample_shape: tuple[int, ...] | None
) -> tuple[AudioRows, int]:
    """The windows of the WAV files `names` under `folder`, in order; and how many files were too short.

    A window is `options.window` frames, the next starts `options.hop` later; what is left at the end of a
    file is dropped. `sample_shape` None: [window] for one channel, else [channels, window]. Raises
    `UsageError` with every file that does not fit.
    """
    problems: list[str] = []
    files: list[WavFile | None] = []
    for name in names:
        try:
            files.append(_fitting(open_wav(folder / name), options))
        except UsageError as err:
            files.append(None)
            problems.append(f"{name}: {err.message}")
    kept = [(name, file) for name, file in zip(names, files, strict=True) if file is not None]
    channels = {1 if options.channels == "mean" else file.channels for _, file in kept}
    if len(channels) > 1:
        problems.append(f"some files have {min(channels)} channel(s), some {max(channels)}")
    if problems:
        _refuse(folder, problems)
    starts = [_starts(file.frames, options) for _, file in kept]
    count = channels.pop()
    shape: tuple[int, ...] = (options.window,) if count == 1 else (count, options.window)
    if sample_shape is not None and int(np.prod(sample_shape)) == count * options.window:
        shape = sample_shape
    short = sum(1 for places in starts if not len(places))
    if short == len(kept):
        _refuse(folder, [f"no file is as long as one window of {options.window} frames"])
    rows = AudioRows(
        files=tuple(file for _, file in kept),
        names=tuple(name for name, _ in kept),
        file_of=np.repeat(np.arange(len(kept)), [len(places) for places in starts]),
        start_of=np.concatenate(starts),
        options=options,
        sample_shape=shape,
    )
    return rows, short


def _fitting(file: WavFile, options: AudioOptions) -> WavFile:
    if file.rate != options.rate:
        raise UsageError(f"{file.rate} Hz, audio.rate is {options.rate}")
    if options.channels == "mono" and file.channels != 1:
        raise UsageError(f'{file.channels} channels, audio.channels is "mono"')
    return file


def _starts(frames: int, options: AudioOptions) -> NDArray[np.int64]:
    last = frames - options.window
    if last < 0:
        return np.zeros(1 if options.short == "pad" and frames else 0, np.int64)
    return np.arange(0, last + 1, options.hop or options.window, dtype=np.int64)


def _refuse(folder: Path, problems: list[str]) -> None:
    more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
    raise UsageError(
        "the sound files cannot be used",
        where=str(folder),
        problems=[*problems[:10], *more],
        hint="sound is not resampled here, as the training's own resampler is the right one (soxr, ffmpeg); "
        'stereo is averaged by audio.channels = "mean"',
    )
