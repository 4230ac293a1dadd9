"""The networks people learn with: from PyTorch to every target, in float32 and int8, judged on unseen data.

Every network is converted once, for all targets and precisions together. The first is part of every test run,
the others of the conformance run.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit import api
from edgekit.core.recipe import DataSource, Metric, ValidationOptions
from edgekit.core.report import Report
from edgekit.errors import Unsupported
from edgekit.runtime import Session

TARGETS = ("tflite", "openvino", "onnxruntime")
PRECISIONS = ("float32", "int8")
LESSONS = Path(__file__).resolve().parents[1] / "support" / "taught_networks.py"


@dataclass(frozen=True)
class Expected:
    """`int8`: floors in dB against PyTorch for TARGETS, at most 3 dB under what was measured.

    `score`: what the network itself reaches on 100 held-back samples (40 of motion) by `metric`, a floor for
    accuracy and a ceiling for errors; None for the networks that are not taught. `drop`: how much worse int8
    may be, in points or in the unit of the error. `judged` names the output to judge.
    """

    int8: tuple[float, float, float]
    score: float | None = None
    drop: float = 1.0
    metric: Metric = "accuracy"
    judged: str = ""
    length: str = ""


ALWAYS = {
    "mlp": Expected((46, 48, 48), score=0.97),
}
LONG = {
    "attention_of_any_length": Expected((44, 50, 50), score=0.9, length="pictures"),
    "attention": Expected((44, 50, 50), score=0.9),
    "vgg16": Expected((31, 31, 31), score=0.87),
    "digits_cnn": Expected((35, 49, 49), score=0.87),
    "encoder_block": Expected((32, 34, 34), score=0.8),
    "words_lstm": Expected((40, 48, 48), score=0.65),
    "gru": Expected((47, 51, 51), score=0.85),
    "motion_cnn": Expected((42, 48, 48), score=0.9),
    "unet": Expected((47, 47, 47), score=0.046, drop=0.0005, metric="mse"),
    "autoencoder": Expected((21, 21, 21), score=0.04, drop=0.0005, metric="mse"),  # of few samples
    "detector": Expected((38, 37, 37), metric="mse", judged="output"),
    "mobilenet_v2": Expected((37, 37, 36), metric="mse"),
    "mobilenet_v3": Expected((33, 33, 34), metric="mse"),
    "resnet": Expected((27, 27, 26), metric="mse"),
    "bert": Expected((22, 21, 21), metric="mse"),  # post-norm: LayerNorm blows small differences up
    "stacked_lstms": Expected((37, 37, 37), score=1.05, drop=0.01, metric="rmse"),
}
EXPECTED = ALWAYS | LONG


def group(name: str) -> pytest.param:
    marks = [pytest.mark.xdist_group(f"taught {name}"), *([pytest.mark.conformance] if name in LONG else [])]
    return pytest.param(name, marks=marks)


EVERY = [group(name) for name in EXPECTED]


@dataclass(frozen=True)
class Converted:
    """A converted network: its folder, its report, some inputs and PyTorch's own answers to them."""

    out: Path
    report: Report
    inputs: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]

    def said(self, target: str, precision: str) -> dict[str, np.ndarray]:
        """An artifact's answers, one sample at a time, samples first."""
        count = len(next(iter(self.answers.values())))
        with Session(self.out / target, precision=precision, threads=1, layout="source") as session:
            rows = [session.run({k: v[i : i + 1] for k, v in self.inputs.items()}) for i in range(count)]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def convert(name: str, folder: Path, expected: Expected) -> Converted:
    """Teach, convert, validate."""
    network = name.removesuffix("_of_any_length")
    command = [sys.executable, str(LESSONS), str(folder), network]
    subprocess.run(command, check=True, capture_output=True)
    out, held_back = folder / "out", folder / f"{network}.held-back.npz"
    data = DataSource(path=str(held_back))
    report = api.convert(
        f"{LESSONS}:{network}", state=folder / f"{network}.pt", targets=TARGETS, precisions=PRECISIONS,
        calibration=folder / f"{network}.calibration.npz", output=out,
        dynamic={expected.length: ("", "length")} if expected.length else None,
        validation=ValidationOptions(data=data, metric=expected.metric, output=expected.judged),
    )  # fmt: skip
    with np.load(held_back) as given, np.load(folder / f"{network}.answers.npz") as said:
        answers = dict(said)
        count = len(next(iter(answers.values())))
        inputs = {key: values[:count] for key, values in given.items() if key != "labels"}
    return Converted(out, report, inputs, answers)


@pytest.fixture(scope="module")
def converted(
    tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]
) -> Callable[[str], Converted]:
    """`converted("mlp")`: made at first use, kept for the module."""
    for package in ("torch", "mlxtend", "aeon", "ai_edge_litert", "openvino", "onnxruntime"):
        need(package)
    made: dict[str, Converted] = {}

    def make(name: str) -> Converted:
        if name not in made:
            made[name] = convert(name, tmp_path_factory.mktemp(name), EXPECTED[name])
        return made[name]

    return make


def sqnr_db(expected: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> float:
    """The worst output's signal over noise."""
    assert expected.keys() == got.keys()
    noise = {name: max(float(np.sum((values - got[name]) ** 2)), 1e-30) for name, values in expected.items()}
    return min(10 * np.log10(np.sum(values**2) / noise[name]) for name, values in expected.items())


@pytest.mark.parametrize("name", EVERY)
def test_float32_answers_as_pytorch_does(converted, name):
    network = converted(name)
    reasons = [reason for artifact in network.report.artifacts for reason in artifact.reasons]
    assert {artifact.status for artifact in network.report.artifacts} == {"ok"}, reasons
    for target in TARGETS:
        got = network.said(target, "float32")
        assert got.keys() == network.answers.keys()
        for output, expected in network.answers.items():
            assert np.abs(got[output] - expected).max() <= 1e-4 * np.abs(expected).max(), (target, output)


@pytest.mark.parametrize("name", EVERY)
def test_int8_stays_as_near_to_pytorch_as_stated(converted, name):
    network = converted(name)
    for target, floor in zip(TARGETS, EXPECTED[name].int8, strict=True):
        assert sqnr_db(network.answers, network.said(target, "int8")) > floor, target


@pytest.mark.parametrize("name", [p for p in EVERY if EXPECTED[p.values[0]].score is not None])
def test_a_taught_network_is_as_good_in_int8_on_what_was_held_back(converted, name):
    expected = EXPECTED[name]
    for artifact in converted(name).report.artifacts:
        assert artifact.accuracy.n >= 40
        if expected.metric == "accuracy":
            assert artifact.accuracy.source >= expected.score
        else:
            assert artifact.accuracy.source <= expected.score
        drop = expected.drop if artifact.precision == "int8" else 1e-3
        assert artifact.accuracy.drop <= drop, (artifact.target, artifact.precision)


@pytest.mark.parametrize("name", [p for p in EVERY if EXPECTED[p.values[0]].length])
def test_a_length_left_open_is_taken_as_it_comes(converted, name):
    """The answer to a bag of digits repeated is the answer to the bag: attention weighs them alike."""
    network = converted(name)
    [(port, bags)] = network.inputs.items()
    for target in TARGETS:
        for precision, tolerance in (("float32", 1e-5), ("int8", 0.03)):
            with Session(network.out / target, precision=precision, threads=1, layout="source") as session:
                for times in (1, 2, 5):
                    longer = [np.tile(bag[None], (1, times, 1)) for bag in bags]
                    got = np.concatenate([session.run({port: bag})["output"] for bag in longer])
                    np.testing.assert_allclose(got, network.answers["output"], rtol=0, atol=tolerance)


def test_a_suppression_inside_the_graph_is_refused_by_name(tmp_path):
    """How many boxes are left depends on the picture. The node and the way out are said."""
    write_detector_with_suppression(tmp_path / "detector.onnx")
    with pytest.raises(Unsupported) as caught:
        api.convert(
            tmp_path / "detector.onnx", targets=TARGETS, precisions=["float32"], output=tmp_path / "out"
        )
    [reason] = caught.value.reasons
    assert reason.node == "keep (NonMaxSuppression)"
    assert "depends on the data" in reason.why
    assert "end the model before" in caught.value.hint
    assert not (tmp_path / "out").exists()


def write_detector_with_suppression(path: Path) -> None:
    """One convolution to boxes and scores of 64 places, and the best boxes that do not overlap."""
    constants = {
        "weights": np.random.default_rng(0).standard_normal((7, 3, 4, 4)).astype(np.float32),
        "flat": np.array([1, 7, 64]),
        "parts": np.array([4, 3]),
        "most": np.array([10]),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.3], np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["maps"], strides=[4, 4]),
        helper.make_node("Reshape", ["maps", "flat"], ["places"]),
        helper.make_node("Split", ["places", "parts"], ["corners", "logits"], axis=1),
        helper.make_node("Transpose", ["corners"], ["boxes"], perm=[0, 2, 1]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node(
            "NonMaxSuppression", ["boxes", "scores", "most", "overlap", "least"], ["kept"], name="keep"
        ),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
    kept = helper.make_tensor_value_info("kept", TensorProto.INT64, ["kept", 3])
    values = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "detector", [image], [kept], values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
