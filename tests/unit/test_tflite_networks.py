"""Whole networks: channels-last without a transpose, fused, integer where the policy says so."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_models import Ran, feeds, invoke, lowered, reference, relative_error, steps_apart
from tflite_networks import NETWORKS, shuffle

from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize

MATRIX = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"}
STANDALONE = {"RELU", "RELU6"}
# float16 keeps 11 bits of every weight: 2^-12 relative each, some of it cancelling over a dozen layers.
FLOAT16_TOLERANCE = 5e-3
# Steps of the output quantizer between two integer engines: single values round differently and add up.
INT8_STEPS = 3


def quantized(model):
    policy = load_target("tflite").int8
    samples = [feeds(model, seed) for seed in range(1, 9)]
    return quantize(model, calibration=calibrate(model, samples, policies=[policy]), policy=policy)[0]


def ran(model, tmp_path, precision, **options) -> Ran:
    return invoke(lowered(model, tmp_path, precision, **options), feeds(model))


def only(outputs):
    (value,) = outputs.values()
    return value


@pytest.mark.parametrize("name", NETWORKS)
def test_a_float_network_answers_like_onnx_runtime_without_a_transpose(name, tmp_path, need):
    need("ai_edge_litert")
    model = NETWORKS[name]()
    answer = ran(model, tmp_path, "float32")
    assert relative_error(only(answer.outputs), only(reference(model, feeds(model)))) <= 1e-5
    assert answer.count("TRANSPOSE") == 0
    assert not STANDALONE & set(answer.kinds)


@pytest.mark.parametrize("name", NETWORKS)
def test_float16_weights_halve_the_file_and_stay_close(name, tmp_path, need):
    need("ai_edge_litert")
    model = NETWORKS[name]()
    answer = ran(model, tmp_path, "float16")
    assert relative_error(only(answer.outputs), only(reference(model, feeds(model)))) <= FLOAT16_TOLERANCE
    assert answer.count("TRANSPOSE") == 0
    constants = [d for d in answer.details if d.get("dtype") is np.float16]
    assert len(constants) == sum(kind in MATRIX for kind in answer.kinds)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_int8_network_runs_every_matrix_product_in_integers(name, tmp_path, need):
    need("ai_edge_litert")
    model = quantized(NETWORKS[name]())
    answer = ran(model, tmp_path, "int8")
    assert answer.count("TRANSPOSE") == 0
    assert answer.count("DELEGATE") == 1  # nothing falls out of XNNPACK and cuts the graph
    for kind in MATRIX & set(answer.kinds):
        assert answer.dtypes_of(kind) == {"int8"}
    (output,) = model.graph.output
    codes = next(n for n in model.graph.node if n.output[0] == output.name)
    assert codes.op_type == "DequantizeLinear"
    scales = {t.name: t for t in model.graph.initializer}
    scale = float(np.frombuffer(scales[codes.input[1]].raw_data, np.float32)[0])
    expected = only(reference(model, feeds(model)))
    assert steps_apart(only(answer.outputs), expected, scale).max() <= INT8_STEPS


@pytest.mark.parametrize("name", ["plain cnn", "unet"])
def test_int8_is_close_to_the_float_network(name, tmp_path, need):
    need("ai_edge_litert")
    model = NETWORKS[name]()
    expected = only(reference(model, feeds(model)))
    got = only(ran(quantized(model), tmp_path, "int8").outputs)
    sqnr_db = 10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum())
    assert sqnr_db > 25


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_channel_shuffle_needs_one_transpose_of_its_own(precision, tmp_path, need):
    need("ai_edge_litert")
    model = shuffle() if precision == "float32" else quantized(shuffle())
    answer = ran(model, tmp_path, precision)
    assert answer.count("TRANSPOSE") == 1
    assert relative_error(only(answer.outputs), only(reference(model, feeds(model)))) <= (
        1e-5 if precision == "float32" else 0.02
    )


def test_ports_are_channels_last_and_the_manifest_says_how(tmp_path):
    manifest = lowered(NETWORKS["unet"](), tmp_path).manifest
    (image,), (mask,) = manifest.inputs, manifest.outputs
    assert (image.name, image.shape, image.axes) == ("image", (1, 16, 16, 3), (0, 2, 3, 1))
    assert (mask.shape, mask.axes) == ((1, 16, 16, 2), (0, 2, 3, 1))


def test_the_source_layout_keeps_the_ports_and_costs_one_transpose_each(tmp_path, need):
    need("ai_edge_litert")
    model = NETWORKS["unet"]()
    answer = ran(model, tmp_path, "float32", layout="source")
    assert answer.artifact.manifest.inputs[0].axes == ()
    assert answer.count("TRANSPOSE") == 2
    assert relative_error(only(answer.outputs), only(reference(model, feeds(model)))) <= 1e-5


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_same_model_gives_the_same_bytes(precision, tmp_path):
    model = NETWORKS["mobilenet"]()
    model = quantized(model) if precision == "int8" else model
    first, second = (lowered(model, tmp_path / side, precision) for side in "ab")
    assert (first.folder / "model.tflite").read_bytes() == (second.folder / "model.tflite").read_bytes()
    assert first.manifest == second.manifest


def test_the_runtime_session_reads_the_artifact(tmp_path, need):
    need("ai_edge_litert")
    from edgekit.runtime import Session

    model = NETWORKS["unet"]()
    artifact = lowered(model, tmp_path)
    with Session(artifact.folder, layout="source") as session:
        got = session.run(feeds(model))
    assert relative_error(only(got), only(reference(model, feeds(model)))) <= 1e-5
