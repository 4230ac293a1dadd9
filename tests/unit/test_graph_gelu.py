"""GELU written out with Erf becomes one node."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tflite_models import feeds, graph, reference, relative_error

from edgekit.graph import restore_gelu

ROOT = np.float32(np.sqrt(2))
CONSTANTS = {
    "root": ROOT,
    "inverse": 1 / ROOT,
    "one": np.float32(1),
    "half": np.float32(0.5),
    "two": np.float32(2),
}


def written(*tail, scale=("Div", "x", "root"), outputs=("y",)):
    nodes = [
        helper.make_node(scale[0], list(scale[1:]), ["s"]),
        helper.make_node("Erf", ["s"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["a"]),
        *(helper.make_node(op, list(inputs), [output]) for op, *inputs, output in tail),
    ]
    used = {name for node in nodes for name in node.input}
    constants = {name: value for name, value in CONSTANTS.items() if name in used}
    return graph(nodes, {"x": (3, 4)}, list(outputs), constants)


FORMS = {
    "x times, then half": written(("Mul", "x", "a", "m"), ("Mul", "m", "half", "y")),
    "half first": written(("Mul", "half", "x", "h"), ("Mul", "h", "a", "y")),
    "halved by two": written(("Mul", "a", "x", "m"), ("Div", "m", "two", "y")),
    "the sum halved": written(("Mul", "a", "half", "m"), ("Mul", "x", "m", "y")),
    "by the inverse of the root": written(
        ("Mul", "x", "a", "m"), ("Mul", "half", "m", "y"), scale=("Mul", "inverse", "x")
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_way_to_write_gelu_becomes_one_node(form):
    model = FORMS[form]
    values = feeds(model)
    before = reference(model, values)["y"]
    assert restore_gelu.apply(model).modified
    assert [node.op_type for node in model.graph.node] == ["Gelu"]
    assert relative_error(reference(model, values)["y"], before) < 1e-6


def by_tanh(*cube, factor=0.044715):
    nodes = [
        *(helper.make_node(op, list(inputs), [output]) for op, *inputs, output in cube),
        helper.make_node("Add", ["x", "cube"], ["t"]),
        helper.make_node("Mul", ["rate", "t"], ["s"]),
        helper.make_node("Tanh", ["s"], ["e"]),
        helper.make_node("Add", ["one", "e"], ["a"]),
        helper.make_node("Mul", ["half", "a"], ["m"]),
        helper.make_node("Mul", ["x", "m"], ["y"]),
    ]
    constants = {**CONSTANTS, "rate": np.float32(np.sqrt(2 / np.pi)), "c": np.float32(factor)}
    used = {name for node in nodes for name in node.input}
    constants["three"] = np.float32(3)
    return graph(nodes, {"x": (3, 4)}, ["y"], {k: v for k, v in constants.items() if k in used})


CUBES = {
    "as JAX writes it": (("Mul", "c", "x", "p"), ("Mul", "x", "p", "q"), ("Mul", "x", "q", "cube")),
    "square first": (("Mul", "x", "x", "p"), ("Mul", "p", "x", "q"), ("Mul", "q", "c", "cube")),
    "a power": (("Pow", "x", "three", "p"), ("Mul", "c", "p", "cube")),
}


@pytest.mark.parametrize("form", CUBES)
def test_gelu_by_tanh_becomes_one_node(form):
    model = by_tanh(*CUBES[form])
    values = feeds(model)
    before = reference(model, values)["y"]
    assert restore_gelu.apply(model).modified
    assert [node.op_type for node in model.graph.node] == ["Gelu"]
    assert relative_error(reference(model, values)["y"], before) < 1e-6


def test_another_polynomial_under_tanh_is_left_as_it_is():
    assert not restore_gelu.apply(by_tanh(*CUBES["a power"], factor=0.05)).modified
    square = (("Mul", "x", "x", "p"), ("Mul", "p", "c", "cube"))
    assert not restore_gelu.apply(by_tanh(*square)).modified


OTHERS = {
    "another half": written(("Mul", "x", "a", "m"), ("Mul", "m", "two", "y")),
    "another root": written(("Mul", "x", "a", "m"), ("Mul", "m", "half", "y"), scale=("Div", "x", "two")),
    "an inner value that is an output": written(
        ("Mul", "x", "a", "m"), ("Mul", "m", "half", "y"), outputs=("y", "m")
    ),
    "x twice": written(("Mul", "x", "a", "m"), ("Mul", "m", "x", "y")),
}


@pytest.mark.parametrize("form", OTHERS)
def test_what_is_no_gelu_stays(form):
    model = OTHERS[form]
    before = model.SerializeToString()
    assert not restore_gelu.apply(model).modified
    assert model.SerializeToString() == before


@pytest.mark.parametrize(("shape", "restored"), [((1, 1), True), ((1, 1, 1), False)])
def test_a_constant_of_one_element_may_have_as_many_dimensions_as_what_it_meets(shape, restored):
    model = written(("Mul", "x", "a", "m"), ("Mul", "m", "half", "y"))
    one = next(constant for constant in model.graph.initializer if constant.name == "one")
    one.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), "one"))
    model.graph.output[0].type.tensor_type.shape.ClearField("dim")
    model = onnx.shape_inference.infer_shapes(model)
    assert restore_gelu.apply(model).modified == restored
