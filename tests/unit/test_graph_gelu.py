"""GELU written out with Erf becomes one node."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
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
