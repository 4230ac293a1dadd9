"""What int8 ruins, distillation on the quantized graph brings back, without a label and in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import collapsing
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


def accuracy(graph: Path, folder: Path, held_back: dict[str, np.ndarray]) -> float:
    """Of the graph, lowered to LiteRT, in points."""
    lower_file(
        model=str(graph), target=encode(load_target("tflite")), precision="int8", out=str(folder),
        source_digest="0" * 64, about=encode(About()),
    )  # fmt: skip
    with Session(folder, layout="source") as session:
        right = [
            int(session.run({"image": held_back["image"][i : i + 1]})["logits"].argmax()) == label
            for i, label in enumerate(held_back["labels"])
        ]
    return 100 * float(np.mean(right))


@pytest.mark.conformance
def test_uneven_depthwise_channels_come_back_without_labels(tmp_path: Path) -> None:
    """Channels that differ 300 times in scale; equalization, which would undo that, is off."""
    torch.set_num_threads(1)
    ruined = collapsing.channels(0)
    model = onnx.shape_inference.infer_shapes(ruined.model)
    onnx.save(model, tmp_path / "float.onnx")
    policy: Any = load_target("tflite").int8
    samples = [{"image": image[None]} for image in ruined.calibration["image"]]
    ranges = calibrate(model, samples, policies=[policy], method=Method(name="auto"))
    onnx.save(quantize(model, calibration=ranges, policy=policy)[0], tmp_path / "plain.onnx")

    begun = time.process_time()
    options = TrainingOptions(
        data=(DataSource(path="in memory"),), epochs=20, steps=700, learning_rate=4e-3, threads=1
    )
    graphs = open_graphs(model, [tmp_path / "plain.onnx"], [policy], QatOptions(training=options))
    images, _ = collapsing.digits(0)
    data = training_data_of({"image": images[: collapsing.TRAINING]}, None, options=options)
    train_graphs(graphs, tmp_path / "float.onnx", data, options)
    spent = time.process_time() - begun
    onnx.save(trained_graph(graphs[0]), tmp_path / "trained.onnx")

    plain, trained = (
        accuracy(tmp_path / f"{n}.onnx", tmp_path / n, ruined.held_back) for n in ("plain", "trained")
    )
    whole = float_accuracy(tmp_path / "float.onnx", ruined.held_back)
    print(f"float {whole:.2f}, int8 {plain:.2f}, trained {trained:.2f}, {spent:.0f} CPU s")
    assert whole - plain > 3
    assert whole - trained <= 0.5
    assert spent < 300


def float_accuracy(path: Path, held_back: dict[str, np.ndarray]) -> float:
    """Of the float network in ONNX Runtime, in points."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    answers = [session.run(None, {"image": image[None]})[0].argmax() for image in held_back["image"]]
    return 100 * float(np.mean(np.array(answers) == held_back["labels"]))
