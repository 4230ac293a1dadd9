"""Operators composed value by value or over axes, against ONNX Runtime: 1e-5 of the largest magnitude."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import helper
from tflite_models import compare, feeds, invoke, lowered, newer, reference, single

RANDOM = np.random.default_rng(5)
F = np.float32
ROW, SQUARE = (2, 5), (3, 4, 4)


def ints(*values):
    return np.asarray(values, np.int64)


def whole(dtype, *shape):
    """Constants over the whole range of an integer type."""
    limits = np.iinfo(dtype)
    return RANDOM.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


CASES = {
    "erf": single("Erf", ROW),
    "mish": single("Mish", ROW),
    "celu": single("Celu", ROW, alpha=1.7),
    "softsign": single("Softsign", ROW),
    "thresholded relu": single("ThresholdedRelu", ROW, alpha=0.3),
    "shrink soft": single("Shrink", ROW, lambd=0.4, bias=0.4),
    "shrink hard": single("Shrink", ROW, lambd=0.4),
    "hardmax": single("Hardmax", SQUARE, axis=1),
    "tan": single("Tan", ROW),
    "atan": single("Atan", ROW),
    "sinh": single("Sinh", ROW),
    "cosh": single("Cosh", ROW),
    "asinh": single("Asinh", ROW),
    "mean of three": single("Mean", ROW, (5,), RANDOM.standard_normal((2, 1)).astype(F)),
    "abs of int64": single("Abs", (ROW, "int64")),
    "neg of int8": single("Neg", (ROW, "int8")),
    "add of uint8 wraps around": single("Add", (ROW, "uint8"), whole("uint8", 5)),
    "sub of int8 wraps around": single("Sub", (ROW, "int8"), whole("int8", 5)),
    "mul of int16 wraps around": single("Mul", (ROW, "int16"), whole("int16", 5)),
    "add of uint16 wraps around": single("Add", (ROW, "uint16"), whole("uint16", 5)),
    "sub of uint32 wraps around": single("Sub", (ROW, "uint32"), whole("uint32", 5)),
    "largest of uint32": single("Max", (ROW, "uint32"), whole("uint32", 5)),
    "less of uint16": single("Less", (ROW, "uint16"), whole("uint16", 5)),
    "equal of uint32": single("Equal", (ROW, "uint32"), np.uint32([0, 1, 2, 2**32 - 1, 0])),
    "cast of int16": single("Cast", (ROW, "int16"), to=1),
    "and of uint16": single("BitwiseAnd", (ROW, "uint16"), whole("uint16", 5)),
    "transpose of uint8": single("Transpose", (SQUARE, "uint8"), perm=[2, 0, 1]),
    "slice of int16": single("Slice", (SQUARE, "int16"), ints(1), ints(3), ints(1)),
    "concat of int8": single("Concat", (SQUARE, "int8"), (SQUARE, "int8"), axis=0),
    "pad of uint8": single("Pad", (SQUARE, "uint8"), ints(0, 1, 0, 0, 1, 2), np.uint8(7)),
    "pad of int8 by a value": single("Pad", (SQUARE, "int8"), ints(0, 1, 0, 0, 1, 2), np.int8(7)),
    "depth to space of int8": single("DepthToSpace", ((1, 4, 3, 2), "int8"), blocksize=2),
    "gather of uint8": single("Gather", (SQUARE, "uint8"), ints(1, 0), axis=1),
    "pow of computed whole exponents": single("Pow", ROW, (ROW, "int64")),
    "xor": single("Xor", (ROW, "bool"), ((5,), "bool")),
    "and of int32": single("BitwiseAnd", (ROW, "int32"), whole("int32", 2, 5)),
    "or of uint8": single("BitwiseOr", (ROW, "uint8"), whole("uint8", 5)),
    "or of int32": single("BitwiseOr", (ROW, "int32"), whole("int32", 2, 5)),
    "exclusive or of int8": single("BitwiseXor", (ROW, "int8"), whole("int8", 2, 5)),
    "not of int32": single("BitwiseNot", (ROW, "int32")),
    "shift left": single("BitShift", (ROW, "uint8"), np.uint8([0, 1, 3, 7, 5]), direction="LEFT"),
    "shift right": single("BitShift", (ROW, "uint8"), np.uint8([0, 1, 1, 1, 0]), direction="RIGHT"),
    "mod of signs": single("Mod", (ROW, "int64"), ints(3, -3, 2, -2, 5)),
    "fmod of floats": single("Mod", ROW, F([0.3, -0.3, 0.7, -0.7, 1]), fmod=1),
    "fmod of int32": single("Mod", (ROW, "int32"), np.int32([3, -3, 2, -2, 5]), fmod=1),
    "cast like": single("CastLike", ROW, (ROW, "int32")),
    "reduce l1": single("ReduceL1", SQUARE, ints(1)),
    "reduce l1 of int32": single("ReduceL1", (SQUARE, "int32"), ints(0, 2), keepdims=0),
    "reduce l2": single("ReduceL2", SQUARE, ints(1, -1), keepdims=0),
    "reduce sum of squares": single("ReduceSumSquare", SQUARE, ints(0)),
    "reduce log of sum of exponentials": single("ReduceLogSumExp", SQUARE, ints(2), keepdims=0),
    "cumulative sum": single("CumSum", SQUARE, ints(1)[0]),
    "cumulative sum backwards without itself": single("CumSum", SQUARE, ints(-1)[0], reverse=1, exclusive=1),
    "last of the largest": single("ArgMax", (SQUARE, "int32"), axis=1, select_last_index=1),
    "last of the smallest": single("ArgMin", (SQUARE, "int32"), axis=-1, keepdims=0, select_last_index=1),
}
POSITIVE = {
    "acosh": single("Acosh", ROW),
    "log of sum": single("ReduceLogSum", SQUARE, ints(1), keepdims=0),
}
UNIT = {name: single(name, (40,)) for name in ("Asin", "Acos", "Atanh")}
SPECIAL = {
    "is nan": single("IsNaN", (6,)),
    "is infinite": single("IsInf", (6,)),
    "is positive infinite": single("IsInf", (6,), detect_negative=0),
    "is negative infinite": single("IsInf", (6,), detect_positive=0),
    "log of sum of infinite exponentials": single("ReduceLogSumExp", (1, 6), ints(0)),
}
EXACT = {  # to a few units in the last place, also where the result is tiny
    "Erf": math.erf,
    "Softplus": lambda x: float(np.logaddexp(0, x)),
    "Mish": lambda x: x * math.tanh(float(np.logaddexp(0, x))),
    "Sinh": math.sinh,
    "Asinh": math.asinh,
    "Atan": math.atan,
}


@pytest.mark.parametrize("layout", ["nhwc", "source"])
@pytest.mark.parametrize("case", CASES)
def test_an_operator_answers_like_onnx_runtime(case, layout, tmp_path, need):
    need("ai_edge_litert")
    compare(CASES[case], feeds(CASES[case], scale=2.0), tmp_path, layout)


@pytest.mark.parametrize("case", POSITIVE)
def test_an_operator_of_numbers_above_one_answers_like_onnx_runtime(case, tmp_path, need):
    need("ai_edge_litert")
    values = {name: np.abs(value) + 1 for name, value in feeds(POSITIVE[case]).items()}
    compare(POSITIVE[case], values, tmp_path)


@pytest.mark.parametrize("case", UNIT)
def test_an_operator_of_the_unit_interval_answers_like_onnx_runtime(case, tmp_path, need):
    need("ai_edge_litert")
    compare(UNIT[case], {"x0": np.linspace(-0.999, 0.999, 40, dtype=F)}, tmp_path)


@pytest.mark.parametrize("case", SPECIAL)
def test_numbers_that_are_none_and_infinite_ones_are_told_apart(case, tmp_path, need):
    need("ai_edge_litert")
    values = F([1, -2, np.inf, -np.inf, np.nan, 0])
    if case.startswith("log"):
        values = np.where(np.isnan(values), F(3), values)[None]
    compare(SPECIAL[case], {"x0": values}, tmp_path)


@pytest.mark.parametrize("name", EXACT)
def test_a_composed_function_keeps_its_relative_precision(name, tmp_path, need):
    need("ai_edge_litert")
    x = np.concatenate([np.geomspace(1e-6, 12, 150), -np.geomspace(1e-6, 12, 150)]).astype(F)
    got = invoke(lowered(single(name, (300,)), tmp_path), {"x0": x}).outputs["y"].astype(np.float64)
    wanted = np.asarray([EXACT[name](float(v)) for v in x])
    assert np.abs(got / wanted - 1).max() < 2e-6


def test_swish_is_its_definition(tmp_path, need):
    """ONNX Runtime has no kernel for it yet: the reference is the formula of the operator's specification."""
    need("ai_edge_litert")
    artifact = lowered(newer(helper.make_node("Swish", ["x"], ["y"], alpha=1.5), (7,), {}, 24), tmp_path)
    x = np.linspace(-4, 4, 7, dtype=F)
    wanted = x / (1 + np.exp(-1.5 * x.astype(np.float64)))
    np.testing.assert_allclose(invoke(artifact, {"x": x}).outputs["y"], wanted, rtol=2e-6)


def test_the_manifest_declares_that_erf_is_approximated_and_how_closely(tmp_path, need):
    need("ai_edge_litert")
    model = single("Erf", (5,))
    (note,) = lowered(model, tmp_path).manifest.notes
    assert "5e-7" in note


def test_wrapped_bytes_are_those_of_onnx_runtime(tmp_path, need):
    need("ai_edge_litert")
    model = single("Mul", ((4,), "uint8"), ((4,), "uint8"))
    values = {"x0": np.uint8([250, 16, 3, 255]), "x1": np.uint8([3, 16, 5, 255])}
    got = invoke(lowered(model, tmp_path), values).outputs["y"]
    np.testing.assert_array_equal(got, reference(model, values)["y"])
