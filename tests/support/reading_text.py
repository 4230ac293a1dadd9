"""Reading text from a picture with three networks: where lines are, which way up they are, what they say.

The steps around the networks are those of PaddleOCR's recipe, written for lines that are level: a line's
box is a group of touching pixels, grown by `GROWTH`; a crop is 48 pixels high; the text is the best class of
every step, repeats and blanks dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont
from published import packaged

PAGE, HEIGHT = 320, 48  # pixels: the sides of a page, the height of a line
LINE, WAY = 320, 192  # pixels: how wide the recognizer and the classifier of direction take a line
MODELS = {
    "detector": ("ch_PP-OCRv4_det_infer.onnx", (1, 3, PAGE, PAGE)),
    "direction": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, HEIGHT, WAY)),
    "recognizer": ("ch_PP-OCRv4_rec_infer.onnx", (1, 3, HEIGHT, LINE)),
}
LINES = (
    "Hello 2024", "edge device", "quick brown", "invoice 731", "fox jumps", "Total 12.50", "network",
    "Version 3.11", "lazy dog", "camera 4K", "Temperature", "open source",
)  # fmt: skip
INK, SURE, GROWTH = 0.3, 0.5, 1.6  # probability of ink, mean of a line's box, how far a box grows

Network = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The three networks: one prepared picture (1, 3, H, W) in, one array out."""

    detector: Network
    direction: Network
    recognizer: Network


@dataclass(frozen=True)
class Line:
    """A line found on a page: its box (left, top, right, bottom), whether it was turned, what it says."""

    box: tuple[int, int, int, int]
    turned: bool
    text: str


def page(seed: int) -> tuple[Image.Image, list[str]]:
    """Four lines, dark on bright, every fourth page with one of them upside down; and what they say."""
    random = np.random.default_rng(seed)
    picture = Image.new("RGB", (PAGE, PAGE), tuple(int(v) for v in random.integers(220, 256, 3)))
    texts = [str(text) for text in random.permutation(LINES)[:4]]
    for row, text in enumerate(texts):
        font = ImageFont.load_default(size=int(random.integers(24, 34)))
        left, top, right, bottom = (int(v) for v in font.getbbox(text))
        strip = Image.new("RGB", (right - left + 8, bottom - top + 8), picture.getpixel((0, 0)))
        ink = tuple(int(v) for v in random.integers(0, 80, 3))
        ImageDraw.Draw(strip).text((4 - left, 4 - top), text, fill=ink, font=font)
        if seed % 4 == 3 and row == 1:
            strip = strip.rotate(180)
        picture.paste(strip, (int(random.integers(8, 60)), 14 + 76 * row))
    return picture, texts


def prepared(picture: Image.Image, width: int = 0) -> np.ndarray:
    """(1, 3, H, W) in -1..1; with a `width`, HEIGHT pixels high and zeros to the right of the picture."""
    if width:
        picture = picture.resize((min(width, max(1, round(picture.width * HEIGHT / picture.height))), HEIGHT))
    values = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
    return np.pad(values, ((0, 0), (0, 0), (0, 0), (0, max(0, width - values.shape[3]))))


def boxes(ink: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The boxes of lines in a map of probabilities (H, W), from top to bottom."""
    found = []
    for rows, columns in groups(ink > INK):
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        width, height = right - left, bottom - top
        if min(width, height) < 4 or ink[rows, columns].mean() < SURE:
            continue
        grow = round(width * height * GROWTH / (2 * (width + height)))
        near, far = (max(0, left - grow), max(0, top - grow)), (right + grow, bottom + grow)
        found.append((*near, min(ink.shape[1], far[0]), min(ink.shape[0], far[1])))
    return sorted((tuple(int(edge) for edge in box) for box in found), key=lambda box: box[1])


def groups(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and columns of every group of touching pixels."""
    left, found = mask.copy(), []
    for start in zip(*np.nonzero(mask), strict=True):
        if not left[start]:
            continue
        left[start], waiting, members = False, [start], []
        while waiting:
            row, column = waiting.pop()
            members.append((row, column))
            for near in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
                if 0 <= near[0] < mask.shape[0] and 0 <= near[1] < mask.shape[1] and left[near]:
                    left[near] = False
                    waiting.append(near)
        rows, columns = zip(*members, strict=True)
        found.append((np.array(rows), np.array(columns)))
    return found


def alphabet() -> list[str]:
    """The recognizer's classes: a blank, the characters its file carries, a space."""
    path = packaged("rapidocr_onnxruntime", f"models/{MODELS['recognizer'][0]}")
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    return ["", *properties["character"].splitlines(), " "]


def spelled(steps: np.ndarray, characters: list[str]) -> str:
    """The text of (1, T, classes)."""
    best = steps[0].argmax(1)
    changed = np.concatenate([[True], best[1:] != best[:-1]])
    return "".join(characters[i] for i in best[changed])


def read(picture: Image.Image, reader: Reader, characters: list[str]) -> list[Line]:
    """Every line of a page, from top to bottom."""
    lines = []
    for box in boxes(reader.detector(prepared(picture))[0, 0]):
        crop = picture.crop(box)
        turned = bool(reader.direction(prepared(crop, WAY))[0, 1] > 0.9)
        if turned:
            crop = crop.rotate(180)
        text = spelled(reader.recognizer(prepared(crop, LINE)), characters)
        lines.append(Line(box, turned, text))
    return lines
