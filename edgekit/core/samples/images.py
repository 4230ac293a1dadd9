"""Images as samples: how one is decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.core.samples.spec import ImageOptions
from edgekit.errors import UsageError

__all__ = ["SUFFIXES", "ImageRows", "decode_image"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")


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

