"""What quantization-aware training saw is what every engine computes; and it mends what int8 ruins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgekit.backends import lower_file
from edgekit.core.about import About
from edgekit.core.codec import encode
from edgekit.core.qat import QatOptions
from edgekit.core.recipe import DataSource
from edgekit.core.target import load_target
from edgekit.core.training import TrainingOptions
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.observers import Method
from edgekit.quantize.qdq import quantize
from edgekit.runtime import Session
from edgekit.train.data import training_data_of
from edgekit.train.quantized.export import trained_graph
from edgekit.train.quantized.step import open_graphs, train_graphs

ENGINES = ["tflite", "openvino", "onnxruntime"]
JUDGED = 2000
ANY = DataSource(path="in memory")


@pytest.fixture(scope="module")
def data(root: Path) -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits, shuffled as `examples/digits/train.py` does: the first 1,000 trained nothing."""
    sys.path.insert(0, str(root / "examples" / "digits"))
    from train import load_digits

    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    return images[order], labels[order]


@pytest.fixture(scope="module")
def trained(
    digits: Path, root: Path, data: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The digits network, quantized for three engines and trained for 40 steps: graphs, and their modules."""
    import edgekit

    folder = tmp_path_factory.mktemp("trained")
    source = f"{root / 'examples' / 'digits' / 'model.py'}:digits_net"
    opened = edgekit.open(source, state=digits / "digits.pt", out=folder / "model")
    model, (images, labels) = onnx.load(opened.path), data
    policies = {name: load_target(name).int8 for name in ENGINES}
    chosen = list(policies.values())
    samples = [{"image": images[i : i + 1]} for i in range(1000, 1064)]
    ranges = calibrate(model, samples, policies=chosen, method=Method(name="minmax"))
    for name, policy in policies.items():
        quantized, _ = quantize(model, calibration=ranges, policy=policy)
        onnx.save(quantized, folder / f"{name}.onnx")
    paths = [folder / f"{name}.onnx" for name in ENGINES]
    options = TrainingOptions(data=(ANY,), steps=40, epochs=1, threads=1, held_out=0.0)
    graphs = open_graphs(model, paths, chosen, QatOptions(training=options))
    batches = training_data_of({"image": images[1000:]}, labels[1000:], options=options)
    train_graphs(graphs, opened.path, batches, options)
    for path, graph in zip(paths, graphs, strict=True):
        onnx.save(trained_graph(graph), path.with_suffix(".trained.onnx"))
    return folder, dict(zip(ENGINES, graphs, strict=True))


@pytest.mark.parametrize("name", ENGINES)
def test_the_engine_computes_what_training_saw(
    name: str, trained: tuple[Path, dict[str, Any]], data: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    folder, graphs = trained
    images, labels = data[0][:JUDGED], data[1][:JUDGED]
    module = graphs[name].module.double()
    with torch.no_grad():
        seen = np.concatenate([module(part.double()).numpy() for part in torch.from_numpy(images).split(100)])
    lower_file(
        model=str(folder / f"{name}.trained.onnx"), target=encode(load_target(name)), precision="int8",
        out=str(tmp_path), source_digest="0" * 64, about=encode(About()),
    )  # fmt: skip
    with Session(tmp_path, layout="source") as session:
        [port] = [o.name for o in session.outputs]
        got = np.concatenate([session.run({"image": images[i : i + 1]})[port] for i in range(JUDGED)])
    noise = ((got - seen) ** 2).sum()
    sqnr_db = 10 * np.log10((seen**2).sum() / noise) if noise else np.inf
    accuracies = [float((answer.argmax(1) == labels).mean()) for answer in (got, seen)]
    apart = np.flatnonzero(got.argmax(1) != seen.argmax(1))
    print(f"{name}: {sqnr_db:.1f} dB, {len(apart)} of {JUDGED} answers differ, accuracies {accuracies}")
    assert sqnr_db >= 60
    assert abs(accuracies[0] - accuracies[1]) <= 0.001
    assert len(apart) <= JUDGED // 1000
    first = np.sort(seen[apart], axis=1)
    assert (first[:, -1] - first[:, -2] <= 0.1).all()
    assert accuracies[0] > 0.97


def test_training_changed_what_it_says_and_nothing_else(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = trained
    for name in ENGINES:
        before, after = (onnx.load(folder / f"{name}{end}.onnx") for end in ("", ".trained"))
        assert [n.SerializeToString() for n in before.graph.node] == [
            n.SerializeToString() for n in after.graph.node
        ]
        old, new = ({t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
                    for m in (before, after))  # fmt: skip
        assert {n: a.shape for n, a in old.items()} == {n: a.shape for n, a in new.items()}
        changed = {n for n in old if not np.array_equal(old[n], new[n])}
        assert {n for n in old if n.endswith("_zero_point")}.isdisjoint(changed)
        assert any(n.endswith("_codes") for n in changed)
        assert any(n.endswith("_scale") for n in changed)
