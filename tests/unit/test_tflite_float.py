"""Every float operator against ONNX Runtime: within 1e-5 of the largest magnitude."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_models import feeds, invoke, lowered, reference, relative_error, single

TOLERANCE = 1e-5
RANDOM = np.random.default_rng(7)


def weights(*shape: int) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * 0.4).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


F = np.float32
IMAGE = (1, 6, 9, 8)
CASES = {
    "conv same": single("Conv", IMAGE, weights(5, 6, 3, 3), weights(5), pads=[1, 1, 1, 1]),
    "conv without bias": single("Conv", IMAGE, weights(5, 6, 3, 3)),
    "conv stride 2 pads on even and odd sizes": single(
        "Conv", IMAGE, weights(5, 6, 3, 3), pads=[1] * 4, strides=[2, 2]
    ),
    "conv one-sided pads": single("Conv", IMAGE, weights(5, 6, 3, 2), pads=[2, 0, 1, 1]),
    "conv dilated": single("Conv", IMAGE, weights(5, 6, 3, 3), pads=[2] * 4, dilations=[2, 2]),
    "conv grouped": single("Conv", IMAGE, weights(4, 3, 3, 3), weights(4), pads=[1] * 4, group=2),
    "conv depthwise": single("Conv", IMAGE, weights(6, 1, 3, 3), weights(6), pads=[1] * 4, group=6),
    "conv depthwise multiplier stride": single(
        "Conv", IMAGE, weights(12, 1, 3, 3), weights(12), pads=[1] * 4, strides=[2, 2], group=6
    ),
    "conv depthwise dilated": single(
        "Conv", IMAGE, weights(6, 1, 3, 3), pads=[2] * 4, dilations=[2, 2], group=6
    ),
    "conv auto_pad lower": single("Conv", IMAGE, weights(5, 6, 2, 2), auto_pad="SAME_LOWER"),
    "conv auto_pad upper stride": single(
        "Conv", IMAGE, weights(5, 6, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]
    ),
    "conv 1d": single("Conv", (2, 4, 11), weights(5, 4, 3), weights(5), pads=[1, 1], strides=[2]),
    "conv 1d depthwise": single("Conv", (1, 4, 11), weights(4, 1, 5), pads=[4, 0], group=4),
    "conv batch": single("Conv", (3, 2, 5, 5), weights(4, 2, 1, 1)),
    "transposed conv k2s2": single("ConvTranspose", IMAGE, weights(6, 4, 2, 2), weights(4), strides=[2, 2]),
    "transposed conv k3s2p1op1": single(
        "ConvTranspose",
        IMAGE,
        weights(6, 4, 3, 3),
        weights(4),
        strides=[2, 2],
        pads=[1] * 4,
        output_padding=[1, 1],
    ),
    "transposed conv k5s2p2op1": single(
        "ConvTranspose", IMAGE, weights(6, 4, 5, 5), strides=[2, 2], pads=[2] * 4, output_padding=[1, 1]
    ),
    "transposed conv k4s2p1": single(
        "ConvTranspose", IMAGE, weights(6, 4, 4, 4), strides=[2, 2], pads=[1] * 4
    ),
    "transposed conv output padding without pads": single(
        "ConvTranspose", IMAGE, weights(6, 4, 3, 3), weights(4), strides=[2, 2], output_padding=[1, 1]
    ),
    "transposed conv dilated": single(
        "ConvTranspose", IMAGE, weights(6, 4, 3, 3), dilations=[2, 2], strides=[2, 2]
    ),
    "transposed conv same upper": single(
        "ConvTranspose", IMAGE, weights(6, 4, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "transposed conv output shape": single(
        "ConvTranspose", IMAGE, weights(6, 4, 3, 3), strides=[2, 2], output_shape=[18, 16]
    ),
    "transposed conv 1d": single(
        "ConvTranspose", (1, 4, 7), weights(4, 3, 4), weights(3), strides=[2], pads=[1, 1]
    ),
    "gemm": single("Gemm", (2, 7), weights(7, 5), weights(5)),
    "gemm transB": single("Gemm", (2, 7), weights(5, 7), weights(5), transB=1),
    "gemm transA alpha beta": single(
        "Gemm", (7, 2), weights(7, 5), weights(5), transA=1, alpha=0.5, beta=2.0
    ),
    "gemm matrix bias": single("Gemm", (2, 7), weights(7, 5), weights(2, 5)),
    "gemm computed": single("Gemm", (2, 7), (5, 7), weights(5), transB=1, alpha=0.5),
    "matmul constant": single("MatMul", (2, 3, 7), weights(7, 5)),
    "matmul constant 2d": single("MatMul", (3, 7), weights(7, 5)),
    "matmul constant vector": single("MatMul", (2, 3, 7), weights(7)),
    "matmul vector by constant": single("MatMul", (7,), weights(7, 5)),
    "matmul computed": single("MatMul", (2, 3, 4, 7), (2, 3, 7, 5)),
    "matmul computed broadcast": single("MatMul", (2, 3, 4, 7), (3, 7, 5)),
    "matmul constant left": single("MatMul", weights(4, 7), (2, 7, 5)),
    "add": single("Add", IMAGE, IMAGE),
    "add channel constant": single("Add", IMAGE, weights(6, 1, 1)),
    "add scalar": single("Add", IMAGE, np.float32(0.7)),
    "add lower rank": single("Add", IMAGE, (9, 8)),
    "sub": single("Sub", IMAGE, (1, 6, 1, 1)),
    "sub constant left": single("Sub", weights(6, 1, 1), IMAGE),
    "mul": single("Mul", IMAGE, (1, 6, 1, 1)),
    "div constant": single("Div", IMAGE, weights(8) + 3),
    "int64 add": single("Add", ((4,), "int64"), ints(1, 2, 3, 4)),
    "max of three": single("Max", (2, 5), (5,), weights(2, 1)),
    "min": single("Min", (2, 5), (2, 5)),
    "sum": single("Sum", (2, 5), (2, 5), (2, 5)),
    "pow 2": single("Pow", IMAGE, F(2.0)),
    "pow 3": single("Pow", IMAGE, F(3.0)),
    "abs": single("Abs", IMAGE),
    "neg": single("Neg", IMAGE),
    "exp": single("Exp", IMAGE),
    "floor": single("Floor", IMAGE),
    "round": single("Round", IMAGE),
    "sin": single("Sin", IMAGE),
    "cos": single("Cos", IMAGE),
    "ceil": single("Ceil", IMAGE),
    "sign": single("Sign", IMAGE),
    "less or equal": single("LessOrEqual", ((2, 5), "int32"), ((2, 5), "int32")),
    "greater": single("Greater", (2, 5), (5,)),
    "greater or equal": single("GreaterOrEqual", ((2, 5), "int64"), ((5,), "int64")),
    "or": single("Or", ((2, 5), "bool"), ((2, 5), "bool")),
    "reduce prod": single("ReduceProd", (2, 5), ints(1)),
    "arg min": single("ArgMin", IMAGE, axis=2),
    "less": single("Less", (2, 5), (5,)),
    "equal": single("Equal", ((2, 5), "int64"), ints(1)),
    "not": single("Not", ((2, 5), "bool")),
    "and": single("And", ((2, 5), "bool"), ((2, 5), "bool")),
    "where": single("Where", ((2, 5), "bool"), (2, 5), F(0.0)),
    "cast to int32": single("Cast", (2, 5), to=6),
    "cast from bool": single("Cast", ((2, 5), "bool"), to=1),
    "relu": single("Relu", IMAGE),
    "clip 0 6": single("Clip", IMAGE, F(0), F(6)),
    "clip -1 1": single("Clip", IMAGE, F(-1), F(1)),
    "clip odd": single("Clip", IMAGE, F(-0.3), F(0.8)),
    "clip min only": single("Clip", IMAGE, F(-0.3)),
    "leaky relu": single("LeakyRelu", IMAGE, alpha=0.2),
    "prelu channels": single("PRelu", IMAGE, weights(6, 1, 1)),
    "prelu one": single("PRelu", IMAGE, weights(1)),
    "prelu 2d": single("PRelu", (3, 5), weights(5)),
    "elu": single("Elu", IMAGE),
    "elu alpha": single("Elu", IMAGE, alpha=0.5),
    "selu": single("Selu", IMAGE),
    "sigmoid": single("Sigmoid", IMAGE),
    "tanh": single("Tanh", IMAGE),
    "hard sigmoid": single("HardSigmoid", IMAGE, alpha=1 / 6, beta=0.5),
    "hard swish": single("HardSwish", IMAGE),
    "gelu": single("Gelu", IMAGE),
    "gelu tanh": single("Gelu", IMAGE, approximate="tanh"),
    "softplus": single("Softplus", IMAGE),
    "softmax last": single("Softmax", (2, 5), axis=-1),
    "softmax channels": single("Softmax", IMAGE, axis=1),
    "log softmax": single("LogSoftmax", (2, 5), axis=-1),
    "max pool": single("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "max pool padded": single("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "max pool ceil": single("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "max pool 1d": single("MaxPool", (1, 4, 11), kernel_shape=[3], strides=[2]),
    "average pool": single("AveragePool", IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    "average pool same": single("AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1] * 4),
    "average pool counting pads": single(
        "AveragePool", IMAGE, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1
    ),
    "average pool odd pads": single("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "average pool ceil": single("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average pool ceil counting pads": single(
        "AveragePool",
        IMAGE,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1] * 4,
        ceil_mode=1,
        count_include_pad=1,
    ),
    "global average pool": single("GlobalAveragePool", IMAGE),
    "global max pool": single("GlobalMaxPool", IMAGE),
    "reduce mean": single("ReduceMean", IMAGE, ints(2, 3), keepdims=0),
    "reduce mean channels": single("ReduceMean", IMAGE, ints(1)),
    "reduce mean all": single("ReduceMean", IMAGE, keepdims=0),
    "reduce sum negative axis": single("ReduceSum", IMAGE, ints(-1)),
    "reduce max": single("ReduceMax", IMAGE, ints(1, 2), keepdims=0),
    "reduce min": single("ReduceMin", IMAGE, ints(2)),
    "arg max": single("ArgMax", IMAGE, axis=1),
    "arg max without dims": single("ArgMax", IMAGE, axis=-1, keepdims=0),
    "concat channels": single("Concat", IMAGE, IMAGE, axis=1),
    "concat constant": single("Concat", (2, 3), weights(2, 2), axis=-1),
    "flatten": single("Flatten", IMAGE),
    "flatten axis 2": single("Flatten", IMAGE, axis=2),
    "reshape": single("Reshape", IMAGE, ints(1, -1, 4)),
    "transpose": single("Transpose", IMAGE, perm=[0, 3, 2, 1]),
    "transpose 5d": single("Transpose", (1, 2, 3, 4, 5), perm=[0, 2, 1, 4, 3]),
    "squeeze to a scalar": single("Squeeze", (1, 1)),
    "squeeze": single("Squeeze", (1, 3, 1, 4), ints(0, 2)),
    "unsqueeze": single("Unsqueeze", (3, 4), ints(0, 3)),
    "pad": single("Pad", IMAGE, ints(0, 0, 1, 2, 0, 1, 0, 3)),
    "pad value": single("Pad", IMAGE, ints(0, 0, 1, 2, 0, 1, 0, 3), F(1.5)),
    "pad axes": single("Pad", IMAGE, ints(1, 2), None, ints(3)),
    "pad reflect": single("Pad", IMAGE, ints(0, 0, 1, 2, 0, 0, 2, 1), mode="reflect"),
    "slice": single("Slice", IMAGE, ints(1, -3), ints(4, 100), ints(1, 3)),
    "slice steps": single("Slice", IMAGE, ints(0, 1), ints(9, 100), ints(2, 3), ints(2, 3)),
    "slice backwards": single("Slice", IMAGE, ints(-1), ints(-1000), ints(3), ints(-1)),
    "gather one": single("Gather", IMAGE, np.int64(-2), axis=1),
    "gather many": single("Gather", IMAGE, ints(2, 0, -1), axis=2),
    "gather computed": single("Gather", weights(5, 4), ((3,), "int64")),
    "depth to space": single("DepthToSpace", (1, 8, 3, 2), blocksize=2),
    "depth to space crd": single("DepthToSpace", (1, 8, 3, 2), blocksize=2, mode="CRD"),
    "space to depth": single("SpaceToDepth", (1, 2, 6, 4), blocksize=2),
    "expand": single("Expand", (1, 3, 1), ints(2, 3, 4)),
    "batch normalization": single(
        "BatchNormalization", IMAGE, weights(6), weights(6), weights(6), np.abs(weights(6)) + 0.5
    ),
    "layer normalization": single("LayerNormalization", (2, 3, 8), weights(8), weights(8), axis=-1),
    "layer normalization two axes": single("LayerNormalization", (2, 3, 8), weights(3, 8), axis=1),
    "identity": single("Identity", IMAGE),
    "dropout": single("Dropout", IMAGE),
    "resize nearest x2": single(
        "Resize",
        IMAGE,
        None,
        np.float32([1, 1, 2, 2]),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    "resize nearest default": single("Resize", IMAGE, None, np.float32([1, 1, 3, 3])),
    "resize linear": single("Resize", IMAGE, None, None, ints(1, 6, 13, 20), mode="linear"),
    "resize linear corners": single(
        "Resize",
        IMAGE,
        None,
        None,
        ints(1, 6, 13, 20),
        mode="linear",
        coordinate_transformation_mode="align_corners",
    ),
    "resize linear asymmetric": single(
        "Resize",
        IMAGE,
        None,
        np.float32([1, 1, 2, 2]),
        mode="linear",
        coordinate_transformation_mode="asymmetric",
    ),
}
POSITIVE = {
    "sqrt": single("Sqrt", IMAGE),
    "log": single("Log", IMAGE),
    "reciprocal": single("Reciprocal", IMAGE),
    "pow computed": single("Pow", (2, 5), (2, 5)),
    "pow half": single("Pow", IMAGE, F(0.5)),
    "div": single("Div", IMAGE, IMAGE),
}


def compare(model, values, folder, layout):
    ran = invoke(lowered(model, folder, layout=layout), values)
    expected = reference(model, values)
    assert ran.outputs.keys() == expected.keys()
    for name, wanted in expected.items():
        assert relative_error(ran.outputs[name], wanted) <= TOLERANCE, name


@pytest.mark.parametrize("layout", ["nhwc", "source"])
@pytest.mark.parametrize("case", CASES)
def test_an_operator_answers_like_onnx_runtime(case, layout, tmp_path, need):
    need("ai_edge_litert")
    compare(CASES[case], feeds(CASES[case]), tmp_path, layout)


@pytest.mark.parametrize("case", POSITIVE)
def test_an_operator_of_positive_numbers_answers_like_onnx_runtime(case, tmp_path, need):
    need("ai_edge_litert")
    values = {name: np.abs(value) + 0.5 for name, value in feeds(POSITIVE[case]).items()}
    compare(POSITIVE[case], values, tmp_path, "nhwc")


def test_split_gives_every_part(tmp_path, need):
    need("ai_edge_litert")
    model = single("Split", IMAGE, ints(1, 3, 2), outputs=3, axis=1)
    compare(model, feeds(model), tmp_path, "nhwc")


def test_a_wrong_weight_is_noticed(tmp_path, need):
    """The comparison itself: 5 % on one weight must not pass."""
    need("ai_edge_litert")
    kernel = weights(5, 6, 3, 3)
    kernel[0, 0, 1, 1] = 0.4
    changed = kernel.copy()
    changed[0, 0, 1, 1] *= 1.05
    right, wrong = single("Conv", IMAGE, kernel), single("Conv", IMAGE, changed)
    values = feeds(right)
    ran = invoke(lowered(wrong, tmp_path), values)
    assert relative_error(ran.outputs["y"], reference(right, values)["y"]) > TOLERANCE
