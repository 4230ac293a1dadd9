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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from published import PUBLISHED, Published, babble, chunks
from qdq import write_profile

from edgekit import api
from edgekit.core.report import ArtifactReport
from edgekit.report import read_report
from edgekit.runtime import Session

Answers = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Expected:
    """Floors of int8 in dB, against float (`quantized`) and against the QDQ graph (`lowered`).

    The first is what 8 bits cost this network, at most 3 dB under what was measured. The second is what the
    engine's own rounding costs: 40 where every kernel agrees, less where sums are long (efficientnet) or a
    softmax at the end magnifies a step. `floats`: a pattern of what stays float: recurrent layers, as in the
    other engines, and a spectrum with its first reader. `moves`: the network moves axes by itself (attention,
    boxes, a dense layer whose result is taken for a picture): a TRANSPOSE is part of it.
    """

    quantized: float
    lowered: float = 40
    floats: str = ""
    moves: bool = False


# Random weights have no margin to lose: what is left is noise of 2^-8 added at every layer.
FAMILIES = {
    # On a ResNet of three blocks XNNPACK's convolutions give the graph's codes; the first that differ, 0.03 %
    # of them, lie behind an ADD with Relu. Behind the second shortcut it is 0.7 %, before the classifier 4 %.
    "resnet": Expected(30, 38),
    "mobilenet_v2": Expected(37),
    "mobilenet_v3": Expected(35),
    "unet": Expected(36),
    "detector": Expected(37),
    "cnn_1d": Expected(36),
    "lstm": Expected(40, floats="LSTM", moves=True),
    "gru": Expected(39, floats="GRU", moves=True),
    "transformer": Expected(35, 35, moves=True),
    "bert": Expected(23, 35, moves=True),  # post-norm: LayerNorm blows small differences up at every layer
    "autoencoder": Expected(50, moves=True),
}
REAL = {
    "efficientnet_lite0": Expected(21, 26),
    "basic_pitch": Expected(20, 36, floats="cqt|cq_t", moves=True),
    "magika": Expected(40, moves=True),
    "silero": Expected(30, floats="LSTM|stft|encoder/0", moves=True),
    "ocr_recognizer": Expected(3, 12, moves=True),  # probabilities near 0 and 1, ranges of 30 deviations
    "ocr_direction": Expected(17, 20),
    "ocr_detector": Expected(3, 20),  # ranges of 30 deviations in the second layer: 8 bits leave it 5 dB
}
EXPECTED = FAMILIES | REAL
EVERY = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in EXPECTED]


@dataclass(frozen=True)
class Converted:
    out: Path
    samples: dict[str, np.ndarray]
    artifacts: dict[tuple[str, str], ArtifactReport]

    def answers(self, artifact: str) -> Answers:
        """Outputs of "source", "tflite/int8" … for four samples."""
        place = self.out / ("source/onnx" if artifact == "source" else artifact)
        with Session(place, threads=1, layout="source") as session:
            count = len(next(iter(self.samples.values())))
            axes = {port.name: len(port.shape) for port in session.inputs}
            return [
                session.run(
                    {k: v[i] if axes[k] == v.ndim - 1 else v[i : i + 1] for k, v in self.samples.items()}
                )
                for i in np.linspace(0, count - 1, 4).astype(int)
            ]


@contextmanager
def shared(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A folder that every test process sees, held by one of them at a time."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    place = base / "networks" / name
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield place


@pytest.fixture(scope="module")
def exported(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with NAME.onnx and NAME.npz of every family; PyTorch runs once, in a process of its own."""
    with shared(tmp_path_factory, "families") as place:
        if not (place / "autoencoder.npz").is_file():
            script = root / "tests" / "support" / "networks.py"
            subprocess.run([sys.executable, str(script), str(place)], check=True, capture_output=True)
    return place


@pytest.fixture(scope="module")
def reference_target(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target that keeps the QDQ graph of the tflite policy for ONNX Runtime, optimizer off."""
    out = tmp_path_factory.mktemp("targets") / "qdq.toml"
    return write_profile(root / "targets" / "tflite.toml", out)


@pytest.fixture(scope="module")
def converted(
    exported: Path, reference_target: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Converted]:
    """`converted("unet")`: made at first use, kept for the module."""
    made: dict[str, Converted] = {}

    def make(name: str) -> Converted:
        if name not in made:
            with shared(tmp_path_factory, name) as folder:
                if name in FAMILIES:
                    with np.load(exported / f"{name}.npz") as file:
                        network = Published(source=str(exported / f"{name}.onnx"), samples=dict(file))
                else:
                    network = PUBLISHED[name](folder)
                out = folder / "out"
                if not out.is_dir():
                    api.convert(
                        network.source, targets=["tflite", str(reference_target)], output=out,
                        precisions=["float32", "int8"], calibration=network.samples, shapes=network.shapes,
                        allow_refused=["qdq/float32"],
                    )  # fmt: skip
            artifacts = {(a.target, a.precision): a for a in read_report(out).artifacts}
            made[name] = Converted(out, network.samples, artifacts)
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
    assert near[0] > EXPECTED[name].quantized
    assert near[1] > EXPECTED[name].lowered


@pytest.mark.parametrize("name", EVERY)
def test_every_convolution_and_constant_product_is_an_integer_one(converted, name):
    artifact = converted(name).artifacts["tflite", "int8"]
    assert artifact.integer_ops > 0
    if EXPECTED[name].floats:
        assert artifact.float_nodes
        assert all(re.search(EXPECTED[name].floats, node) for node in artifact.float_nodes)
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


def heard(artifact: Path) -> np.ndarray:
    """The probability of speech in every chunk of a sound, the state handed on."""
    state, found = np.zeros((2, 1, 128), np.float32), []
    with Session(artifact, threads=1, layout="source") as session:
        for chunk in chunks(babble()):
            answer = session.run({"input": chunk[None], "state": state})
            state = answer["stateN"]
            found.append(float(answer["output"].item()))
    assert len(found) >= 100
    return np.array(found)


@pytest.mark.xdist_group("silero")
def test_a_voice_detector_keeps_its_state_over_a_hundred_chunks(converted):
    out = converted("silero").out
    ours, theirs = heard(out / "tflite/float32"), heard(out / "source/onnx")
    assert 20 < np.sum(theirs > 0.5) < 100
    assert np.max(np.abs(ours - theirs)) < 1e-4
    assert np.array_equal(ours > 0.5, theirs > 0.5)


@pytest.mark.xdist_group("silero")
def test_an_int8_voice_detector_decides_as_its_quantized_graph_does(converted):
    out = converted("silero").out
    ours, graph, source = (heard(out / a) > 0.5 for a in ("tflite/int8", "qdq/int8", "source/onnx"))
    assert np.mean(ours == graph) >= 0.99
    assert np.mean(ours == source) >= 0.99
