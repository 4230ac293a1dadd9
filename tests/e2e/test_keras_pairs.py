"""One network, written in PyTorch and in Keras, the same weights: the artifacts answer alike."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit import api
from edgekit.formats.tf_export import ENVIRONMENT
from edgekit.runtime import Session

pytestmark = [pytest.mark.conformance, pytest.mark.xdist_group("keras pairs")]
SUPPORT = Path(__file__).resolve().parents[1] / "support"
TARGETS = ("tflite", "openvino", "onnxruntime")
PRECISIONS = ("float32", "int8")
# SQNR in dB that int8 has to reach against PyTorch's answers, from either framework, on the worst target;
# about 3 dB under the measured. 53 untrained layers deep, MobileNetV2 is no friend of 8 bits, from either.
INT8_DB = {"cnn": 28, "lstm": 58, "attention": 36, "mobilenet_v2": 10.5, "unet": 49}
CALIBRATED, ASKED = 16, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]) -> Path:
    """What `paired_networks.py` and `paired_keras.py` write."""
    for package in ("torch", "tensorflow", "tf2onnx", "openvino", "ai_edge_litert"):
        need(package)
    place = tmp_path_factory.mktemp("pairs")
    for script in ("paired_networks.py", "paired_keras.py"):
        done = subprocess.run(
            [sys.executable, str(SUPPORT / script), str(place)], env={**os.environ, **ENVIRONMENT},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    return place


def last(array: np.ndarray) -> np.ndarray:
    """Channels last, as Keras has pictures."""
    return np.moveaxis(array, 1, -1) if array.ndim == 4 else array


def answers(out: Path, inputs: np.ndarray, *, keras: bool) -> dict[tuple[str, str], np.ndarray]:
    """The answers of every artifact, pictures channels last."""
    found = {}
    for target in TARGETS:
        for precision in PRECISIONS:
            with Session(out / target, precision=precision, threads=1, layout="source") as session:
                [port] = session.inputs
                rows = [session.run({port.name: row[None]}) for row in (last(inputs) if keras else inputs)]
            [name] = rows[0]
            got = np.concatenate([row[name] for row in rows])
            found[target, precision] = got if keras else last(got)
    return found


def sqnr_db(expected: np.ndarray, got: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(expected**2) / max(float(np.sum((expected - got) ** 2)), 1e-30)))


@pytest.mark.parametrize("name", INT8_DB)
def test_a_network_is_the_same_from_pytorch_and_from_keras(folder, tmp_path, name):
    """float32: within 1e-5 of the largest answer, of each other and of PyTorch itself, on every target."""
    [(port, inputs)] = np.load(folder / f"{name}.samples.npz").items()
    shapes = {port: (1, *last(inputs).shape[1:])}
    said = last(np.load(folder / f"{name}.answers.npy")[:ASKED])
    report = api.convert(
        f"{SUPPORT / 'paired_networks.py'}:{name}", state=folder / f"{name}.pt", targets=TARGETS,
        precisions=PRECISIONS, calibration={port: inputs[:CALIBRATED]}, output=tmp_path / "torch",
    )  # fmt: skip
    twin = api.convert(
        folder / f"{name}.keras", shapes=shapes, targets=TARGETS, precisions=PRECISIONS,
        calibration={port: last(inputs[:CALIBRATED])}, output=tmp_path / "keras",
    )  # fmt: skip
    assert {a.status for r in (report, twin) for a in r.artifacts} == {"ok"}
    theirs = answers(tmp_path / "torch", inputs[:ASKED], keras=False)
    ours = answers(tmp_path / "keras", inputs[:ASKED], keras=True)
    largest = np.abs(said).max()
    for target in TARGETS:
        for got in (theirs, ours):
            assert np.abs(got[target, "float32"] - said).max() <= 1e-5 * largest, target
            assert sqnr_db(said, got[target, "int8"]) >= INT8_DB[name], target
        assert np.abs(theirs[target, "float32"] - ours[target, "float32"]).max() <= 1e-5 * largest, target
