"""Fewer moves, the same values bit by bit."""

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, run

from edgekit.backends.onnx_moves import fewer_moves

END = np.iinfo(np.int64).max


def lessened(model):
    """The model with fewer moves, which answers as before, and the types of its operators."""
    fewer = onnx.ModelProto.FromString(model.SerializeToString())
    fewer_moves(fewer)
    onnx.checker.check_model(fewer, full_check=True)
    random = np.random.default_rng(0)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    feeds = {n: random.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    expected, got = run(model, feeds), run(fewer, feeds)
    assert expected.keys() == got.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(got[name], values)
        assert got[name].shape == values.shape
    return fewer, [n.op_type for n in fewer.graph.node]


def ints(b, name, *values):
    return b.constant(name, np.array(values, np.int64))


def sliced(b, x, output, starts, ends, axes):
    names = [ints(b, f"{output}.{i}", *values) for i, values in enumerate((starts, ends, axes))]
    return b.add("Slice", [x, *names, ints(b, f"{output}.steps", *[1] * len(axes))], output)


def test_axes_that_a_slice_takes_whole_are_left_out():
    b = GraphBuilder()
    sliced(b, "x", "low", [0, 0, 0], [END, 3, 5], [0, 1, -1])
    sliced(b, "x", "high", [0, 3, 1], [END, END, END], [0, 1, 2])
    fewer, _ = lessened(b.build({"x": [2, 6, 5]}, ["low", "high"]))
    values = {t.name: onnx.numpy_helper.to_array(t).tolist() for t in fewer.graph.initializer}
    low, high = fewer.graph.node
    assert [values[i] for i in low.input[1:]] == [[0], [3], [1], [1]]
    assert [values[i] for i in high.input[1:]] == [[3, 1], [END, END], [1, 2], [1, 1]]


@pytest.mark.parametrize("index", [0, 1, -1, -2])
@pytest.mark.parametrize(("axis", "put_back"), [(0, 0), (1, 1), (-1, 2), (1, -2)])
def test_an_index_whose_axis_is_put_back_is_a_slice(index, axis, put_back):
    b = GraphBuilder()
    picked = b.add("Gather", ["x", b.constant("index", np.int64(index))], "picked", axis=axis)
    b.add("Unsqueeze", [picked, ints(b, "axes", put_back)], "y")
    _, operators = lessened(b.build({"x": [2, 3, 4]}, ["y"]))
    assert operators == ["Slice"]


def test_an_index_whose_axis_comes_back_elsewhere_or_that_others_read_stays():
    b = GraphBuilder()
    picked = b.add("Gather", ["x", b.constant("index", np.int64(1))], "picked", axis=0)
    b.add("Unsqueeze", [picked, ints(b, "axes", 1)], "y")
    _, operators = lessened(b.build({"x": [2, 3, 4]}, ["y"]))
    assert operators == ["Gather", "Unsqueeze"]
    b = GraphBuilder()
    picked = b.add("Gather", ["x", b.constant("index", np.int64(1))], "picked", axis=0)
    b.add("Unsqueeze", [picked, ints(b, "axes", 0)], "y")
    b.add("Neg", [picked], "z")
    _, operators = lessened(b.build({"x": [2, 3, 4]}, ["y", "z"]))
    assert operators == ["Gather", "Unsqueeze", "Neg"]


def test_a_row_of_moves_becomes_one():
    b = GraphBuilder()
    flat = b.add("Flatten", [b.add("Neg", ["x"], "before")], "flat")
    wide = b.add("Unsqueeze", [flat, ints(b, "axes", 0, 3)], "wide")
    back = b.add("Squeeze", [wide, ints(b, "last", 3)], "back")
    b.add("Exp", [b.add("Reshape", [back, ints(b, "shape", 0, 4, -1)], "rows")], "y")
    fewer, operators = lessened(b.build({"x": [2, 3, 4]}, ["y"]))
    assert operators == ["Neg", "Reshape", "Exp"]
    assert len(fewer.graph.initializer) == 1


def test_what_is_an_output_or_has_another_reader_is_not_passed_over():
    b = GraphBuilder()
    flat = b.add("Flatten", ["x"], "flat")
    b.add("Unsqueeze", [flat, ints(b, "axes", 0)], "y")
    _, operators = lessened(b.build({"x": [2, 3, 4]}, ["flat", "y"]))
    assert operators == ["Flatten", "Unsqueeze"]


@pytest.mark.parametrize(("scale", "operators"), [(0.02, 4), (0.03, 7)])
def test_moves_with_quantizers_of_one_scale_between_them_become_one(scale, operators):
    b = GraphBuilder()
    zero = b.constant("zero", np.uint8(128))
    first = [b.constant("scale", np.float32(0.02)), zero]
    other = [b.constant("other", np.float32(scale)), zero]
    read = b.add("DequantizeLinear", [b.add("QuantizeLinear", ["x", *first], "x_q"), *first], "x_dq")
    flat = b.add("Squeeze", [read, ints(b, "axes", 0)], "flat")
    codes = b.add("QuantizeLinear", [flat, *other], "flat_q")
    again = b.add("DequantizeLinear", [codes, *other], "flat_dq")
    b.add("Neg", [b.add("Unsqueeze", [again, ints(b, "new", 2)], "wide")], "y")
    _, left = lessened(b.build({"x": [1, 3, 4]}, ["y"]))
    assert len(left) == operators
