"""A sample spec: where samples lie and how a stored value becomes what the model is fed. One TOML file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edgekit.core.codec import decode_toml
from edgekit.core.files import data_folder
from edgekit.errors import UsageError, nearest

__all__ = [
    "ArrayOptions",
    "AudioOptions",
    "ImageOptions",
    "LabelOptions",
    "SampleSpec",
    "TableOptions",
    "load_spec",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How a picture becomes one sample, in this order, in float32 arithmetic.

    `orientation`: "stored" ignores the EXIF orientation (as torchvision and TensorFlow do), "exif" obeys it.
    `color`: what channels there are, in which order. `resize`: the length of the short side (the long side
    follows, rounded down), or exactly [height, width]; 0 keeps the size. `resample`: the filter, with
    antialiasing as Pillow does it. `center_crop`: side of a centred square, or [height, width]; 0 crops
    nothing. Then `value = (pixel * scale - mean) / std` with pixel in 0..255; `mean` and `std` are one number
    or one a channel, in the order of `color`. `layout` and `dtype` are what the model takes; dtype "uint8"
    hands out the pixels themselves and admits no scale, mean or std.
    """

    orientation: Literal["stored", "exif"] = "stored"
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: int | tuple[int, int] = 0
    resample: Literal["nearest", "box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    center_crop: int | tuple[int, int] = 0
    scale: float = 1.0
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    layout: Literal["nchw", "nhwc"] = "nchw"
    dtype: Literal["float32", "uint8"] = "float32"

    @property
    def channels(self) -> int:
        """1 for gray, else 3."""
        return 1 if self.color == "gray" else 3

    def __post_init__(self) -> None:
        problems = []
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.channels:
                problems.append(
                    f"image.{name}: got {len(value)} values, color {self.color!r} has {self.channels}"
                )
        if 0.0 in (self.std if isinstance(self.std, tuple) else (self.std,)):
            problems.append("image.std: 0 divides by zero")
        for name in ("resize", "center_crop"):
            value = getattr(self, name)
            low = 1 if isinstance(value, tuple) else 0
            if min(value if isinstance(value, tuple) else (value,)) < low:
                problems.append(f"image.{name}: got {value!r}, a side has at least 1 pixel")
        if self.dtype == "uint8" and (self.scale, self.mean, self.std) != (1.0, 0.0, 1.0):
            problems.append("image.dtype: 'uint8' hands out the pixels: scale, mean and std cannot be given")
        if problems:
            raise UsageError("the image options contradict themselves", problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayOptions:
    """How a stored array becomes samples: `value = (stored * scale - mean) / std`, in float32.

    It is for data kept as integers (pixels, sensor counts), for every input of the model; with scale 1,
    mean 0 and std 1 values and dtype stay as stored. `reshape` gives each sample another shape of as many
    values (no batch axis); empty keeps it.
    """

    scale: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    reshape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        problems = []
        if self.std == 0.0:
            problems.append("array.std: 0 divides by zero")
        if self.reshape and min(self.reshape) < 1:
            problems.append(f"array.reshape: got {list(self.reshape)!r}, every axis has at least 1 element")
        if problems:
            raise UsageError("the array options contradict themselves", problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How the rows of a CSV or Parquet file become samples.

    `columns`: for every input of the model the columns that feed it, in order; empty: an input takes the
    column of its name, and a model of one input every column but the label's. `label`: the column of labels
    ("": one that is named labels, label or y, if there is). Then `value = (stored - mean) / std`, one number
    or one a column, in float64. `delimiter` of a CSV file; "": a tab in .tsv, else a comma.
    """

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    label: str = ""
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    delimiter: str = ""

    def __post_init__(self) -> None:
        problems = []
        if 0.0 in (self.std if isinstance(self.std, tuple) else (self.std,)):
            problems.append("table.std: 0 divides by zero")
        if len(self.delimiter) > 1:
            problems.append(f"table.delimiter: got {self.delimiter!r}, one character is needed")
        problems += [f"table.columns: none for the input {n!r}" for n, c in self.columns.items() if not c]
        if problems:
            raise UsageError("the table options contradict themselves", problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioOptions:
    """How a folder of WAV files becomes samples: windows of `window` frames, one every `hop` (0: `window`).

    `rate` in Hz is what every file must have: nothing is resampled. `channels`: "mono" refuses other files,
    "mean" averages the channels, "all" keeps them ([channels, window]). Integers become -1..1, then `scale`
    multiplies. `short`: what happens to a file shorter than a window: it is passed over ("skip") or filled
    with silence ("pad").
    """

    rate: int
    window: int
    hop: int = 0
    channels: Literal["mono", "mean", "all"] = "mono"
    scale: float = 1.0
    short: Literal["skip", "pad"] = "skip"

    def __post_init__(self) -> None:
        low = (("rate", self.rate, 1), ("window", self.window, 1), ("hop", self.hop, 0))
        problems = [f"audio.{n}: got {v}, at least {least} is needed" for n, v, least in low if v < least]
        if problems:
            raise UsageError("the audio options are out of range", problems=problems)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelOptions:
    """The table of labels of a folder of images or sounds: a CSV file beside them, and its columns."""

    file: str = "labels.csv"
    file_column: str = "file"
    class_column: str = "class_index"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpec:
    """One `calibration/*.toml` file.

    `path` (relative to the TOML file): by `kind` a folder of images, an .npz or .npy file or a folder of them
    ("arrays"), a CSV or Parquet file ("table"), a folder of WAV files ("audio"); "" makes it a spec of
    preprocessing alone, to be used with data named elsewhere. `count` (0: all), `skip` and `seed` (-1: the
    order of the source) select as in `DataSource`. `digest`, "sha256:...", is what the chosen samples must
    be: see `Samples.fingerprint`.
    """

    schema: int
    name: str
    kind: Literal["images", "arrays", "table", "audio"]
    summary: str = ""
    path: str = ""
    count: int = 0
    skip: int = 0
    seed: int = -1
    digest: str = ""
    image: ImageOptions | None = None
    array: ArrayOptions | None = None
    table: TableOptions | None = None
    audio: AudioOptions | None = None
    labels: LabelOptions = field(default_factory=LabelOptions)

    def __post_init__(self) -> None:
        problems = []
        if self.schema != 1:
            problems.append(f"schema: got {self.schema!r}, this edgekit reads 1")
        if self.kind == "images" and self.image is None:
            problems.append("image: kind 'images' needs an [image] table: how a picture becomes a sample")
        if self.kind == "audio" and self.audio is None:
            problems.append("audio: kind 'audio' needs an [audio] table: rate and window")
        for kind, name in (("images", "image"), ("arrays", "array"), ("table", "table"), ("audio", "audio")):
            if getattr(self, name) is not None and self.kind != kind:
                problems.append(f"{name}: this table belongs to kind {kind!r}, not {self.kind!r}")
        if self.digest and not self.path:
            problems.append("digest: it belongs to a spec with a path, to samples that are named here")
        if self.digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", self.digest):
            problems.append(f"digest: got {self.digest!r}, 'sha256:' and 64 hexadecimal digits are needed")
        for name, low in (("count", 0), ("skip", 0), ("seed", -1)):
            if getattr(self, name) < low:
                problems.append(f"{name}: got {getattr(self, name)!r}, at least {low} is needed")
        if problems:
            raise UsageError("the sample spec contradicts itself", problems=problems)


def load_spec(name: str) -> SampleSpec:
    """The sample spec in the TOML file of this path, or the shipped one of this bare name.

    `path` in the result is absolute (or "" when the spec names none). Raises `UsageError`.
    """
    path = Path(name)
    if path.suffix != ".toml":
        path = data_folder("calibration") / f"{name}.toml"
        if not path.is_file():
            known = [p.stem for p in data_folder("calibration").glob("*.toml")]
            raise UsageError(
                f"unknown sample spec {name!r}; {nearest(name, known)}",
                hint="name a shipped spec, or the path of a .toml file of your own (calibration/README.md)",
            )
    spec = decode_toml(SampleSpec, path)
    return replace(spec, path=str(path.resolve().parent / spec.path)) if spec.path else spec
