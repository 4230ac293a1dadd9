"""The networks that quantizers are judged on, with samples to calibrate on and others to judge by."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import published
from PIL import Image

__all__ = ["NETWORKS", "Fold", "Judged", "Places", "imagenet"]

ROOT = Path(__file__).resolve().parents[2]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Places:
    """`work`: scratch; `pictures`: a .zip of ImageNet pictures; `python_of`: the interpreter of a peer."""

    work: Path
    pictures: Path | None
    python_of: Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Samples by input name, samples first. `labels`: class numbers [n]; None: agreement with float alone."""

    calibration: Arrays
    judged: Arrays
    labels: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A source for `edgekit.open` and its folds. `output`: the judged output ("": the first).

    `limit`: points the metric may drop. `limit_db`: engine -> the logits' SQNR. `streams`: the length of each
    stream that the judged samples, in order, are made of; the state is carried on inside one, and the metric
    is the share of decisions (above 0.5) that are those of the float network.
    """

    source: dict[str, Any]
    folds: Sequence[Fold]
    output: str = ""
    limit: float | None = None
    limit_db: dict[str, float] = field(default_factory=dict)
    streams: tuple[int, ...] = ()


def efficientnet_lite0(places: Places) -> Judged:
    """Three folds of 300 ImageNet pictures: calibrated on 100, judged on the other 200.

    Without the pictures: crops of scikit-image's photographs, which have no labels.
    """
    source = {"source": f"{ROOT}/examples/efficientnet_lite0/model.py:efficientnet_lite0"}
    if places.pictures is None:
        pictures = published.efficientnet_lite0(places.work).samples["image"]
        return Judged(
            source=source, folds=[Fold(calibration={"image": pictures[:4]}, judged={"image": pictures[4:]})]
        )
    images, labels = imagenet(places.pictures)
    third = np.random.default_rng(0).permutation(len(images)) % 3
    folds = [
        Fold(
            calibration={"image": images[third == k]},
            judged={"image": images[third != k]},
            labels=labels[third != k],
        )
        for k in range(3)
    ]
    limits = {"onnxruntime": 21.0, "openvino": 21.0, "tflite": 22.0}
    return Judged(source=source, folds=folds, limit=0.7, limit_db=limits)


def imagenet(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Short side 256, centre 224, (x - 127) / 128; labels.csv names file and class index."""
    images, labels = [], []
    with zipfile.ZipFile(path) as archive:
        where = next(n for n in archive.namelist() if n.endswith("labels.csv"))
        folder = where.removesuffix("labels.csv")
        for row in csv.DictReader(archive.read(where).decode().splitlines()):
            with Image.open(BytesIO(archive.read(folder + row["file"]))) as picture:
                small = picture.convert("RGB")
                size = [round(side * 256 / min(small.size)) for side in small.size]
                small = small.resize((size[0], size[1]), Image.Resampling.BICUBIC)
                left, top = (small.width - 224) // 2, (small.height - 224) // 2
                crop = small.crop((left, top, left + 224, top + 224))
            images.append((np.asarray(crop, np.float32).transpose(2, 0, 1) - 127) / 128)
            labels.append(int(row["class_index"]))
    return np.stack(images), np.array(labels)


def digits(places: Places) -> Judged:
    """The example's network: calibrated on 256 of its training digits, judged on 1,000 held back."""
    folder = ROOT / "build" / "digits"
    if not (folder / "held-back.npz").is_file():
        script = ROOT / "examples" / "digits" / "train.py"
        subprocess.run([sys.executable, str(script)], cwd=ROOT, check=True, capture_output=True)
    with np.load(folder / "calibration.npz") as file:
        calibration = dict(file)
    with np.load(folder / "held-back.npz") as file:
        judged = dict(file)
    labels = judged.pop("labels")
    source = {"source": f"{ROOT}/examples/digits/model.py:digits_net", "state": str(folder / "digits.pt")}
    return Judged(
        source=source, folds=[Fold(calibration=calibration, judged=judged, labels=labels)], limit=0.2
    )


_LABELS = {
    ".py": "python", ".pyi": "python", ".c": "c", ".h": "c", ".cc": "cpp", ".cpp": "cpp", ".hpp": "cpp",
    ".js": "javascript", ".ts": "typescript", ".css": "css", ".html": "html", ".json": "json",
    ".md": "markdown", ".rst": "rst", ".txt": "txt", ".toml": "toml", ".yaml": "yaml", ".yml": "yaml",
    ".sh": "shell", ".xml": "xml",
    ".ini": "ini", ".svg": "svg", ".csv": "csv", ".bat": "batch", ".tcl": "tcl", ".sql": "sql", ".pem": "pem",
    ".ipynb": "ipynb", ".cmake": "cmake", ".m4": "m4", ".po": "po", ".proto": "proto", ".f90": "fortran",
}  # fmt: skip
_FILES_A_KIND = 60


def magika(places: Places) -> Judged:
    """Files of the standard library and of installed packages, labelled by extension; a third calibrates."""
    config = published.packaged("magika", "models/standard_v3_3/config.min.json")
    names = json.loads(config.read_text(encoding="utf-8"))["target_labels_space"]
    found: dict[str, dict[str, Path]] = {}
    for folder in sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}):
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in _LABELS and path.is_file() and path.stat().st_size > 256:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found.setdefault(_LABELS[path.suffix], {})[digest] = path
    rows, labels = [], []
    for kind, files in sorted(found.items()):
        for digest in sorted(files)[:_FILES_A_KIND]:
            rows.append(published.features(files[digest]))
            labels.append(names.index(kind))
    order = np.random.default_rng(0).permutation(len(rows))
    inputs, truth = np.stack(rows)[order], np.array(labels)[order]
    first = len(rows) // 3
    fold = Fold(calibration={"bytes": inputs[:first]}, judged={"bytes": inputs[first:]}, labels=truth[first:])
    source = {"source": str(published.packaged("magika", "models/standard_v3_3/model.onnx"))}
    return Judged(source=source, folds=[fold], limit=0.5)


def silero(places: Places) -> Judged:
    """Sentences spoken by espeak-ng in noise: every fourth calibrates, the others are judged as streams."""
    made = published.silero(places.work)
    clips = places.work / "speech.npz"
    script = ROOT / "benchmarks" / "support" / "speech.py"
    subprocess.run([places.python_of("espeak"), str(script), str(clips)], check=True, capture_output=True)
    with np.load(clips) as file:
        sounds = [file[name] for name in sorted(file.files)]
    session = onnxruntime.InferenceSession(made.source, providers=["CPUExecutionProvider"])
    seen = [_with_states(session, published.chunks(sound)) for sound in sounds]
    calibration = [seen[i] for i in range(0, len(seen), 4)]
    judged = [seen[i] for i in range(len(seen)) if i % 4]
    fold = Fold(
        calibration={k: np.concatenate([s[k] for s in calibration])[::3] for k in ("input", "state")},
        judged={k: np.concatenate([s[k] for s in judged]) for k in ("input", "state")},
    )
    streams = tuple(len(s["input"]) for s in judged)
    return Judged(
        source={"source": made.source, "shapes": made.shapes}, folds=[fold], output="output", limit=0.5,
        streams=streams,
    )  # fmt: skip


def _with_states(session: Any, rows: np.ndarray) -> Arrays:
    state, states = np.zeros((2, 1, 128), np.float32), []
    for row in rows:
        states.append(state)
        state = session.run(["stateN"], {"input": row[None], "state": state})[0]
    return {"input": rows, "state": np.stack(states)}


def _unlabelled(name: str) -> Callable[[Places], Judged]:
    def make(places: Places) -> Judged:
        made = published.PUBLISHED[name](places.work)
        halves = [{k: v[start::2] for k, v in made.samples.items()} for start in (0, 1)]
        return Judged(
            source={"source": made.source, "shapes": made.shapes},
            folds=[Fold(calibration=halves[0], judged=halves[1])],
        )

    return make


def _family(name: str) -> Callable[[Places], Judged]:
    def make(places: Places) -> Judged:
        script = ROOT / "tests" / "support" / "networks.py"
        command = [sys.executable, str(script), str(places.work), name, "--large"]
        subprocess.run(command, check=True, capture_output=True)
        with np.load(places.work / f"{name}.npz") as file:
            halves = [{k: file[k][start::2] for k in file.files} for start in (0, 1)]
        return Judged(
            source={"source": str(places.work / f"{name}.onnx")},
            folds=[Fold(calibration=halves[0], judged=halves[1])],
        )

    return make


NETWORKS: dict[str, Callable[[Places], Judged]] = {
    "efficientnet_lite0": efficientnet_lite0,
    "digits": digits,
    "magika": magika,
    "silero": silero,
    **{n: _unlabelled(n) for n in ("basic_pitch", "ocr_recognizer", "ocr_direction", "ocr_detector")},
    **{n: _family(n) for n in ("mobilenet_v3", "transformer")},
}
