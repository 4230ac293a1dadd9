"""A folder of images: which files, in which order, with which labels, and how one is decoded."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.core.samples.spec import ImageOptions, LabelOptions
from edgekit.errors import UsageError

__all__ = ["SUFFIXES", "ImageRows", "image_labels", "list_images"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


def list_images(folder: Path) -> tuple[tuple[str, ...], int]:
    """The images under `folder` and its sub-folders, and how many other files were passed over.

    Paths are relative, with "/", in natural order ("2.jpg" before "10.jpg"). Hidden files are not seen; CSV
    and text files are not counted as passed over. Raises `UsageError` when there is no image.
    """
    if not folder.is_dir():
        what = "this is a file, a folder of images is needed" if folder.exists() else "no such folder"
        raise UsageError(what, where=str(folder))
    images, others = [], 0
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if path.suffix.lower() in SUFFIXES:
            images.append(relative.as_posix())
        elif path.suffix.lower() not in (".csv", ".txt", ".md"):
            others += 1
    if not images:
        raise UsageError(
            f"the folder holds no image ({others} other files)",
            where=str(folder),
            hint=f"read are {', '.join(s[1:] for s in SUFFIXES)}",
        )
    return tuple(sorted(images, key=_natural)), others


def image_labels(
    folder: Path, images: tuple[str, ...], options: LabelOptions
) -> tuple[NDArray[np.int64] | NDArray[np.float64], str]:
    """One label an image, in the order of `images`, and a phrase that says where they come from.

    From `folder/options.file` when it exists (classes are whole numbers; any other number makes all of them
    float64), else from the first-level sub-folders: class index = place of the folder's name in sorted order
    (plain order of characters, as torchvision's ImageFolder has it). Raises `UsageError`.
    """
    table = folder / options.file
    if table.is_file():
        return _csv_labels(table, images, options), f"labels from {options.file}"
    outside = [name for name in images if "/" not in name]
    if outside:
        mixed = len(outside) < len(images)
        some = f"; {len(outside)} images lie in no sub-folder ({outside[0]!r})" if mixed else ""
        raise UsageError(
            f"the images have no labels{some}",
            where=str(folder),
            hint=f"put {options.file!r} with columns {options.file_column},{options.class_column} beside "
            "them, or one sub-folder a class",
        )
    folders = [PurePosixPath(name).parts[0] for name in images]
    index = {name: i for i, name in enumerate(sorted(set(folders)))}
    return np.array([index[f] for f in folders], np.int64), f"labels from {len(index)} sub-folders"


def _csv_labels(
    table: Path, images: tuple[str, ...], options: LabelOptions
) -> NDArray[np.int64] | NDArray[np.float64]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            missing = [c for c in (options.file_column, options.class_column) if c not in columns]
            if missing:
                have = ", ".join(columns) or "none"
                raise UsageError(
                    f"no column {', '.join(map(repr, missing))}; the columns are {have}",
                    where=str(table),
                    hint="name them in [labels] of a sample spec: file_column, class_column",
                )
            entries = [
                (row[options.file_column], row[options.class_column], reader.line_num) for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"not a readable CSV file: {err}", where=str(table)) from err
    values: dict[str, float] = {}
    problems = []
    for name, text, line in entries:
        try:
            value = float(text)
        except (TypeError, ValueError):
            problems.append(f"line {line}: {options.class_column} is {text!r}, a number is needed")
            continue
        if not np.isfinite(value):
            problems.append(f"line {line}: {options.class_column} is {text!r}")
        if values.setdefault(PurePosixPath(name).as_posix(), value) != value:
            problems.append(f"line {line}: {name!r} has two different labels")
    absent = [name for name in images if name not in values]
    if absent and not problems:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        problems.append(f"no label for {', '.join(map(repr, absent[:3]))}{more}")
    if problems:
        rest = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UsageError("the labels cannot be used", where=str(table), problems=[*problems[:10], *rest])
    found = np.array([values[name] for name in images], np.float64)
    return found.astype(np.int64) if np.all(found == np.floor(found)) else found


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRows:
    """Images as samples, decoded when they are read. `size` is (height, width) of every sample."""

    folder: Path
    images: tuple[str, ...]
    options: ImageOptions
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        hw, channels = self.size, self.options.channels
        sample = (channels, *hw) if self.options.layout == "nchw" else (*hw, channels)
        return (len(self.images), *sample)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.options.dtype)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        problems = []
        for i, row in enumerate(rows.tolist()):
            try:
                sample = decode_image(self.folder / self.images[row], self.options)
            except UsageError as err:
                problems.append(f"{self.images[row]}: {err.message}")
                continue
            if sample.shape != out.shape[1:]:
                problems.append(
                    f"{self.images[row]}: becomes {list(sample.shape)}, the first image "
                    f"{list(out.shape[1:])}; give image.center_crop, or image.resize as [height, width]"
                )
                continue
            out[i] = sample
        if problems:
            raise UsageError("images cannot be used", where=str(self.folder), problems=problems)
        return out

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        yield repr(self.options).encode()
        for row in rows.tolist():
            data = (self.folder / self.images[row]).read_bytes()
            yield len(data).to_bytes(8, "little")
            yield data

    def describe(self, row: int) -> str:
        return self.images[row]


def decode_image(path: Path, options: ImageOptions) -> NDArray[Any]:
    """One picture as one sample: [C, H, W] or [H, W, C] by `options.layout`, float32 or uint8.

    Raises `UsageError` when the file is no image, damaged, has more than 8 bits a channel or see-through
    parts (what lies behind them is not known).
    """
    pillow = require("PIL.Image", needed_for="reading images")
    try:
        with warnings.catch_warnings(), pillow.open(path) as image:
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            image.load()
            picture = _as_color(image, options)
    except (OSError, SyntaxError, ValueError, EOFError) as err:
        raise UsageError(f"not a readable image: {err}") from err
    except (pillow.DecompressionBombWarning, pillow.DecompressionBombError) as err:
        raise UsageError(f"refused as a decompression bomb: {err}") from err
    picture = _resized(picture, options)
    pixels = np.asarray(picture, np.uint8)
    pixels = pixels.reshape(*pixels.shape[:2], options.channels)
    if options.color == "bgr":
        pixels = pixels[..., ::-1]
    values: NDArray[Any] = pixels
    if options.dtype == "float32":
        scaled = pixels.astype(np.float32) * np.float32(options.scale)
        values = (scaled - np.asarray(options.mean, np.float32)) / np.asarray(options.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if options.layout == "nchw" else values)


def _as_color(image: Any, options: ImageOptions) -> Any:
    if image.mode not in _MODES:
        raise UsageError(f"pixels of mode {image.mode!r}, at most 8 bits a channel are read")
    if options.orientation == "exif":
        image = require("PIL.ImageOps").exif_transpose(image)
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise UsageError("the image has see-through parts; flatten it onto a background first")
    return image.convert("L" if options.color == "gray" else "RGB")


def _resized(picture: Any, options: ImageOptions) -> Any:
    pillow = require("PIL.Image")
    width, height = picture.size
    if isinstance(options.resize, tuple):
        height, width = options.resize
    elif options.resize:
        short = min(width, height)
        width, height = width * options.resize // short, height * options.resize // short
    if (width, height) != picture.size:
        picture = picture.resize((width, height), pillow.Resampling[options.resample.upper()])
    if not options.center_crop:
        return picture
    crop = options.center_crop
    crop_h, crop_w = crop if isinstance(crop, tuple) else (crop, crop)
    if crop_h > height or crop_w > width:
        raise UsageError(f"{height} x {width} pixels are fewer than image.center_crop {crop_h} x {crop_w}")
    top, left = round((height - crop_h) / 2), round((width - crop_w) / 2)
    return picture.crop((left, top, left + crop_w, top + crop_h))


def _natural(path: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    parts = re.split(r"(\d+)", path)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p.lower()) for p in parts if p), path
