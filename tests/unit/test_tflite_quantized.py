"""Quantizers as operators, and operators on codes, against ONNX Runtime: equal codes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from tflite_models import feeds, graph, invoke, lowered, reference, relative_error, single, steps_apart

from edgekit.backends.tflite import why_not
from edgekit.core.target import load_target

RANDOM = np.random.default_rng(17)
F = np.float32


def codes(*shape):
    """int8 weights of 7 bits: with 8 ONNX Runtime's own products saturate on CPUs without VNNI."""
    return RANDOM.integers(-63, 64, shape).astype(np.int8)


EXACT = {
    "quantize to int8": single("QuantizeLinear", (2, 3, 4), F(0.013), np.int8(-3)),
    "quantize to uint8": single("QuantizeLinear", (2, 3, 4), F(0.013), np.uint8(130)),
    "quantize by channel": single(
        "QuantizeLinear", (2, 3, 4), F([0.01, 0.02, 0.03]), np.int8([1, 0, -5]), axis=1
    ),
    "quantize with a computed zero point": single("QuantizeLinear", (2, 3), F(0.02), ((), "uint8")),
    "dequantize int8": single("DequantizeLinear", ((2, 3, 4), "int8"), F(0.013), np.int8(-3)),
    "dequantize uint8": single("DequantizeLinear", ((2, 3, 4), "uint8"), F(0.013), np.uint8(130)),
    "dequantize int32": single("DequantizeLinear", ((2, 3, 4), "int32"), F(0.013)),
    "dequantize by channel": single(
        "DequantizeLinear", ((2, 3), "int8"), F([0.1, 0.2, 0.3]), np.int8([1, 0, 2]), axis=1
    ),
    "DynamicQuantizeLinear": single("DynamicQuantizeLinear", (2, 3, 4), outputs=3),
    "MatMulInteger": single("MatMulInteger", ((3, 9), "uint8"), codes(9, 5), np.uint8(12), np.int8(3)),
    "MatMulInteger of inputs": single("MatMulInteger", ((2, 3, 9), "int8"), ((9, 5), "uint8")),
    "MatMulInteger by column": single(
        "MatMulInteger", ((3, 9), "uint8"), codes(9, 5), np.uint8(12), codes(5)
    ),
    "MatMulInteger of long rows": single("MatMulInteger", ((3, 700), "uint8"), codes(700, 5), np.uint8(255)),
    "ConvInteger": single(
        "ConvInteger", ((1, 2, 5, 6), "uint8"), codes(3, 2, 3, 3), np.uint8(9), pads=[1] * 4
    ),
}


def integers(model, seed=0):
    """Seeded values, codes over their whole range."""
    random, given = np.random.default_rng(seed), feeds(model, seed)
    for name, value in given.items():
        if value.dtype in (np.int8, np.uint8, np.int32):
            info = np.iinfo(value.dtype if value.dtype != np.int32 else np.int16)
            given[name] = random.integers(info.min, info.max + 1, value.shape).astype(value.dtype)
    return given


@pytest.mark.parametrize("case", EXACT)
def test_codes_are_those_of_onnx_runtime(case, tmp_path, need):
    need("ai_edge_litert")
    given = integers(EXACT[case])
    ran, expected = (
        invoke(lowered(EXACT[case], tmp_path, layout="source"), given),
        reference(EXACT[case], given),
    )
    for name, wanted in expected.items():
        if wanted.dtype == np.float32:
            assert relative_error(ran.outputs[name], wanted) <= 1e-6, name
        else:
            assert ran.outputs[name].dtype == wanted.dtype
            np.testing.assert_array_equal(ran.outputs[name], wanted, err_msg=name)


def qlinear(op, weights, shape, *more, axis_scales=True, **attributes):
    """float -> codes -> operator on codes -> float, as quantizers of older exporters write it."""
    count = weights.shape[0] if op == "QLinearConv" else weights.shape[1]
    scales = F(np.linspace(0.01, 0.02, count)) if axis_scales else F(0.015)
    constants = {
        "xs": F(0.05), "xz": np.uint8(120), "w": weights, "ws": scales,
        "wz": np.zeros(scales.shape, np.int8), "ys": F(0.4), "yz": np.uint8(110),
    }  # fmt: skip
    inputs = ["c", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    for index, value in enumerate(more):
        constants[f"m{index}"] = value
        inputs.append(f"m{index}")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["c"]),
        helper.make_node(op, inputs, ["d"], name="node", **attributes),
        helper.make_node("DequantizeLinear", ["d", "ys", "yz"], ["y"]),
    ]
    return graph(nodes, {"x": shape}, ["y"], constants)


QLINEAR = {
    "QLinearConv": (qlinear("QLinearConv", codes(5, 6, 3, 3), (1, 6, 9, 8), pads=[1] * 4), "CONV_2D"),
    "QLinearConv with bias": (
        qlinear("QLinearConv", codes(5, 6, 3, 3), (1, 6, 9, 8), np.int32([10, -900, 4000, 0, 77])),
        "CONV_2D",
    ),
    "QLinearMatMul": (qlinear("QLinearMatMul", codes(24, 5), (3, 24), axis_scales=False), "FULLY_CONNECTED"),
}


@pytest.mark.parametrize("case", QLINEAR)
def test_an_operator_on_codes_is_one_integer_operator(case, tmp_path, need):
    need("ai_edge_litert")
    model, kind = QLINEAR[case]
    given = feeds(model, scale=2.0)
    ran, expected = invoke(lowered(model, tmp_path, "int8"), given), reference(model, given)
    assert ran.dtypes_of(kind) == {"int8"}
    assert steps_apart(ran.outputs["y"], expected["y"], 0.4).max() <= 1


def test_an_int8_output_of_the_model_holds_the_codes_themselves(tmp_path, need):
    need("ai_edge_litert")
    model = single("QuantizeLinear", (2, 3), F(0.02), np.int8(4))
    (port,) = lowered(model, tmp_path).manifest.outputs
    assert (port.dtype, port.scale) == ("int8", 0.0)


def test_integer_convolutions_that_float_cannot_add_exactly_are_refused(tmp_path):
    model = single("ConvInteger", ((1, 64, 5, 6), "uint8"), codes(3, 64, 3, 3))
    onnx.save(model, tmp_path / "model.onnx")
    (reason, *_) = why_not(tmp_path / "model.onnx", load_target("tflite"), "float32")
    assert reason.node == "node"
    assert "ConvInteger" in reason.why
