"""Published networks, and inputs that make sense to them; all of it from tests/data-requirements.txt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

RATE = 16000
CHUNK, CONTEXT = 512, 64  # what silero-vad reads at a time: new samples, and old ones before them
WORDS = (
    "Hello 2024",
    "edge device",
    "quick brown",
    "invoice 731",
    "fox jumps",
    "Total 12.50",
    "network",
    "int8",
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What `edgekit.convert` takes: a source, samples by input name (samples first), shapes left open."""

    source: str
    samples: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def packaged(package: str, file: str) -> Path:
    """A file inside an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package}: see tests/data-requirements.txt", name=package)
    return Path(spec.submodule_search_locations[0]) / file


def basic_pitch(folder: Path) -> Published:
    """Two seconds of decaying tones; three outputs, two of one shape."""
    random, time = np.random.default_rng(0), np.arange(43844) / 22050
    clips = []
    for _ in range(6):
        notes = zip(random.integers(40, 90, 6), random.uniform(0, 2, 6), strict=True)
        tones = [
            np.sin(880 * np.pi * 2 ** ((n - 69) / 12) * time) * np.exp(-4 * (time - t) ** 2) for n, t in notes
        ]
        clips.append(0.2 * np.sum(tones, axis=0) + 0.003 * random.standard_normal(time.size))
    path = packaged("basic_pitch", "saved_models/icassp_2022/nmp.onnx")
    return Published(source=str(path), samples={"serving_default_input_2:0": np.float32(clips)[..., None]})


def magika(folder: Path) -> Published:
    """The first and last 1024 bytes of files of this project and of the packages; 256 pads."""
    places = [p for e in ("*.py", "*.toml", "*.md") for p in sorted(Path(__file__).parents[2].rglob(e))]
    files = [p for p in places if p.stat().st_size > 2048][:: max(1, len(places) // 12)][:10]
    files += [packaged("skimage", f"data/{name}") for name in ("astronaut.png", "coffee.png", "rocket.jpg")]
    files += [packaged("magika", "models/standard_v3_3/model.onnx")]
    return Published(
        source=str(packaged("magika", "models/standard_v3_3/model.onnx")),
        samples={"bytes": np.stack([features(file) for file in files])},
    )


def features(file: Path) -> np.ndarray:
    """What magika reads of a file: its first and last 1024 bytes, without white space around them."""
    content = file.read_bytes()
    begin, end = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    row = np.full(2048, 256, np.int32)
    row[: len(begin)], row[2048 - len(end) :] = list(begin), list(end)
    return row


def babble(seconds: float = 4.0) -> np.ndarray:
    """Voiced sounds (pulses through two resonances, gliding pitch) with pauses between, in faint noise."""
    random = np.random.default_rng(0)
    sound = 0.002 * random.standard_normal(int(seconds * RATE))
    for start in np.arange(0.25, seconds - 0.5, 0.8):
        time = np.arange(int(0.4 * RATE)) / RATE
        pitch = 2 * np.pi * np.cumsum(random.uniform(100, 180) * (1 + 0.2 * np.sin(9 * time))) / RATE
        formants = random.uniform(300, 800), random.uniform(1000, 2200)
        voice = np.zeros_like(time)
        for harmonic in range(1, 30):
            hertz = 140.0 * harmonic
            gain = sum(1 / (1 + ((hertz - f) / 120) ** 2) for f in formants)
            voice += gain * np.sin(harmonic * pitch)
        at = int(start * RATE)
        sound[at : at + time.size] += 0.1 * voice * np.hanning(time.size)
    return sound.astype(np.float32)


def chunks(sound: np.ndarray) -> np.ndarray:
    """Shape [N, 576]: every chunk behind the last samples of the one before it."""
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    return np.stack([padded[i : i + CONTEXT + CHUNK] for i in range(0, sound.size - CHUNK + 1, CHUNK)])


def silero(folder: Path) -> Published:
    """The 16 kHz network with its sampling rate made a constant; states as they come along in a sound."""
    import onnxruntime

    graph = onnx.load(str(packaged("silero_vad", "data/silero_vad_16k_op15.onnx")))
    rate = next(value for value in graph.graph.input if value.name == "sr")
    graph.graph.input.remove(rate)
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(RATE, np.int64), "sr"))
    path = folder / "silero.onnx"
    onnx.save(graph, str(path))
    session = onnxruntime.InferenceSession(str(path))
    state, states = np.zeros((2, 1, 128), np.float32), []
    rows = chunks(babble())
    for row in rows:
        states.append(state)
        state = session.run(["stateN"], {"input": row[None], "state": state})[0]
    samples = {"input": rows, "state": np.stack(states)}
    return Published(source=str(path), samples=samples, shapes={"input": (1, 576), "state": (2, 1, 128)})


def _line(random: np.random.Generator, size: tuple[int, int], text: str) -> np.ndarray:
    picture = Image.new("RGB", size, tuple(int(v) for v in random.integers(200, 256, 3)))
    ink = tuple(int(v) for v in random.integers(0, 80, 3))
    ImageDraw.Draw(picture).text((8, 4), text, fill=ink, font=ImageFont.load_default(size=28))
    return np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1


def ocr_words(model: str, width: int) -> Callable[[Path], Published]:
    """Words on bright grounds, 48 pixels high, for the recognizer and the direction classifier."""

    def make(folder: Path) -> Published:
        random = np.random.default_rng(0)
        lines = np.stack([_line(random, (width, 48), word) for word in WORDS])
        path = packaged("rapidocr_onnxruntime", f"models/{model}")
        return Published(source=str(path), samples={"x": lines}, shapes={"x": (1, 3, 48, width)})

    return make


def ocr_pages(folder: Path) -> Published:
    """Three words on a white page, 160 pixels a side, for the detector."""
    random, pages = np.random.default_rng(0), []
    for _ in range(8):
        page = Image.new("RGB", (160, 160), "white")
        for row in range(3):
            place = (int(random.integers(2, 30)), 8 + 50 * row)
            word = WORDS[int(random.integers(len(WORDS)))]
            ImageDraw.Draw(page).text(place, word, fill=0, font=ImageFont.load_default(size=28))
        pages.append(np.asarray(page, np.float32).transpose(2, 0, 1) / 255)
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    samples = (np.stack(pages) - mean[:, None, None]) / deviation[:, None, None]
    path = packaged("rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx")
    return Published(source=str(path), samples={"x": samples}, shapes={"x": (1, 3, 160, 160)})


def efficientnet_lite0(folder: Path) -> Published:
    """The example's network, from PyTorch; crops of the photographs of scikit-image."""
    random, crops = np.random.default_rng(0), []
    for name in ("astronaut.png", "coffee.png", "chelsea.png", "motorcycle_left.png") * 2:
        with Image.open(packaged("skimage", f"data/{name}")) as picture:
            left, top = int(random.integers(0, 100)), int(random.integers(0, 60))
            crop = picture.convert("RGB").resize((224, 224), box=(left, top, left + 240, top + 240))
        crops.append((np.asarray(crop, np.float32).transpose(2, 0, 1) - 127) / 128)
    model = Path(__file__).parents[2] / "examples" / "efficientnet_lite0" / "model.py"
    return Published(source=f"{model}:efficientnet_lite0", samples={"image": np.stack(crops)})


PUBLISHED: dict[str, Callable[[Path], Published]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "basic_pitch": basic_pitch,
    "magika": magika,
    "silero": silero,
    "ocr_recognizer": ocr_words("ch_PP-OCRv4_rec_infer.onnx", 160),
    "ocr_direction": ocr_words("ch_ppocr_mobile_v2.0_cls_infer.onnx", 192),
    "ocr_detector": ocr_pages,
}
