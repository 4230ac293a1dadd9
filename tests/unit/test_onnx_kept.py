"""What a mixture keeps in float stays float in engines whose optimizers would quantize it again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantize_models import GraphBuilder

from edgekit.backends.onnx_kept import keep_averages, keep_float, quantized_again
from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize

IMAGE = [1, 3, 8, 8]
POLICY = load_target("onnxruntime").int8


def network():
    """Three convolutions and three products: those in the middle read integers and write for integers."""
    b = GraphBuilder()
    b.conv(b.conv(b.conv("image", "first", 3, 4), "middle", 4, 4), "last", 4, 4)
    b.add("Flatten", ["last"], "flat")
    b.add("Gemm", ["flat", b.weight("w0", 256, 8), b.weight("b0", 8)], "features")
    b.add("Gemm", ["features", b.weight("w1", 8, 8), b.weight("b1", 8)], "product")
    b.add("Add", ["product", "features"], "sum")
    b.add("Gemm", ["sum", b.weight("w2", 8, 5), b.weight("b2", 5)], "logits")
    return b.build({"image": IMAGE}, ["logits"])


def images(count=8):
    random = np.random.default_rng(0)
    return [{"image": random.standard_normal(IMAGE).astype(np.float32)} for _ in range(count)]


def mixture(keep):
    model = network()
    names = {n.output[0]: n.name for n in model.graph.node}
    options = QuantizationOptions(keep={names[output]: "float32" for output in keep}, rounding="nearest")
    found = calibrate(model, images(), policies=[POLICY])
    return quantize(model, calibration=found, policy=POLICY, options=options)[0]


def answer(model, folder, *, optimized):
    """The answer, and the operators that ONNX Runtime ran for it."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    if optimized:
        settings.optimized_model_filepath = str(folder / "optimized.onnx")
        settings.log_severity_level = 4
    else:
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    (logits,) = session.run(None, images()[0])
    ran = onnx.load(folder / "optimized.onnx").graph.node if optimized else ()
    return logits, [node.op_type for node in ran]


@pytest.mark.parametrize("output", ["middle", "product"])
def test_a_kept_operator_computes_in_float_after_all_optimizations(output, tmp_path, need):
    need("onnxruntime")
    model = mixture([output])
    expected, _ = answer(model, tmp_path, optimized=False)
    plain, before = answer(model, tmp_path, optimized=True)
    assert keep_float(model) == 1
    assert quantized_again(model) == []
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(answer(model, tmp_path, optimized=False)[0], expected)
    kept, after = answer(model, tmp_path, optimized=True)
    step = np.ptp(expected) / 255
    assert np.abs(kept - expected).max() < 0.01 * step
    assert np.abs(plain - expected).max() > 0.1 * step  # the trap itself: without this it is quantized
    integer = ("QLinearConv", "QGemm", "MatMulIntegerToFloat", "QLinearMatMul")
    assert sum(after.count(kind) for kind in integer) < sum(before.count(kind) for kind in integer)


def test_a_graph_without_kept_operators_is_left_as_it_is(need):
    need("onnxruntime")
    model = mixture([])
    before = model.SerializeToString(deterministic=True)
    assert keep_float(model) == 0
    assert model.SerializeToString(deterministic=True) == before


def test_data_of_a_single_element_has_no_axis_to_tell(need):
    need("onnxruntime")
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        onnx.helper.make_node("Gemm", ["d", "w"], ["y"]),
    ]
    constants = {"scale": np.float32(0.1), "zero": np.uint8(128), "w": np.ones((1, 2), np.float32)}
    info = onnx.helper.make_tensor_value_info
    x, y = (info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", [1, 1]), ("y", [1, 2])))
    graph = onnx.helper.make_graph(
        nodes, "one", [x], [y],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    model.graph.node[2].name = "alone"
    assert keep_float(model) == 0
    assert quantized_again(model) == ["alone"]


def averages(behind):
    """Integers, an AveragePool in float, and what reads it; weights so small that no sum saturates."""
    b = GraphBuilder()
    b.add("AveragePool", [b.conv("image", "first", 3, 4)], "pooled", kernel_shape=[3, 3], strides=[1, 1])
    if behind == "GlobalAveragePool":
        b.add("GlobalAveragePool", ["pooled"], "read")
    else:
        b.add("Mul", ["pooled", "pooled"], "read")
    b.conv("read", "last", 4, 4)
    model = b.build({"image": IMAGE}, ["last"])
    keep = {n.name: "float32" for n in model.graph.node[1:]}
    policy = load_target("openvino").int8
    found = calibrate(model, images(), policies=[policy])
    options = QuantizationOptions(keep=keep, rounding="nearest")
    return quantize(model, calibration=found, policy=policy, options=options)[0]


@pytest.mark.parametrize("behind", ["GlobalAveragePool", "Mul"])
def test_a_kept_average_is_not_rounded_in_openvino(behind, tmp_path, need):
    need("openvino")
    import openvino

    def off(model):
        onnx.save(model, tmp_path / "model.onnx")
        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(tmp_path / "model.onnx", "CPU", hint)
        return np.abs(compiled(images()[0])[0] - expected).max() / np.abs(expected).max()

    model = averages(behind)
    expected, _ = answer(model, tmp_path, optimized=False)
    before = off(model)
    assert keep_averages(model) == 1
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(answer(model, tmp_path, optimized=False)[0], expected)
    assert off(model) < 1e-5
    assert before > 1e-4  # the trap itself
