"""QDQ operators become one integer operator each, at most one step from ONNX Runtime on the same graph."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_models import SCALE, ZERO_POINT, Qdq, feeds, invoke, lowered, reference, steps_apart

from edgekit.errors import Unsupported

IMAGE = (1, 6, 9, 8)


def ints(*values):
    return np.asarray(values, np.int64)


def weighted(op, w_shape, x_shape=IMAGE, *, axis=0, out=0.2, activation="", bias=True, **attributes):
    """x -> op with int8 weights (and bias) [-> activation] -> quantizer."""
    b = Qdq()
    x = b.input("x", x_shape)
    w = b.weight("w", w_shape, axis=axis)
    y = b.add(op, [x, w, b.bias("b", w)] if bias else [x, w], "y", **attributes)
    if activation == "Clip":
        b.constants |= {"low": np.float32(0), "high": np.float32(6)}
        y = b.add("Clip", [y, "low", "high"], "a")
    elif activation:
        y = b.add(activation, [y], "a")
    return b.build(b.quantized(y, out, -3)), out


def binary(op, s_a=0.05, s_b=0.02, s_y=0.06, b_shape=IMAGE, activation=""):
    b = Qdq()
    y = b.add(op, [b.input("p", IMAGE, s_a, 4), b.input("q", b_shape, s_b, -9)], "y")
    if activation:
        y = b.add(activation, [y], "a")
    return b.build(b.quantized(y, s_y, 5)), s_y


def unary(op, out=SCALE, zero_point=ZERO_POINT, shape=IMAGE, **attributes):
    b = Qdq()
    return b.build(b.quantized(b.add(op, [b.input("x", shape)], "y", **attributes), out, zero_point)), out


def with_parameters(op, *parameters, shape=IMAGE, **attributes):
    """One activation, integer parameters, the same scale in and out."""
    b = Qdq()
    names = []
    for index, value in enumerate(parameters):
        b.constants[f"k{index}"] = value
        names.append(f"k{index}")
    y = b.add(op, [b.input("x", shape), *names], "y", **attributes)
    return b.build(b.quantized(y)), SCALE


def concat(scales):
    b = Qdq()
    parts = [b.input(f"x{i}", IMAGE, s) for i, s in enumerate(scales)]
    return b.build(b.quantized(b.add("Concat", parts, "y", axis=1))), SCALE


def constant_operand(op):
    b = Qdq()
    codes = np.random.default_rng(3).integers(-127, 128, (6, 1, 1)).astype(np.int8)
    y = b.add(op, [b.input("x", IMAGE), b.code("k", codes, 0.01, 3)], "y")
    return b.build(b.quantized(y, 0.08, 2)), 0.08


# case -> (model, output scale), the operator that must carry it in int8
INTEGER = {
    "conv": (weighted("Conv", (5, 6, 3, 3), pads=[1] * 4), "CONV_2D"),
    "conv relu": (weighted("Conv", (5, 6, 3, 3), pads=[1] * 4, activation="Relu"), "CONV_2D"),
    "conv relu6": (weighted("Conv", (5, 6, 3, 3), pads=[1] * 4, activation="Clip", out=0.05), "CONV_2D"),
    "conv without bias": (weighted("Conv", (5, 6, 3, 3), bias=False), "CONV_2D"),
    "conv padded": (weighted("Conv", (5, 6, 3, 3), strides=[2, 2], pads=[1] * 4), "CONV_2D"),
    "conv grouped": (weighted("Conv", (4, 3, 3, 3), group=2), "CONV_2D"),
    "conv dilated": (weighted("Conv", (4, 6, 3, 3), dilations=[2, 2]), "CONV_2D"),
    "conv 1d": (weighted("Conv", (4, 6, 3), (1, 6, 20)), "CONV_2D"),
    "depthwise": (weighted("Conv", (6, 1, 3, 3), group=6, pads=[1] * 4), "DEPTHWISE_CONV_2D"),
    "depthwise multiplier": (weighted("Conv", (12, 1, 3, 3), group=6), "DEPTHWISE_CONV_2D"),
    "transposed conv": (weighted("ConvTranspose", (6, 4, 2, 2), axis=1, strides=[2, 2]), "TRANSPOSE_CONV"),
    "transposed conv cut": (
        weighted("ConvTranspose", (6, 4, 3, 3), axis=1, strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
        "TRANSPOSE_CONV",
    ),
    "gemm transB": (weighted("Gemm", (5, 24), (3, 24), transB=1), "FULLY_CONNECTED"),
    "gemm": (weighted("Gemm", (24, 5), (3, 24), axis=1), "FULLY_CONNECTED"),
    "gemm relu": (weighted("Gemm", (5, 24), (3, 24), transB=1, activation="Relu"), "FULLY_CONNECTED"),
    "matmul": (weighted("MatMul", (24, 5), (2, 3, 24), axis=1, bias=False), "FULLY_CONNECTED"),
    "add": (binary("Add"), "ADD"),
    "add relu": (binary("Add", activation="Relu"), "ADD"),
    "add broadcast": (binary("Add", b_shape=(1, 6, 1, 1)), "ADD"),
    "sub": (binary("Sub"), "SUB"),
    "mul": (binary("Mul"), "MUL"),
    "mul broadcast": (binary("Mul", b_shape=(1, 6, 1, 1)), "MUL"),
    "add constant": (constant_operand("Add"), "ADD"),
    "mul constant": (constant_operand("Mul"), "MUL"),
    "sigmoid": (unary("Sigmoid", 1 / 256, -128), "LOGISTIC"),
    "tanh": (unary("Tanh", 1 / 128, 0), "TANH"),
    "leaky relu": (unary("LeakyRelu", 0.04, -3, alpha=0.1), "LEAKY_RELU"),
    "max pool": (unary("MaxPool", kernel_shape=[2, 2], strides=[2, 2]), "MAX_POOL_2D"),
    "max pool padded": (unary("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), "MAX_POOL_2D"),
    "average pool": (unary("AveragePool", 0.03, kernel_shape=[2, 2], strides=[2, 2]), "DEPTHWISE_CONV_2D"),
    "average pool counting pads": (
        unary("AveragePool", 0.03, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        "DEPTHWISE_CONV_2D",
    ),
    "global average pool": (unary("GlobalAveragePool", 0.02), "MEAN"),
    "reduce mean": (with_parameters("ReduceMean", ints(2, 3), keepdims=0), "MEAN"),
    "reduce max": (with_parameters("ReduceMax", ints(1)), "REDUCE_MAX"),
    "concat": (concat([SCALE, SCALE]), "CONCATENATION"),
    "reshape": (with_parameters("Reshape", ints(1, -1, 4)), "RESHAPE"),
    "transpose": (unary("Transpose", perm=[0, 3, 2, 1]), "TRANSPOSE"),
    "pad": (with_parameters("Pad", ints(0, 0, 1, 2, 0, 1, 0, 3)), "PAD"),
    "pad reflect": (with_parameters("Pad", ints(0, 0, 1, 2, 0, 0, 0, 3), mode="reflect"), "MIRROR_PAD"),
    "slice": (with_parameters("Slice", ints(1, -3), ints(4, 100), ints(1, 3)), "SLICE"),
    "slice steps": (with_parameters("Slice", ints(0), ints(9), ints(2), ints(2)), "STRIDED_SLICE"),
    "gather": (with_parameters("Gather", ints(2, 0), axis=1), "GATHER"),
    "depth to space": (unary("DepthToSpace", shape=(1, 8, 3, 2), blocksize=2), "DEPTH_TO_SPACE"),
    "space to depth": (unary("SpaceToDepth", shape=(1, 2, 6, 4), blocksize=2), "SPACE_TO_DEPTH"),
    "resize nearest": (
        with_parameters(
            "Resize",
            np.zeros(0, np.float32),
            np.float32([1, 1, 2, 2]),
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        "RESIZE_NEAREST_NEIGHBOR",
    ),
    "resize linear": (
        with_parameters("Resize", np.zeros(0, np.float32), np.float32([1, 1, 2, 2]), mode="linear"),
        "RESIZE_BILINEAR",
    ),
    "batched matmul": (
        (
            lambda b: (
                b.build(
                    b.quantized(
                        b.add(
                            "MatMul", [b.input("p", (2, 3, 4, 7)), b.input("q", (2, 3, 7, 5), 0.03, 0)], "y"
                        ),
                        0.1,
                    )
                ),
                0.1,
            )
        )(Qdq()),
        "BATCH_MATMUL",
    ),
}

# These have no int8 kernel in XNNPACK, or scales that the kernel cannot take: float between the quantizers.
ISLANDS = {
    "relu": unary("Relu", 0.03, -128),
    "hard swish": unary("HardSwish", 0.03),
    "gelu": unary("Gelu", 0.03),
    "softmax": unary("Softmax", 1 / 256, -128, axis=1),
    "sigmoid at another scale": unary("Sigmoid", 0.006, -100),
    "div": binary("Div", 0.05, 0.02, 0.5),
    "add beyond the ratio": binary("Add", 30.0, 0.02, 0.06),
    "mul beyond the ratio": binary("Mul", 30.0, 30.0, 0.06),
    "max pool to another scale": unary("MaxPool", 0.03, 0, kernel_shape=[2, 2]),
    "concat of scales": concat([SCALE, 0.02]),
    "average pool without pads": unary("AveragePool", 0.03, kernel_shape=[3, 3], pads=[1] * 4),
    "conv beyond the ratio": weighted("Conv", (5, 6, 3, 3), out=1e-6),
}


def answers(model, tmp_path, **options):
    values = feeds(model, scale=2.0)
    return invoke(lowered(model, tmp_path, "int8", **options), values), reference(model, values)


def worst_step(ran, expected, scale):
    return max(int(steps_apart(ran.outputs[name], wanted, scale).max()) for name, wanted in expected.items())


@pytest.mark.parametrize("case", INTEGER)
def test_a_quantized_operator_is_one_integer_operator(case, tmp_path, need):
    need("ai_edge_litert")
    (model, scale), kind = INTEGER[case]
    ran, expected = answers(model, tmp_path)
    assert ran.dtypes_of(kind) == {"int8"}
    assert ran.count("QUANTIZE") == len(model.graph.input)
    assert ran.count("DEQUANTIZE") == 1
    assert worst_step(ran, expected, scale) <= 1


@pytest.mark.parametrize("case", ISLANDS)
def test_what_has_no_integer_kernel_is_exact_in_float_between_quantizers(case, tmp_path, need):
    need("ai_edge_litert")
    model, scale = ISLANDS[case]
    ran, expected = answers(model, tmp_path)
    assert worst_step(ran, expected, scale) <= 1


@pytest.mark.parametrize("case", ["conv", "depthwise", "gemm", "matmul", "transposed conv"])
def test_a_weight_scale_that_is_off_by_a_twentieth_is_noticed(case, tmp_path, need):
    """The comparison itself: LiteRT running the wrong scales must not pass."""
    need("ai_edge_litert")
    (model, scale), _ = INTEGER[case]
    values = feeds(model, scale=2.0)
    expected = reference(model, values)
    wrong = type(model)()
    wrong.CopyFrom(model)
    scales = next(t for t in wrong.graph.initializer if t.name == "w.s")
    scales.raw_data = (np.frombuffer(scales.raw_data, np.float32) * np.float32(1.05)).tobytes()
    bias = [t for t in wrong.graph.initializer if t.name == "b.s"]
    for tensor in bias:
        tensor.raw_data = (np.frombuffer(scales.raw_data, np.float32) * np.float32(SCALE)).tobytes()
    assert worst_step(invoke(lowered(wrong, tmp_path, "int8"), values), expected, scale) > 1


def test_the_scales_of_the_file_are_those_of_the_graph(tmp_path, need):
    need("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    (model, _), _ = INTEGER["conv relu"]
    artifact = lowered(model, tmp_path, "int8")
    details = Interpreter(str(artifact.folder / "model.tflite")).get_tensor_details()
    by_name = {d["name"]: d["quantization_parameters"] for d in details}
    constants = {
        t.name: np.frombuffer(t.raw_data, np.float32) for t in model.graph.initializer if t.data_type == 1
    }
    np.testing.assert_array_equal(by_name["w"]["scales"], constants["w.s"])
    np.testing.assert_array_equal(by_name["b"]["scales"], constants["b.s"])
    assert by_name["x:int8"]["scales"] == np.float32(SCALE)
    assert by_name["x:int8"]["zero_points"] == ZERO_POINT
    assert (by_name["a"]["scales"], by_name["a"]["zero_points"]) == (np.float32(0.2), -3)


def test_quantized_io_makes_ports_int8_and_says_their_scale(tmp_path, need):
    need("ai_edge_litert")
    (model, scale), _ = INTEGER["conv"]
    ran, expected = answers(model, tmp_path, quantized_io=True)
    (x,), (y,) = ran.artifact.manifest.inputs, ran.artifact.manifest.outputs
    assert (x.dtype, x.scale, x.zero_point) == ("int8", pytest.approx(SCALE), ZERO_POINT)
    assert (y.dtype, y.scale, y.zero_point) == ("int8", pytest.approx(scale), -3)
    assert (ran.count("QUANTIZE"), ran.count("DEQUANTIZE")) == (0, 0)
    assert worst_step(ran, expected, scale) <= 1


def test_uint8_codes_become_int8_with_the_same_meaning(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    x = b.input("x", IMAGE, SCALE, 0)
    w = b.weight("w", (5, 6, 3, 3), axis=0)
    model_y = b.quantized(b.add("Conv", [x, w], "y"), 0.2, 0)
    b.constants["x.z"], b.constants["y.z"] = np.uint8(120), np.uint8(100)
    ran, expected = answers(b.build(model_y), tmp_path)
    assert ran.dtypes_of("CONV_2D") == {"int8"}
    assert worst_step(ran, expected, 0.2) <= 1


def test_a_reshape_without_a_quantizer_behind_it_stays_in_integers(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    flat = b.add("Flatten", [b.input("x", (2, 3, 4, 4))], "f")
    y = b.add("Gemm", [flat, b.weight("w", (5, 48), axis=0)], "y", transB=1)
    ran, expected = answers(b.build(b.quantized(y, 0.2)), tmp_path)
    assert ran.dtypes_of("FULLY_CONNECTED") == {"int8"}
    assert ran.count("TRANSPOSE") == 0
    assert worst_step(ran, expected, 0.2) <= 1


def test_a_clip_no_kernel_fuses_keeps_the_convolution_in_integers(tmp_path, need):
    need("ai_edge_litert")
    b = Qdq()
    b.constants |= {"low": np.float32(-1.5), "high": np.float32(4)}
    y = b.add("Conv", [b.input("x", IMAGE), b.weight("w", (5, 6, 3, 3), axis=0)], "y")
    model = b.build(b.quantized(b.add("Clip", [y, "low", "high"], "a"), 0.1, -3))
    ran, expected = answers(model, tmp_path)
    assert ran.dtypes_of("CONV_2D") == {"int8"}
    assert worst_step(ran, expected, 0.1) <= 1


def test_a_bias_at_another_scale_than_the_kernel_uses_is_refused(tmp_path):
    b = Qdq()
    x, w = b.input("x", IMAGE), b.weight("w", (5, 6, 3, 3), axis=0)
    model = b.build(b.quantized(b.add("Conv", [x, w, b.bias("b", w, x_scale=0.06)], "y"), 0.2))
    with pytest.raises(Unsupported, match="product of the scales"):
        lowered(model, tmp_path, "int8")
    assert not (tmp_path / "int8").exists()


def test_int8_of_a_float_graph_is_refused(tmp_path):
    from tflite_models import single

    with pytest.raises(Unsupported, match="QDQ"):
        lowered(single("Relu", IMAGE), tmp_path, "int8")
