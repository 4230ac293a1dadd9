"""The QDQ writer, judged by the checker and by ONNX Runtime."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, classifier, pictures, run

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.algorithms.bias_correction import output_shift
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize

TARGETS = ("tflite", "onnxruntime", "onnxruntime-exact", "openvino")


def quantized(model, target, samples=None, **options):
    policy = load_target(target).int8
    found = calibrate(model, samples or pictures(16), policies=[policy])
    graph, placement = quantize(model, calibration=found, policy=policy, **options)
    onnx.checker.check_model(graph, full_check=True)
    return graph, placement


def sqnr_db(expected, got):
    return 10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum())


@pytest.mark.parametrize("target", TARGETS)
def test_the_quantized_graph_answers_like_the_float_one(target):
    model, samples = classifier(), pictures(32)
    graph, _ = quantized(model, target, samples)
    expected = np.concatenate([run(model, s)["logits"] for s in samples])
    got = np.concatenate([run(graph, s)["logits"] for s in samples])
    assert sqnr_db(expected, got) > 25.0


@pytest.mark.parametrize("target", TARGETS)
def test_names_shapes_and_order_of_inputs_and_outputs_are_kept(target):
    model = classifier()
    graph, _ = quantized(model, target)
    assert [(i.name, i.type) for i in graph.graph.input] == [(i.name, i.type) for i in model.graph.input]
    assert [(o.name, o.type) for o in graph.graph.output] == [(o.name, o.type) for o in model.graph.output]


def test_the_same_inputs_give_the_same_bytes():
    first, second = (quantized(classifier(), "tflite")[0] for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)


def test_onnx_runtime_fuses_every_convolution_and_product(tmp_path):
    import onnxruntime as ort

    graph, _ = quantized(classifier(), "onnxruntime")
    settings = ort.SessionOptions()
    settings.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    settings.log_severity_level = 3
    ort.InferenceSession(graph.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    ops = Counter(n.op_type for n in onnx.load(str(tmp_path / "optimized.onnx")).graph.node)
    assert ops["QLinearConv"] == 3
    assert ops["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "Clip"} & set(ops)


def test_no_code_can_saturate_the_multiply_add():
    import onnxruntime as ort

    graph, _ = quantized(classifier(), "onnxruntime")
    fast = run(graph, pictures(1)[0], optimize=True)["logits"]
    settings = ort.SessionOptions()
    settings.add_session_config_entry("session.x64quantprecision", "1")
    settings.log_severity_level = 3
    session = ort.InferenceSession(graph.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(fast, session.run(["logits"], pictures(1)[0])[0])
    codes = [onnx.numpy_helper.to_array(t) for t in graph.graph.initializer if t.name.endswith("w_codes")]
    assert max(np.abs(c.astype(np.int32)).max() for c in codes) > 63  # and yet not 7 bits


def test_every_bias_lies_at_input_scale_times_weight_scale():
    graph, _ = quantized(classifier(), "tflite")
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    makers = {o: n for n in graph.graph.node for o in n.output}
    checked = 0
    for node in graph.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        data, weight, bias = (constants[makers[i].input[1]] for i in node.input)
        np.testing.assert_allclose(bias, data * weight, rtol=1e-6)
        checked += 1
    assert checked == 4


def test_bias_correction_moves_the_mean_back():
    model = classifier()
    samples = pictures(64)
    expected = np.mean([run(model, s)["logits"] for s in samples], axis=0)
    errors = {}
    policy = replace(load_target("onnxruntime").int8, weight_bits=7)  # coarse weights: their error counts
    found = calibrate(model, samples, policies=[policy])
    for corrected in (False, True):
        options = QuantizationOptions(bias_correction="analytic" if corrected else "none")
        graph, _ = quantize(model, calibration=found, policy=policy, options=options)
        errors[corrected] = np.abs(np.mean([run(graph, s)["logits"] for s in samples], axis=0) - expected)
    assert errors[True].max() < 0.5 * errors[False].max()


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_the_predicted_shift_is_what_the_operator_does_to_a_constant_input(op_type, group):
    b = GraphBuilder()
    shape = (6, 4 // group, 3, 3) if op_type == "Conv" else (4, 6 // group, 3, 3)
    error = b.weight("error", *shape)
    b.add(op_type, ["image", error], "y", group=group)
    model = b.build({"image": [1, 4, 9, 9]}, ["y"])
    mean = np.array([0.5, -1.0, 2.0, 0.25])
    image = np.broadcast_to(mean.reshape(1, 4, 1, 1), (1, 4, 9, 9)).astype(np.float32)
    inner = run(model, {"image": image})["y"][0, :, 3, 3]
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    np.testing.assert_allclose(output_shift(weights, mean, op_type=op_type, group=group), inner, atol=1e-5)


def test_an_output_that_is_also_read_keeps_its_name_and_its_reader():
    b = GraphBuilder()
    first = b.conv("image", "first", 3, 4)
    b.conv(first, "second", 4, 4)
    model = b.build({"image": [1, 3, 8, 8]}, ["first", "second"])
    graph, _ = quantized(model, "tflite")
    image = pictures(1)[0]
    expected, got = run(model, image), run(graph, image)
    for name in ("first", "second"):
        assert sqnr_db(expected[name], got[name]) > 25.0


def test_a_requantized_edge_keeps_the_values():
    b = GraphBuilder()
    gate = b.add("Sigmoid", [b.conv("image", "conv", 3, 4)], "gate")
    b.add("Concat", [gate, b.conv("image", "other", 3, 4)], "joined", axis=1)
    model = b.build({"image": [1, 3, 8, 8]}, ["joined"])
    graph, _ = quantized(model, "tflite")
    image = pictures(1)[0]
    assert sqnr_db(run(model, image)["joined"], run(graph, image)["joined"]) > 25.0


def test_a_constant_operand_is_coded_like_an_activation():
    b = GraphBuilder()
    b.add("Mul", [b.conv("image", "conv", 3, 4), b.weight("factor", 1, 4, 1, 1)], "scaled")
    model = b.build({"image": [1, 3, 8, 8]}, ["scaled"])
    graph, placement = quantized(model, "tflite")
    assert placement.constants == (("scaled", "factor"),)
    image = pictures(1)[0]
    assert sqnr_db(run(model, image)["scaled"], run(graph, image)["scaled"]) > 25.0


def test_a_weight_shared_by_two_nodes_is_coded_for_each():
    b = GraphBuilder()
    weight = b.weight("w", 3, 3, 3, 3)
    first = b.add("Conv", ["image", weight], "first", pads=[1, 1, 1, 1])
    b.add("Conv", [first, weight], "second", pads=[1, 1, 1, 1])
    model = b.build({"image": [1, 3, 8, 8]}, ["second"])
    graph, _ = quantized(model, "tflite")
    image = pictures(1)[0]
    assert sqnr_db(run(model, image)["second"], run(graph, image)["second"]) > 25.0
