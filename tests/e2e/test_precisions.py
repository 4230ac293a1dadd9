"""Every precision for every target, by the command line: what is made, what is refused, how good it is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, classifier, pictures

from edgekit.runtime import Session

Command = Callable[..., subprocess.CompletedProcess[str]]

TARGETS = ("tflite", "openvino", "onnxruntime", "onnxruntime-exact")
PRECISIONS = ("float32", "float16", "int8", "int16x8", "dynamic-int8", "weight-int8", "weight-int4")
REFUSED = {
    ("openvino", "int16x8"): "no integer kernels for 16-bit activations",
    ("openvino", "dynamic-int8"): "on some CPUs only",
    ("onnxruntime", "int16x8"): "no integer kernels for 16-bit activations",
    ("onnxruntime-exact", "int16x8"): "no integer kernels for 16-bit activations",
}
# Operators that multiply integers, of all; the CNN has two convolutions, one depthwise, and one product.
INTEGER = {
    ("cnn", "int8"): dict.fromkeys(TARGETS, 1.0),
    ("cnn", "int16x8"): {"tflite": 1.0},
    ("cnn", "dynamic-int8"): {"tflite": 0.75, "onnxruntime": 0.25, "onnxruntime-exact": 0.25},
    ("mlp", "int8"): dict.fromkeys(TARGETS, 1.0),
    ("mlp", "int16x8"): {"tflite": 1.0},
    ("mlp", "dynamic-int8"): {"tflite": 1.0, "onnxruntime": 1.0, "onnxruntime-exact": 1.0},
}
# Of the float32 file of the same engine, where the weights are nearly all of it.
SMALLER = {
    "float16": 0.53, "int8": 0.30, "int16x8": 0.30, "dynamic-int8": 0.30, "weight-int8": 0.30,
    "weight-int4": 0.18,
}  # fmt: skip
# The least signal over noise. Gaussian weights lose some 42 dB a layer to 8 bits, 18 dB to 4 bits a channel;
# three or four layers follow each other.
LEAST_DB = {
    "float32": 90.0, "float16": 50.0, "int8": 20.0, "int16x8": 30.0, "dynamic-int8": 25.0,
    "weight-int8": 30.0, "weight-int4": 12.0,
}  # fmt: skip


def mlp() -> onnx.ModelProto:
    b = GraphBuilder(5)
    hidden = b.add("Relu", [b.add("Gemm", ["image", *layer(b, 1, 192, 512)], "h1")], "r1")
    hidden = b.add("Relu", [b.add("Gemm", [hidden, *layer(b, 2, 512, 512)], "h2")], "r2")
    b.add("Gemm", [hidden, *layer(b, 3, 512, 10)], "logits")
    return b.build({"image": [1, 192]}, ["logits"])


def layer(b: GraphBuilder, number: int, inputs: int, outputs: int) -> list[str]:
    return [b.weight(f"w{number}", inputs, outputs, scale=0.1), b.weight(f"b{number}", outputs)]


@pytest.fixture(params=["cnn", "mlp"])
def outcome(request, edgekit: Command, tmp_path: Path) -> tuple[str, Path, dict[tuple[str, str], Any]]:
    """The network's name, the folder, and the report of all of its precisions for all targets."""
    images = np.concatenate([s["image"] for s in pictures(32)])
    if request.param == "mlp":
        images = images.reshape(32, -1)
    onnx.save(classifier() if request.param == "cnn" else mlp(), str(tmp_path / "model.onnx"))
    np.savez(tmp_path / "calibration.npz", image=images)
    words = [word for target in TARGETS for word in ("-t", target)]
    words += [word for precision in PRECISIONS for word in ("-p", precision)]
    words += [word for pair in REFUSED for word in ("--allow-refused", "/".join(pair))]
    words += ["--calibration", "calibration.npz", "-o", "out", "--quiet"]
    made = edgekit("convert", "model.onnx", *words)
    assert made.returncode == 0, made.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    return request.param, tmp_path, {(a["target"], a["precision"]): a for a in report["artifacts"]}


def answers(folder: Path, count: int = 8) -> np.ndarray:
    """What an artifact says of the first calibration samples."""
    images = np.load(folder.parents[2] / "calibration.npz")["image"][:count]
    with Session(folder, layout="source", threads=1) as session:
        return np.concatenate([session.run({"image": image[None]})["logits"] for image in images])


def test_every_pair_is_made_or_refused_and_as_good_as_its_bits(outcome):
    name, folder, entries = outcome
    assert set(entries) == {(t, p) for t in TARGETS for p in PRECISIONS}
    expected = answers(folder / "out" / "onnxruntime" / "float32")
    found = {}
    for (target, precision), entry in entries.items():
        where = f"{name} {target} {precision}"
        if why := REFUSED.get((target, precision)):
            assert entry["status"] == "refused", where
            assert why in entry["reasons"][0], where
            continue
        assert entry["status"] == "ok", (where, entry["reasons"])
        assert entry["integer_share"] == INTEGER.get((name, precision), {}).get(target, 0.0), where
        found[where] = sqnr_db(expected, answers(folder / "out" / entry["path"]))
        assert found[where] > LEAST_DB[precision], where
        if name == "mlp" and precision in SMALLER:
            assert entry["size_bytes"] < SMALLER[precision] * entries[target, "float32"]["size_bytes"], where
    assert found[f"{name} tflite int16x8"] > found[f"{name} tflite int8"] + 3.0


def test_only_ranges_of_activations_need_samples(edgekit: Command, tmp_path: Path):
    onnx.save(mlp(), str(tmp_path / "model.onnx"))
    made = edgekit("convert", "model.onnx", "-t", "tflite", "-p", "weight-int4", "-o", "out", "--quiet")
    assert made.returncode == 0, made.stderr
    refused = edgekit("convert", "model.onnx", "-t", "tflite", "-p", "int16x8", "-o", "other", "--quiet")
    assert refused.returncode == 2
    assert "precision 'int16x8' needs samples" in refused.stderr


def sqnr_db(expected: np.ndarray, got: np.ndarray) -> float:
    noise = max(float(np.square(expected - got).sum()), 1e-30)
    return float(10 * np.log10(float(np.square(expected).sum()) / noise))
