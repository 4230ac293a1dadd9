"""Real networks and families of networks, read, quantized and lowered by the product, float32 and int8.

Every network is converted once. It is compared with its own float graph, and in int8 also with the QDQ graph
it was lowered from, which a target of the same policy keeps for ONNX Runtime with the optimizer off.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from published import PUBLISHED, Published, babble, chunks

from edgekit import api
from edgekit.core.report import ArtifactReport
from edgekit.runtime import Session

Answers = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Expected:
    """Floors of int8 in dB: `quantized` against float (what 8 bits cost this network; 16 samples and min-max
    ranges, at most 3 dB under what was measured), `lowered` against the QDQ graph (what the engine's own
    rounding costs). `recurrent`: its products stay float, as in the other engines. `moves`: TRANSPOSE is
    part of the network itself."""

    quantized: float
    lowered: float
    recurrent: bool = False
    moves: bool = False


# Random weights have no margin to lose: their floors are those of noise of 2^-8 added at every layer.
FAMILIES = {
    "resnet": Expected(28, 30),
    "mobilenet_v2": Expected(30, 30),
    "mobilenet_v3": Expected(30, 30),
    "unet": Expected(35, 35),
    "detector": Expected(25, 30, moves=True),
    "cnn_1d": Expected(36, 36),
    "lstm": Expected(36, 36, recurrent=True, moves=True),
    "gru": Expected(36, 36, recurrent=True, moves=True),
    "transformer": Expected(30, 30, moves=True),
    "bert": Expected(22, 30, moves=True),
    "autoencoder": Expected(45, 40),
}
REAL = {
    "efficientnet_lite0": Expected(18, 20),
    "basic_pitch": Expected(10, 20, moves=True),
    "magika": Expected(30, 30, moves=True),
    "silero": Expected(20, 25, recurrent=True, moves=True),
    "ocr_recognizer": Expected(5, 10, moves=True),
    "ocr_direction": Expected(25, 20),
    "ocr_detector": Expected(3, 20),
}
EXPECTED = FAMILIES | REAL
EVERY = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in EXPECTED]


@dataclass(frozen=True)
class Converted:
    out: Path
    samples: dict[str, np.ndarray]
    artifacts: dict[tuple[str, str], ArtifactReport]

    def answers(self, artifact: str) -> Answers:
        """Outputs of "source", "tflite/int8" … for the first eight samples."""
        place = self.out / ("source/onnx" if artifact == "source" else artifact)
        with Session(place, threads=1, layout="source") as session:
            return [session.run({k: v[i : i + 1] for k, v in self.samples.items()}) for i in range(4)]


@pytest.fixture(scope="module")
def exported(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NAME.onnx and NAME.npz of every family; PyTorch runs once, in a process of its own."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    place = shared / "families"
    with (shared / "families.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            place.mkdir()
            script = root / "tests" / "support" / "networks.py"
            subprocess.run([sys.executable, str(script), str(place)], check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def reference_target(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that keeps the QDQ graph of the tflite policy for ONNX Runtime, optimizer off."""
    profile = (root / "targets" / "tflite.toml").read_text(encoding="utf-8")
    policy = "".join(re.findall(r"(?ms)^\[int8[.\]].*?(?=^\[(?!int8)|\Z)", profile))
    place = tmp_path_factory.mktemp("targets") / "qdq.toml"
    place.write_text(
        'schema = 1\nname = "qdq"\nsummary = "the quantized graph"\nengine = "onnxruntime"\n'
        'precisions = ["int8"]\n[options]\ngraph_optimization = "disable"\n'
        f'[refuse]\nfloat32 = "the source is that"\n{policy}',
        encoding="utf-8",
    )
    return place


@pytest.fixture(scope="module")
def converted(
    exported: Path, reference_target: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Converted]:
    """`converted("unet")`: made at first use, kept for the module."""
    made: dict[str, Converted] = {}

    def make(name: str) -> Converted:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            if name in FAMILIES:
                with np.load(exported / f"{name}.npz") as file:
                    network = Published(source=str(exported / f"{name}.onnx"), samples=dict(file))
            else:
                network = PUBLISHED[name](folder)
            report = api.convert(
                network.source, targets=["tflite", str(reference_target)], precisions=["float32", "int8"],
                calibration=network.samples, shapes=network.shapes, output=folder / "out",
                allow_refused=["qdq/float32"],
            )  # fmt: skip
            artifacts = {(a.target, a.precision): a for a in report.artifacts}
            made[name] = Converted(folder / "out", network.samples, artifacts)
        return made[name]

    return make


def sqnr_db(reference: Answers, answers: Answers) -> float:
    """The worst output's signal over noise."""
    found = []
    for name in reference[0]:
        signal = np.stack([a[name] for a in reference]).astype(np.float64)
        noise = signal - np.stack([a[name] for a in answers])
        found.append(10 * np.log10(np.sum(signal**2) / max(np.sum(noise**2), 1e-30)))
    return min(found)


@pytest.mark.parametrize("name", EVERY)
def test_float32_answers_as_the_source_output_by_output(converted, name):
    network = converted(name)
    assert network.artifacts["tflite", "float32"].reasons == ()
    reference, answers = network.answers("source"), network.answers("tflite/float32")
    assert set(answers[0]) == set(reference[0])
    assert sqnr_db(reference, answers) > 100


@pytest.mark.parametrize("name", EVERY)
def test_int8_is_as_near_to_float_and_to_the_quantized_graph_as_stated(converted, name):
    network = converted(name)
    assert network.artifacts["tflite", "int8"].reasons == ()
    answers = network.answers("tflite/int8")
    near = sqnr_db(network.answers("source"), answers), sqnr_db(network.answers("qdq/int8"), answers)
    print(name, near)
    assert near[0] > EXPECTED[name].quantized
    assert near[1] > EXPECTED[name].lowered


@pytest.mark.parametrize("name", EVERY)
def test_every_convolution_and_constant_product_is_an_integer_one(converted, name):
    artifact = converted(name).artifacts["tflite", "int8"]
    assert artifact.integer_ops > 0
    if EXPECTED[name].recurrent:
        assert all(re.search(r"LSTM|GRU", node) for node in artifact.float_nodes)
    else:
        assert artifact.float_nodes == ()
        assert artifact.integer_share == 1.0


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("name", [p for p in EVERY if not EXPECTED[p.values[0]].moves])
def test_no_transpose_is_left_in_a_network_of_convolutions(converted, name, precision):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(converted(name).out / "tflite" / precision / "model.tflite"), num_threads=1)
    kinds = Counter(op["op_name"] for op in interpreter._get_ops_details())
    assert kinds["TRANSPOSE"] == 0


@pytest.mark.xdist_group("basic_pitch")
def test_outputs_of_one_shape_are_paired_by_name(converted):
    """Negative control: the answers of the two twins, swapped, are not each other's."""
    network = converted("basic_pitch")
    reference, answers = network.answers("source"), network.answers("tflite/float32")
    twins = "StatefulPartitionedCall:1", "StatefulPartitionedCall:2"
    assert answers[0][twins[0]].shape == answers[0][twins[1]].shape
    swapped = [{**a, twins[0]: a[twins[1]], twins[1]: a[twins[0]]} for a in answers]
    assert sqnr_db(reference, swapped) < 20


@pytest.mark.xdist_group("silero")
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_voice_detector_keeps_its_state_over_a_hundred_chunks(converted, precision):
    network, sound = converted("silero"), chunks(babble(3.3))
    assert len(sound) >= 100
    heard = {}
    for artifact in ("source/onnx", f"tflite/{precision}"):
        state, heard[artifact] = np.zeros((2, 1, 128), np.float32), []
        with Session(network.out / artifact, threads=1, layout="source") as session:
            for chunk in sound:
                answer = session.run({"input": chunk[None], "state": state})
                state = answer["stateN"]
                heard[artifact].append(float(answer["output"].item()))
    ours, theirs = np.array(heard[f"tflite/{precision}"]), np.array(heard["source/onnx"])
    voiced = theirs > 0.5
    assert 20 < voiced.sum() < 80
    if precision == "float32":
        assert np.max(np.abs(ours - theirs)) < 1e-4
        assert np.array_equal(ours > 0.5, voiced)
    else:
        assert np.mean((ours > 0.5) == voiced) >= 0.97
