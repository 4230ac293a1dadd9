"""Function operators and decided control flow, written out as nodes that LiteRT has."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tflite_models import OPSET, feeds, graph, invoke, lowered, reference, relative_error, single

from edgekit.backends.tflite import why_not
from edgekit.backends.tflite.unfold import expand_functions, unfold
from edgekit.core.target import load_target

TOLERANCE = 1e-5
FUNCTIONS = {
    "Celu": single("Celu", (2, 5), alpha=0.7),
    "Shrink": single("Shrink", (2, 5), lambd=0.3, bias=0.1),
    "CastLike": single("CastLike", ((2, 5), "int32"), np.float32(0)),
    "ReduceSumSquare": single("ReduceSumSquare", (2, 5), np.int64([1])),
    "ReduceL1": single("ReduceL1", (2, 5), np.int64([1])),
    "Softsign": single("Softsign", (2, 5)),
}


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("attributes", [{}, {"periodic": 0}], ids=["as ONNX defaults", "symmetric"])
def test_a_window_is_a_constant(op, attributes, tmp_path):
    nodes = [
        helper.make_node(op, ["n"], ["w"], name="w", **attributes),
        helper.make_node("Mul", ["x", "w"], ["y"], name="m"),
    ]
    model = graph(nodes, {"x": (2, 16)}, ["y"], {"n": np.int64(16)})
    ran = invoke(lowered(model, tmp_path), feeds(model))
    assert ran.count("MUL") == len([k for k in ran.kinds if k != "DELEGATE"]) == 1
    assert relative_error(ran.outputs["y"], reference(model, feeds(model))["y"]) < TOLERANCE


def body(nodes, inputs, outputs, shape, constants=None):
    def info(name):
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)

    typed = {"i": onnx.TensorProto.INT64, "go": onnx.TensorProto.BOOL, "more": onnx.TensorProto.BOOL}
    values = [helper.make_tensor_value_info(n, typed[n], []) if n in typed else info(n) for n in inputs]
    made = [helper.make_tensor_value_info(n, typed[n], []) if n in typed else info(n) for n in outputs]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    return helper.make_graph(nodes, "body", values, made, tensors)


def shaped(nodes, inputs, outputs, constants):
    """A model whose outputs have declared shapes: those of control flow are not inferred."""

    def infos(shapes):
        return [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in shapes.items()]

    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    made = helper.make_graph(nodes, "test", infos(inputs), infos(outputs), tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def loop(condition=True):
    """Three times h = tanh(h * w + x); every h is kept."""
    nodes = [
        helper.make_node("Mul", ["h", "w"], ["m"]),
        helper.make_node("Add", ["m", "x"], ["a"]),
        helper.make_node("Tanh", ["a"], ["new"]),
        helper.make_node("Cast", ["i"], ["f"], to=1),
        helper.make_node("Add", ["new", "f"], ["row"]),
    ]
    if condition:
        nodes.append(helper.make_node("Identity", ["go"], ["more"]))
    else:
        nodes += [
            helper.make_node("ReduceSum", ["new"], ["sum"], keepdims=0),
            helper.make_node("Less", ["sum", "two"], ["more"]),
        ]
    inner = body(
        nodes,
        ["i", "go", "h"],
        ["more", "new", "row"],
        (2,),
        {"w": np.float32([0.5, -0.3]), "two": np.float32(2)},
    )
    node = helper.make_node("Loop", ["trips", "", "h0"], ["last", "rows"], name="node", body=inner)
    return shaped([node], {"x": (2,), "h0": (2,)}, {"last": (2,), "rows": (3, 2)}, {"trips": np.int64(3)})


def scan(backward):
    """A running sum along axis 1."""
    nodes = [helper.make_node("Add", ["s", "part"], ["new"]), helper.make_node("Neg", ["new"], ["row"])]
    inner = body(nodes, ["s", "part"], ["new", "row"], (3,))
    node = helper.make_node(
        "Scan", ["s0", "x"], ["last", "rows"], name="node", body=inner, num_scan_inputs=1,
        scan_input_axes=[1], scan_input_directions=[backward],
        scan_output_axes=[1], scan_output_directions=[backward],
    )  # fmt: skip
    return shaped([node], {"s0": (3,), "x": (3, 4)}, {"last": (3,), "rows": (3, 4)}, {})


def branch(taken):
    """Both branches call an inner value by the same name."""
    then = body([helper.make_node("Relu", ["x"], ["v"])], [], ["v"], (2, 5))
    other = body([helper.make_node("Neg", ["x"], ["v"])], [], ["v"], (2, 5))
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReduceSum", ["s"], ["n"], keepdims=0),
        helper.make_node("Equal", ["n", "seven" if taken else "one"], ["c"]),
        helper.make_node("If", ["c"], ["a"], then_branch=then, else_branch=other),
        helper.make_node("If", ["c"], ["b"], then_branch=other, else_branch=then),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    return shaped(nodes, {"x": (2, 5)}, {"y": (2, 5)}, {"seven": np.int64(7), "one": np.int64(1)})


def choice(shape=(2, 5)):
    """A condition that is computed; the branches have the same or another shape."""
    then = body([helper.make_node("Relu", ["x"], ["v"])], [], ["v"], (2, 5))
    kind = "Neg" if shape == (2, 5) else "ReduceSum"
    other = body([helper.make_node(kind, ["x"], ["v"])], [], ["v"], shape)
    node = helper.make_node("If", ["c"], ["y"], name="node", then_branch=then, else_branch=other)
    sign = helper.make_node("Greater", ["b", "zero"], ["c"])
    return shaped([sign, node], {"x": (2, 5), "b": (1,)}, {"y": (2, 5)}, {"zero": np.float32(0)})


CONTROL = {
    "Loop": loop(),
    "Scan": scan(0),
    "Scan backwards": scan(1),
    "If taken": branch(True),
    "If not taken": branch(False),
}


def compare(model, folder):
    values = feeds(model)
    ran, expected = invoke(lowered(model, folder, layout="source"), values), reference(model, values)
    for name, wanted in expected.items():
        assert relative_error(ran.outputs[name], wanted) <= TOLERANCE, name


@pytest.mark.parametrize("case", FUNCTIONS)
def test_a_function_operator_runs_as_its_body(case, tmp_path, need):
    need("ai_edge_litert")
    compare(FUNCTIONS[case], tmp_path)


@pytest.mark.parametrize("case", CONTROL)
def test_decided_control_flow_runs_as_plain_nodes(case, tmp_path, need):
    need("ai_edge_litert")
    compare(CONTROL[case], tmp_path)


@pytest.mark.parametrize("condition", [True, False])
def test_a_computed_condition_chooses_between_branches_of_one_shape(condition, tmp_path, need):
    need("ai_edge_litert")
    model = choice()
    values = {"x": feeds(model)["x"], "b": np.float32([1 if condition else -1])}
    ran = invoke(lowered(model, tmp_path, layout="source"), values)
    np.testing.assert_array_equal(ran.outputs["y"], reference(model, values)["y"])


def test_a_computed_condition_between_branches_of_two_shapes_is_refused(tmp_path):
    onnx.save(choice((1, 1)), tmp_path / "model.onnx")
    reasons = why_not(tmp_path / "model.onnx", load_target("tflite"), "float32")
    assert any(reason.node == "node" and "branches differ in shape" in reason.why for reason in reasons)


def test_an_operator_with_a_lowering_of_its_own_stays_whole():
    model = single("HardSwish", (2, 5))
    assert expand_functions(model, ["HardSwish"]) is model
    assert [n.op_type for n in expand_functions(model, ["HardSigmoid"]).graph.node] == ["HardSigmoid", "Mul"]


def test_a_loop_whose_end_is_computed_is_refused_by_name(tmp_path):
    model = loop(condition=False)
    onnx.save(model, tmp_path / "model.onnx")
    reasons = why_not(tmp_path / "model.onnx", load_target("tflite"), "float32")
    assert any(reason.node == "node" for reason in reasons)
    assert unfold(model, {"trips": np.int64(3)}, {}) == (model, False)


def test_unfolding_twice_gives_the_same_bytes():
    constants, shapes = {"trips": np.asarray(3)}, {}
    first, second = (unfold(loop(), constants, shapes)[0].SerializeToString() for _ in range(2))
    assert first == second
