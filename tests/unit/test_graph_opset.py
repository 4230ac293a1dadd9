"""Graphs of every opset become canonical ones that answer alike; local functions become plain nodes."""

from __future__ import annotations

import numpy as np
import pytest
from graph_models import classifier, copy, graph, needed, normal, operators, same_answers

from edgekit.errors import Unsupported
from edgekit.graph import (
    convert_opset,
    inline_functions,
)
from edgekit.graph.canonical import prepare

onnx = needed("onnx")
helper = onnx.helper
node = helper.make_node
F = np.float32


@pytest.mark.parametrize("opset", [11, 13, 15, 17, 18, 20, 21, 23])
def test_every_opset_becomes_the_canonical_one_and_answers_alike(opset: int) -> None:
    before = classifier(opset=opset, batch=1)
    after = convert_opset.apply(copy(before)).model
    assert [(o.domain, o.version) for o in after.opset_import] == [("", 20)]
    same_answers(before, after)


def test_rich_operators_survive_the_conversion_whole() -> None:
    weights = {"g": normal(8), "b": normal(8, seed=1)}
    nodes = [
        node("HardSwish", ["x"], ["h"]),
        node("LayerNormalization", ["h", "g", "b"], ["n"]),
        node("Softmax", ["n"], ["y"]),
    ]
    before = graph(nodes, {"x": (F, [2, 8])}, {"y": (F, [2, 8])}, weights, opset=17)
    after, _ = prepare(copy(before), {})
    assert operators(after) == ["HardSwish", "LayerNormalization", "Softmax"]
    same_answers(before, after)


@pytest.mark.parametrize(("shape", "axis"), [([2, 10], 1), ([1, 5, 7], 2), ([1, 6, 1, 1], 1), ([2, 10], -1)])
def test_a_softmax_of_an_old_opset_stays_one_node(shape: list[int], axis: int) -> None:
    nodes = [node("Softmax", ["x"], ["y"], axis=axis)]
    before = graph(nodes, {"x": (F, shape)}, {"y": (F, shape)}, {}, opset=11)
    after, _ = prepare(copy(before), {})
    assert operators(after) == ["Softmax"]
    same_answers(before, after)


def test_a_softmax_over_several_dimensions_at_once_keeps_its_meaning() -> None:
    nodes = [node("Softmax", ["x"], ["y"], axis=1)]
    before = graph(nodes, {"x": (F, [1, 3, 4, 4])}, {"y": (F, [1, 3, 4, 4])}, {}, opset=11)
    after, _ = prepare(copy(before), {})
    same_answers(before, after)


@pytest.mark.parametrize("opset", [9, 11])
def test_a_file_of_ir_version_3_lists_its_weights_as_inputs(opset: int) -> None:
    before = classifier(opset=11, batch=1)
    before.ir_version = 3
    before.opset_import[0].version = opset
    for tensor in before.graph.initializer:
        before.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    after, _ = prepare(copy(before), {})
    assert [v.name for v in after.graph.input] == ["image"]
    same_answers(classifier(opset=11, batch=1), after)


@pytest.mark.parametrize("scale", [2.0, 1.75])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize(("op", "opset"), [("Upsample", 9), ("Resize", 10)])
def test_an_old_resize_keeps_its_grid(op: str, opset: int, mode: str, scale: float) -> None:
    size = int(4 * scale)
    weights = {"s": np.array([1, 1, scale, scale], F)}
    nodes = [node(op, ["x", "s"], ["y"], mode=mode)]
    before = graph(nodes, {"x": (F, [1, 3, 4, 4])}, {"y": (F, [1, 3, size, size])}, weights, opset=opset)
    after, _ = prepare(copy(before), {})
    assert operators(after) == ["Resize"]
    same_answers(before, after)


def test_an_operator_without_an_equal_in_the_canonical_opset_is_refused() -> None:
    nodes = [node("CumProd", ["x", "axis"], ["y"])]
    axis = np.asarray(1, np.int64)
    before = graph(nodes, {"x": (F, [2, 8])}, {"y": (F, [2, 8])}, {"axis": axis}, opset=26)
    with pytest.raises(Unsupported, match="cannot be converted from opset 26 to 20"):
        prepare(before, {})


def test_local_functions_become_plain_nodes() -> None:
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 20)]
    )
    made = helper.make_graph(
        [node("Twice", ["x"], ["y"], domain="local")],
        "g",
        [helper.make_tensor_value_info("x", 1, [3])],
        [helper.make_tensor_value_info("y", 1, [3])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    before = helper.make_model(made, functions=[function], opset_imports=opsets, ir_version=9)
    after = inline_functions.apply(copy(before)).model
    assert operators(after) == ["Add"]
    assert not after.functions
    same_answers(before, after)


