"""Magnitudes of a spectrum: evened out by a factor for each frequency, so that integers can read them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, run

from edgekit.core.codec import encode
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import CalibrationOptions, DataSource, QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.algorithms.equalization import even_spectra
from edgekit.quantize.calibrate import REWRITTEN, calibrate, calibrate_file
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.placement import place
from edgekit.quantize.qdq import quantize
from edgekit.quantize.spectra import magnitudes

ORT = load_target("onnxruntime").int8
LOUD = 128.0 ** -np.linspace(0, 1, 8)  # how loud each frequency of `sounds` is


def spectrogram(root="Sqrt", *, also_read_by=""):
    """Sound [1, 1, 256] to eight magnitudes in two convolutions, squared, summed, rooted; then two layers."""
    b = GraphBuilder()
    time = np.arange(32) / 32
    squares = []
    for name, wave in {"cos": np.cos, "sin": np.sin}.items():
        basis = np.stack([wave(2 * np.pi * f * time) for f in range(1, 9)])[:, None].astype(np.float32)
        part = b.add("Conv", ["sound", b.constant(f"{name}.w", basis)], name, strides=[32])
        squares.append(b.add("Mul", [part, part], f"{name}.power"))
    power = b.add("Add", squares, "power")
    exponent = [b.constant("half", np.float32(0.5))] if root == "Pow" else []
    read = b.add(root, [power, *exponent], "seen")
    outputs = [b.add(also_read_by, [read], "other")] if also_read_by else []
    weight = b.random.standard_normal((8, 8, 3)) / LOUD[:, None]  # every frequency counts
    for name, values in (("first", weight), ("second", b.random.standard_normal((8, 8, 3)))):
        values = b.constant(f"{name}.w", values.astype(np.float32))
        read = b.add("Relu", [b.add("Conv", [read, values], name, pads=[1, 1])], f"{name}.y")
    return b.build({"sound": [1, 1, 256]}, [read, *outputs])


def sounds(count=12):
    random, time = np.random.default_rng(1), np.arange(256) / 32
    waves = np.stack([np.sin(2 * np.pi * f * time) for f in range(1, 9)])
    return [{"sound": (random.uniform(0.1, 1, 8) * LOUD @ waves)[None, None].astype(np.float32)}
            for _ in range(count)]  # fmt: skip


def evened(model):
    found = [run(with_output(model, "seen"), s)["seen"] for s in sounds()]
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    seen = np.concatenate(found)
    names = even_spectra(copy, {"seen": (seen.max((0, 2)), np.square(seen).mean((0, 2)))})
    return copy, names


def with_output(model, name):
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    copy.graph.output.add().name = name
    return copy


def integers(model, policy=ORT):
    return {n.name for n in place(index_graph(model), policy, ()).weighted}


@pytest.mark.parametrize("root", ["Sqrt", "Pow"])
def test_roots_of_powers_that_layers_read_are_magnitudes(root):
    assert magnitudes(index_graph(spectrogram(root))) == ["seen"]


def test_logarithms_of_powers_and_what_something_else_reads_are_none():
    assert magnitudes(index_graph(spectrogram("Log"))) == []
    assert magnitudes(index_graph(spectrogram(also_read_by="Neg"))) == []


def test_an_evened_spectrum_answers_alike_and_its_reader_is_integer():
    model = spectrogram()
    even, names = evened(model)
    assert names == ["seen"]
    onnx.checker.check_model(even, full_check=True)
    assert integers(model) == {"second"}
    assert integers(even) == {"first", "second"}
    assert integers(even, replace(ORT, even_spectra=False)) == {"second"}
    for sound in sounds():  # powers of two: nothing is rounded but the order of sums
        np.testing.assert_allclose(run(even, sound)["second.y"], run(model, sound)["second.y"], rtol=1e-5)


def test_evened_magnitudes_lose_less_than_a_tenth_of_what_one_scale_for_all_loses():
    model = spectrogram()
    noises = []
    for graph, leave in ((model, False), (evened(model)[0], True)):
        found = calibrate(graph, sounds(), policies=[ORT], leave_float=leave)
        placed = place(index_graph(graph), ORT, (), leave_float=leave)
        assert {"first", "second"} <= {n.name for n in placed.weighted}
        options = QuantizationOptions(leave_float=leave)
        result, _ = quantize(graph, calibration=found, policy=ORT, options=options)
        noises.append(sum(float(np.square(run(result, s)["second.y"] - run(model, s)["second.y"]).sum())
                          for s in sounds()))  # fmt: skip
    assert noises[1] < 0.1 * noises[0]


def test_frequencies_that_are_alike_stay_as_they_are():
    model = spectrogram()
    alike = (np.ones(8), np.ones(8))
    weight = next(i for i in model.graph.initializer if i.name == "first.w")
    flat = np.random.default_rng(0).standard_normal((8, 8, 3)).astype(np.float32)
    weight.CopyFrom(onnx.numpy_helper.from_array(flat, "first.w"))
    before = model.SerializeToString()
    assert even_spectra(model, {"seen": alike}) == []
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("target", "rewritten"), [("onnxruntime", True), ("tflite", False)])
def test_calibration_writes_the_evened_graph_beside_its_ranges(tmp_path, target, rewritten):
    onnx.save(spectrogram(), tmp_path / "model.onnx")
    np.save(tmp_path / "samples.npy", np.concatenate([s["sound"] for s in sounds()]))
    sound = TensorSpec(name="sound", dtype="float32", shape=(1, 1, 256))
    calibrate_file(
        model=str(tmp_path / "model.onnx"), out=str(tmp_path / "found.json"),
        policies=[encode(load_target(target).int8)],
        options=encode(CalibrationOptions(data=DataSource(path=str(tmp_path / "samples.npy")))),
        signature=encode(Signature(inputs=(sound,), outputs=())),
    )  # fmt: skip
    ranges = json.loads(Path(tmp_path / "found.json").read_text(encoding="utf-8"))["ranges"]
    assert (tmp_path / REWRITTEN).is_file() == rewritten
    assert ("seen/even" in ranges) == rewritten
