"""The weights of LSTM, GRU and RNN in 8 bits: stored once, and what each step may be off by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper
from tflite_models import feeds, graph, invoke, lowered, reference, relative_error

from edgekit.backends.tflite.onnx_graph import read_graph
from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize
from edgekit.quantize.weights import quantize_weights

EXACT = 1e-5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
STEPS, INPUTS, HIDDEN = 5, 12, 16
RANDOM = np.random.default_rng(4)


def network(op, *, directions=1, steps=STEPS, inputs=INPUTS, hidden=HIDDEN, state=False, **attributes):
    """A recurrent layer over (T, 1, I); beside it a dense layer, so that something is in integers."""
    rows = GATES[op] * hidden
    size = hidden**-0.5
    constants = {
        "w": (RANDOM.standard_normal((directions, rows, inputs)) * size).astype(np.float32),
        "r": (RANDOM.standard_normal((directions, rows, hidden)) * size).astype(np.float32),
        "b": (RANDOM.standard_normal((directions, 2 * rows)) * 0.1).astype(np.float32),
        "dense": (RANDOM.standard_normal((inputs, 6)) * size).astype(np.float32),
    }
    ports = {"x": (steps, 1, inputs)} | ({"h": (directions, 1, hidden)} if state else {})
    nodes = [
        helper.make_node(
            op, ["x", "w", "r", "b", "", *(["h"] if state else [])], ["y"], name="layer", hidden_size=hidden,
            direction="bidirectional" if directions == 2 else "forward", **attributes,
        ),
        helper.make_node("MatMul", ["x", "dense"], ["logits"], name="dense"),
    ]  # fmt: skip
    return onnx.shape_inference.infer_shapes(graph(nodes, ports, ["y", "logits"], constants))


def int8(model, options=QuantizationOptions(rounding="nearest")):  # noqa: B008  (frozen)
    policy = load_target("tflite").int8
    samples = [feeds(model, seed) for seed in range(8)]
    return quantize(
        model, calibration=calibrate(model, samples, policies=[policy]), policy=policy, options=options
    )[0]


def stored(model, precision):
    return quantize_weights(model, policy=load_target("tflite").weights[precision])[0]


def initializers(model):
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


KINDS = [(op, directions) for op in GATES for directions in (1, 2)]


@pytest.mark.parametrize(("op", "directions"), KINDS)
def test_stored_weights_compute_what_they_decode_to(op, directions, tmp_path, need):
    need("ai_edge_litert")
    model = stored(network(op, directions=directions), "weight-int8")
    given = feeds(model)
    ran = invoke(lowered(model, tmp_path, "weight-int8"), given)
    for name, expected in reference(model, given).items():
        assert relative_error(ran.outputs[name], expected) < EXACT


@pytest.mark.parametrize(("op", "directions"), KINDS)
def test_products_that_quantize_at_run_time_read_codes(op, directions, tmp_path, need):
    need("ai_edge_litert")
    model = stored(network(op, directions=directions), "dynamic-int8")
    given = feeds(model)
    artifact = lowered(model, tmp_path, "dynamic-int8")
    for name, expected in reference(model, given).items():
        assert relative_error(invoke(artifact, given).outputs[name], expected) < 0.03  # 8 bits, a few steps
    assert "DEQUANTIZE" not in invoke(artifact, given).kinds


@pytest.mark.parametrize("reset", [0, 1])
@pytest.mark.parametrize(("op", "directions"), KINDS)
def test_int8_follows_its_qdq_graph_to_the_rounding_of_the_state(op, directions, reset, tmp_path, need):
    need("ai_edge_litert")
    options = {"linear_before_reset": reset} if op == "GRU" else {}
    model = int8(network(op, directions=directions, **options))
    given = feeds(model)
    artifact = lowered(model, tmp_path, "int8")
    got, expected = invoke(artifact, given).outputs["y"], reference(model, given)["y"]
    noise = np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2))
    assert 0 < noise < 0.01  # 40 dB; the state itself is rounded to 8 bits
    assert any("layer: each step quantizes its state at run time" in note for note in artifact.manifest.notes)


def test_one_step_is_no_further_off_than_the_note_says(tmp_path, need):
    """RNN with Relu far from its knee is linear: what is off is R times the rounding of the state alone."""
    need("ai_edge_litert")
    model = network("RNN", steps=2, state=True, activations=["Relu"])
    for tensor in model.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((1, 2 * HIDDEN), 20, np.float32), "b"))
    model = int8(model)
    given = feeds(model)
    ran = invoke(lowered(model, tmp_path, "int8"), given)
    off = np.abs(ran.outputs["y"] - reference(model, given)["y"])[0].ravel()  # of the first step
    constants = initializers(model)
    r = constants["r_codes"][0] * constants["r_scale"][:, None]
    state = np.append(given["h"], 0)
    bound = np.abs(r).sum(1) * (state.max() - state.min()) / 510
    assert np.all(off <= bound + 1e-5)
    assert off.max() > 0.02 * bound.max()  # it is that rounding which is seen


@pytest.mark.parametrize("op", ["LSTM", "GRU"])
def test_wide_layers_share_one_copy_of_their_codes(op, tmp_path, need):
    need("ai_edge_litert")
    model = int8(network(op, steps=12, hidden=320))
    given = feeds(model)
    artifact = lowered(model, tmp_path, "int8")
    got, expected = invoke(artifact, given).outputs["y"], reference(model, given)["y"]
    assert np.sqrt(np.mean((got - expected) ** 2) / np.mean(expected**2)) < 0.01
    codes = sum(t.size for name, t in initializers(model).items() if name in ("w_codes", "r_codes"))
    assert (artifact.folder / "model.tflite").stat().st_size < 1.5 * codes


def test_rows_too_short_to_gain_by_codes_stay_in_float():
    names = initializers(int8(network("LSTM", inputs=3)))
    assert "w" in names
    assert "r_codes" in names


def test_one_step_whose_state_the_caller_hands_on_stays_in_float():
    names = initializers(int8(network("LSTM", steps=1)))
    assert {"w", "r"} <= set(names)


def test_a_layer_that_is_kept_keeps_its_weights():
    model = network("GRU")
    options = QuantizationOptions(keep={"layer": "float32"}, rounding="nearest")
    assert {"w", "r"} <= set(initializers(int8(model, options)))


def test_weights_whose_scales_lie_along_another_axis_unpack_exactly(tmp_path, need):
    """A graph from elsewhere: one scale for each input is no scale for each row."""
    need("ai_edge_litert")
    model = stored(network("LSTM"), "weight-int8")
    for node in model.graph.node:
        if node.output[0] == "r":
            node.attribute[0].i = 2
    scales = next(t for t in model.graph.initializer if t.name == "r_scale")
    zeros = next(t for t in model.graph.initializer if t.name == "r_zero_point")
    steps = np.linspace(1e-3, 4e-3, HIDDEN, dtype=np.float32)
    scales.CopyFrom(onnx.numpy_helper.from_array(steps, "r_scale"))
    zeros.CopyFrom(onnx.numpy_helper.from_array(np.zeros(HIDDEN, np.int8), "r_zero_point"))
    given = feeds(model)
    ran = invoke(lowered(model, tmp_path, "weight-int8"), given)
    assert relative_error(ran.outputs["y"], reference(model, given)["y"]) < EXACT
    assert any("stay float32: r" in note for note in ran.artifact.manifest.notes)


def test_a_policy_without_stored_weights_leaves_recurrent_layers_alone(tmp_path):
    model = network("LSTM")
    policy = replace(load_target("tflite").int8, stored_weight_ops=())
    samples = [feeds(model, seed) for seed in range(4)]
    made, _ = quantize(model, calibration=calibrate(model, samples, policies=[policy]), policy=policy)
    onnx.save(made, tmp_path / "model.onnx")
    source, reasons = read_graph(tmp_path / "model.onnx")
    assert not reasons
    assert {"w", "r"} <= set(source.constants)
