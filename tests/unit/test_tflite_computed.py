"""Parameters that are computed while the model runs, where the shapes of the file leave them no choice."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tflite_models import invoke, lowered, reference, relative_error

from edgekit.errors import Unsupported

X = np.random.default_rng(3).standard_normal((2, 3, 4)).astype(np.float32)


def declared(op, shape, parameters, *, constants=(), outputs=1, dtypes=("float32", "int64"), **attributes):
    """One node from x and int64 inputs to outputs whose shape the file declares."""
    names = [f"p{i}" for i in range(len(parameters))]
    made = [f"c{i}" for i in range(len(constants))]
    ys = [f"y{i}" for i in range(outputs)]
    kind = helper.np_dtype_to_tensor_dtype
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names, *made], ys, name="node", **attributes)],
        "test",
        [info("x", TensorProto.FLOAT, X.shape)]
        + [info(n, kind(np.asarray(p).dtype), np.shape(p)) for n, p in zip(names, parameters, strict=True)],
        [info(y, kind(np.dtype(d)), shape) for y, d in zip(ys, dtypes, strict=False)],
        [numpy_helper.from_array(np.asarray(c), n) for n, c in zip(made, constants, strict=True)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


REDUCED = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"]
CASES = {
    **{op: declared(op, (2, 1, 4), [np.int64([1])]) for op in REDUCED},
    **{f"{op} dropped": declared(op, (2, 4), [np.int64([1])], keepdims=0) for op in REDUCED},
    "ReduceLogSumExp": declared("ReduceLogSumExp", (1, 3, 1), [np.int64([0, -1])]),
    "ReduceSumSquare": declared("ReduceSumSquare", (2,), [np.int64([1, 2])], keepdims=0),
    "TopK": declared("TopK", (2, 3, 2), [np.int64([2])], outputs=2),
    "Trilu": declared("Trilu", X.shape, [np.int64([1])]),
    "Trilu below": declared("Trilu", X.shape, [np.int64([-1])], upper=0),
    "Tile": declared("Tile", (2, 9, 8), [np.int64([1, 3, 2])]),
    "CumSum": declared("CumSum", X.shape, [np.int64([-2])]),
    "CumSum backwards": declared("CumSum", X.shape, [np.int32([0])], reverse=1, exclusive=1),
}
VALUES = {
    "CumSum": np.int64([-2]),
    "CumSum backwards": np.int32([0]),
    "Trilu": np.int64([1]),
    "Trilu below": np.int64([-1]),
    "Tile": np.int64([1, 3, 2]),
    "TopK": np.int64([2]),
    "ReduceLogSumExp": np.int64([0, -1]),
    "ReduceSumSquare": np.int64([1, 2]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_computed_parameter_that_shapes_imply_is_read_or_known(case, tmp_path):
    values = {"x": X, "p0": VALUES.get(case, np.int64([1]))}
    ran, expected = invoke(lowered(CASES[case], tmp_path), values), reference(CASES[case], values)
    for name, wanted in expected.items():
        assert relative_error(ran.outputs[name], wanted) < 1e-5


@pytest.mark.parametrize("k", [-3, -1, 0, 2, 5])
def test_a_triangle_follows_the_diagonal_that_is_given(k, tmp_path):
    artifact = lowered(CASES["Trilu"], tmp_path)
    got = invoke(artifact, {"x": X, "p0": np.int64([k])}).outputs["y0"]
    np.testing.assert_array_equal(got, np.triu(X, k))


def test_one_hot_reads_its_values(tmp_path):
    model = declared("OneHot", (2, 3, 4, 5), [np.int64([5]), np.float32([0.5, 2])])
    x = np.random.default_rng(0).integers(0, 5, X.shape)
    values = {"x": x.astype(np.float32), "p0": np.int64([5]), "p1": np.float32([0.5, 2])}
    got = invoke(lowered(model, tmp_path), values).outputs["y0"]
    np.testing.assert_array_equal(got, np.where(x[..., None] == np.arange(5), np.float32(2), np.float32(0.5)))


def test_a_constant_of_a_computed_shape_is_that_of_the_result(tmp_path):
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [2.5])
    nodes = [
        helper.make_node("ConstantOfShape", ["p0"], ["c"], name="c", value=value),
        helper.make_node("Add", ["x", "c"], ["y0"], name="y"),
    ]
    model = declared("Add", X.shape, [np.int64(X.shape)])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.value_info.add().CopyFrom(helper.make_tensor_value_info("c", TensorProto.FLOAT, X.shape))
    ran = invoke(lowered(model, tmp_path), {"x": X, "p0": np.int64(X.shape)})
    np.testing.assert_array_equal(ran.outputs["y0"], X + np.float32(2.5))


def test_axes_that_the_shapes_leave_open_are_refused(tmp_path):
    model = declared("ReduceSum", (3, 4), [np.int64([0])], keepdims=0)
    square = onnx.ModelProto.FromString(model.SerializeToString())
    for axis, size in enumerate((3, 3, 4)):
        square.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    with pytest.raises(Unsupported) as caught:
        lowered(square, tmp_path)
    assert "ReduceSum with computed 'p0'" in caught.value.reasons[0].why
