"""Opsets before the canonical one whose operators mean something else, and newer ones without a way back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit.errors import Unsupported
from edgekit.graph import convert_opset, infer_shapes
from edgekit.graph.canonical import finish, prepare

X = np.random.default_rng(0).random((2, 6, 4)).astype(np.float32) + 0.5


def model_of(node, opset, constants, shape=X.shape):
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "y")]
    graph = helper.make_graph([node], "test", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def canonical(model, folder):
    prepared, _ = prepare(model, {})
    onnx.save(prepared, folder / "prepared.onnx")
    finish(str(folder / "prepared.onnx"), str(folder / "canonical.onnx"), False)
    return onnx.load(folder / "canonical.onnx")


def answer(model, x=X):
    (y,) = ReferenceEvaluator(model).run(None, {"x": x})
    return y


def test_the_slopes_of_a_prelu_before_opset_7_are_those_of_channels(tmp_path):
    slopes = np.linspace(-1, 1, 6, dtype=np.float32)
    x = X - 1
    model = model_of(helper.make_node("PRelu", ["x", "s"], ["y"], name="node"), 6, {"s": slopes})
    expected = np.where(x < 0, x * slopes[:, None], x)
    np.testing.assert_allclose(answer(canonical(model, tmp_path), x), expected, rtol=1e-6)


ARITHMETIC = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract, "Div": np.divide, "Pow": np.power}


@pytest.mark.parametrize("op", ARITHMETIC)
@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_an_operand_along_an_axis_of_opset_6_is_that_axis(op, axis, tmp_path):
    c = np.linspace(0.5, 2, X.shape[2 if axis is None else axis], dtype=np.float32)
    place = {} if axis is None else {"axis": axis}
    node = helper.make_node(op, ["x", "c"], ["y"], name="node", broadcast=1, **place)
    made = canonical(model_of(node, 6, {"c": c}), tmp_path)
    shape = [-1 if i == (2 if axis is None else axis) else 1 for i in range(3)]
    np.testing.assert_allclose(answer(made), ARITHMETIC[op](X, c.reshape(shape)), rtol=1e-5)


def test_a_scan_over_batches_is_refused():
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4]) for n in "absn"]
    body = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Identity", ["s"], ["n"])],
        "body",
        ports[:2],
        ports[2:],
    )
    node = helper.make_node("Scan", ["", "first", "x"], ["last", "y"], body=body, num_scan_inputs=1, name="n")
    with pytest.raises(Unsupported, match="over batches"):
        convert_opset.apply(model_of(node, 8, {"first": np.zeros((2, 4), np.float32)}))


def test_branches_before_opset_7_are_refused():
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, X.shape)]
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["z"])], "branch", [], out)
    node = helper.make_node("If", ["go"], ["y"], then_branch=branch, else_branch=branch, name="n")
    with pytest.raises(Unsupported, match="opset 6"):
        convert_opset.apply(model_of(node, 6, {"go": np.asarray(True)}))


@pytest.mark.parametrize(("opset", "width"), [(18, 3), (21, 6), (23, 6)])
def test_group_normalization_scales_groups_in_opset_18_and_channels_since_21(opset, width, tmp_path):
    scale, bias = np.linspace(1, 2, width, dtype=np.float32), np.linspace(0, 1, width, dtype=np.float32)
    node = helper.make_node(
        "GroupNormalization", ["x", "s", "b"], ["y"], name="node", num_groups=3, epsilon=0.01
    )
    made = canonical(model_of(node, opset, {"s": scale, "b": bias}), tmp_path)
    groups = X.reshape(2, 3, -1).astype(np.float64)
    mean, variance = groups.mean(axis=2, keepdims=True), groups.var(axis=2, keepdims=True)
    normal = ((groups - mean) / np.sqrt(variance + 0.01)).reshape(X.shape)
    each = [np.repeat(v, 6 // width)[:, None] for v in (scale, bias)]
    np.testing.assert_allclose(answer(made), normal * each[0] + each[1], rtol=1e-5)
    assert [n.op_type for n in made.graph.node].count("InstanceNormalization") == 1


def test_an_operator_that_only_took_more_types_later_is_itself_before():
    node = helper.make_node("GlobalMaxPool", ["x"], ["y"], name="node")
    model = model_of(node, 22, {}, (2, 6, 4, 4))
    for axis in (2, 3):
        model.graph.output[0].type.tensor_type.shape.dim[axis].dim_value = 1
    after = infer_shapes.apply(convert_opset.apply(model).model).model
    assert [(n.op_type, n.domain) for n in after.graph.node] == [("GlobalMaxPool", "")]
    assert [d.dim_value for d in after.graph.output[0].type.tensor_type.shape.dim] == [2, 6, 1, 1]
