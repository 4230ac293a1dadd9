"""Each pass on the graph: what it does, and what it must leave alone. Values are checked in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import classifier, copy, graph, needed, normal, operators, same_answers

from edgekit.errors import Unsupported, UsageError
from edgekit.graph import (
    dead_code,
    drop_identity,
    fix_shapes,
    fold_batchnorm,
    fold_constants,
    infer_shapes,
    lift_constants,
    name_nodes,
    strip_metadata,
)

onnx = needed("onnx")
helper = onnx.helper
node = helper.make_node
F = np.float32


# shapes


def test_a_dynamic_first_dimension_becomes_1_and_is_noted() -> None:
    result = fix_shapes.apply(classifier(batch="N"))
    assert result.modified
    assert [d.dim_value for d in result.model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]
    assert "'image'" in result.notes[0]


def test_a_shape_is_set_by_name() -> None:
    model = fix_shapes.apply(classifier(batch="N"), {"image": (4, 3, 8, 8)}).model
    model = infer_shapes.apply(model).model
    assert [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [4, 5]


def test_a_dimension_that_two_inputs_share_gets_one_value() -> None:
    shape = {"a": (F, ["N", "T"]), "b": (F, ["N", "T"])}
    model = graph([node("Add", ["a", "b"], ["y"])], shape, {"y": (F, ["N", "T"])}, {})
    fixed = fix_shapes.apply(model, {"a": (2, 7)}).model
    assert [d.dim_value for d in fixed.graph.input[1].type.tensor_type.shape.dim] == [2, 7]


def test_another_dynamic_dimension_names_input_dimension_and_option() -> None:
    shape = {"image": (F, ["N", 3, "height", None])}
    model = graph([node("Relu", ["image"], ["y"])], shape, {"y": (F, [None] * 4)}, {})
    with pytest.raises(UsageError) as caught:
        fix_shapes.apply(model)
    assert caught.value.problems == (
        "image: dimension 2 ('height') is dynamic: --shape image=1,3,HEIGHT,SIZE",
        "image: dimension 3 is dynamic: --shape image=1,3,HEIGHT,SIZE",
    )


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"imgae": (1, 3, 8, 8)}, "did you mean 'image'?"),
        ({"image": (1, 3, 8)}, "3 dimensions, the input has 4 (N,3,8,8)"),
        ({"image": (1, 4, 8, 8)}, "dimension 1 is 3 in the file"),
        ({"image": (0, 3, 8, 8)}, "at least 1"),
    ],
)
def test_a_shape_that_does_not_fit_says_why(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        fix_shapes.apply(classifier(batch="N"), shapes)
    assert message in str(caught.value)


def test_question_marks_are_no_shared_name() -> None:
    model = graph([node("Relu", ["x"], ["y"])], {"x": (F, ["?", "?"])}, {"y": (F, ["?", "?"])}, {})
    fixed = fix_shapes.apply(model, {"x": (2, 5)}).model
    assert [d.dim_value for d in fixed.graph.input[0].type.tensor_type.shape.dim] == [2, 5]


def test_weights_listed_as_inputs_are_no_inputs() -> None:
    model = classifier(batch=1)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    result = fix_shapes.apply(copy(model))
    assert [v.name for v in result.model.graph.input] == ["image"]
    same_answers(classifier(batch=1), result.model)


def test_every_tensor_between_gets_its_shape_in_the_order_of_the_nodes() -> None:
    model = infer_shapes.apply(fix_shapes.apply(classifier()).model).model
    assert [v.name for v in model.graph.value_info] == ["c", "n", "r", "g", "f", "d"]
    assert infer_shapes.unknown_shapes(model) == []


def test_a_shape_that_depends_on_the_data_names_the_node() -> None:
    nodes = [node("NonZero", ["x"], ["i"], name="find"), node("Cast", ["i"], ["y"], to=1)]
    model = infer_shapes.apply(graph(nodes, {"x": (F, [2, 3])}, {"y": (F, [2, None])}, {})).model
    assert infer_shapes.unknown_shapes(model)[0].node == "find (NonZero)"


def test_shapes_that_contradict_each_other_are_refused() -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    model = graph(nodes, {"x": (F, [1, 3])}, {"y": (F, [1, 2])}, {"w": normal(4, 2)})
    with pytest.raises(Unsupported, match="contradict"):
        infer_shapes.apply(model)


# cleaning


def test_identity_and_dropout_disappear_and_output_names_stay() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("Identity", ["a"], ["b"]),
        node("Dropout", ["b"], ["c"]),
        node("Neg", ["c"], ["d"]),
        node("Identity", ["d"], ["y"]),
        node("Identity", ["a"], ["z"]),
    ]
    before = graph(nodes, {"x": (F, [4])}, {"y": (F, [4]), "z": (F, [4])}, {})
    after = drop_identity.apply(copy(before)).model
    assert operators(after) == ["Relu", "Neg"]
    same_answers(before, after)


def test_an_identity_that_joins_an_input_or_two_outputs_stays() -> None:
    nodes = [
        node("Identity", ["x"], ["same"]),
        node("Relu", ["x"], ["y"]),
        node("Identity", ["y"], ["again"]),
    ]
    outputs = {n: (F, [4]) for n in ("same", "y", "again")}
    before = graph(nodes, {"x": (F, [4])}, outputs, {})
    result = drop_identity.apply(copy(before))
    assert not result.modified
    same_answers(before, result.model)


def test_a_maximum_with_minus_infinity_disappears_and_one_with_zero_stays() -> None:
    nodes = [
        node("ReduceMax", ["x"], ["largest"], keepdims=1),
        node("Max", ["lowest", "largest"], ["a"]),
        node("Min", ["a", "highest"], ["b"]),
        node("Max", ["b", "zero"], ["c"]),
        node("Max", ["c", "row"], ["y"]),
    ]
    limits = {"lowest": F(-np.inf), "highest": F(np.inf), "zero": F(0), "row": np.full(4, -np.inf, F)}
    before = graph(nodes, {"x": (F, [2, 2])}, {"y": (F, [1, 4])}, limits)
    after = drop_identity.apply(copy(before)).model
    assert operators(after) == ["ReduceMax", "Max", "Max"]
    same_answers(before, after)


def test_a_dropout_whose_mask_is_read_stays() -> None:
    nodes = [node("Dropout", ["x"], ["a", "mask"]), node("Cast", ["mask"], ["y"], to=1)]
    model = graph(nodes, {"x": (F, [4])}, {"a": (F, [4]), "y": (F, [4])}, {})
    assert not drop_identity.apply(model).modified


def test_an_identity_read_inside_a_branch_is_followed_there() -> None:
    branch = [
        helper.make_graph([node(op, ["b"], ["o"])], op, [], [helper.make_tensor_value_info("o", 1, [4])])
        for op in ("Relu", "Neg")
    ]
    nodes = [
        node("Abs", ["x"], ["a"]),
        node("Identity", ["a"], ["b"]),
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Greater", ["m", "zero"], ["cond"]),
        node("If", ["cond"], ["y"], then_branch=branch[0], else_branch=branch[1]),
    ]
    before = graph(nodes, {"x": (F, [4])}, {"y": (F, [4])}, {"zero": np.float32(0.0).reshape(())})
    after = drop_identity.apply(copy(before)).model
    assert "Identity" not in operators(after)
    same_answers(before, after)


def test_constants_of_every_form_become_initializers() -> None:
    nodes = [
        node("Constant", [], ["a"], value=onnx.numpy_helper.from_array(normal(4))),
        node("Constant", [], ["b"], value_float=2.0),
        node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        node("Constant", [], ["i"], value_ints=[2, 2]),
        node("Add", ["x", "a"], ["xa"]),
        node("Mul", ["xa", "b"], ["xb"]),
        node("Sub", ["xb", "c"], ["xc"]),
        node("Reshape", ["xc", "i"], ["y"]),
    ]
    before = graph(nodes, {"x": (F, [4])}, {"y": (F, [2, 2])}, {})
    after = lift_constants.apply(copy(before)).model
    assert {t.name for t in after.graph.initializer} == {"a", "b", "c", "i"}
    same_answers(before, after)


def test_what_no_output_needs_is_removed_and_an_unread_input_stays() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Mul", ["x", "w"], ["unused"])]
    shapes = {"x": (F, [4]), "extra": (F, [2])}
    after = dead_code.apply(graph(nodes, shapes, {"y": (F, [4])}, {"w": normal(4)})).model
    assert operators(after) == ["Relu"]
    assert not after.graph.initializer
    assert [v.name for v in after.graph.input] == ["x", "extra"]


def test_metadata_and_paths_leave_the_file() -> None:
    model = classifier()
    model.metadata_props.add(key="path", value="/home/someone/net.py")
    model.graph.node[0].metadata_props.add(key="trace", value="/home/someone")
    model.producer_name = "exporter"
    data = strip_metadata.apply(model).model.SerializeToString()
    assert b"/home" not in data
    assert b"exporter" not in data


def test_nodes_without_a_name_or_with_one_already_taken_get_their_own() -> None:
    model = classifier()
    model.graph.node[7].name = "head"
    names = [n.name for n in name_nodes.apply(model).model.graph.node]
    assert len(set(names)) == len(names)
    assert names[0] == "stem"
    assert names[1] == "BatchNormalization_1"
    assert names[6:] == ["head", "head_7"]


# folding


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layer", ["Conv", "depthwise", "ConvTranspose", "Gemm", "Gemm transB"])
def test_batch_norm_goes_into_the_layer_before_it(layer: str, bias: bool) -> None:
    channels = 6
    attributes: dict[str, Any] = {}
    weight, x, y = normal(channels, 4, 3, 3), [2, 4, 8, 8], [2, channels, 6, 6]
    if layer == "depthwise":
        weight, x, attributes = normal(channels, 1, 3, 3), [2, channels, 8, 8], {"group": channels}
    elif layer == "ConvTranspose":
        weight, y = normal(4, channels, 3, 3), [2, channels, 10, 10]
    elif layer.startswith("Gemm"):
        weight, x, y, attributes = normal(4, channels), [2, 4], [2, channels], {"alpha": 0.5, "beta": 2.0}
        if layer.endswith("transB"):
            weight, attributes = normal(channels, 4), {**attributes, "transB": 1}
    weights = {"w": weight, "s": normal(channels), "t": normal(channels), "m": normal(channels)}
    weights["v"] = np.abs(normal(channels, seed=3)) + F(0.1)
    if bias:
        weights["b"] = normal(channels, seed=5)
    op = "Conv" if layer == "depthwise" else layer.split()[0]
    nodes = [
        node(op, ["x", "w", *(["b"] if bias else [])], ["h"], **attributes),
        node("BatchNormalization", ["h", "s", "t", "m", "v"], ["y"], epsilon=1e-3),
    ]
    before = graph(nodes, {"x": (F, x)}, {"y": (F, y)}, weights)
    after = dead_code.apply(fold_batchnorm.apply(copy(before)).model).model
    assert operators(after) == [op]
    same_answers(before, after)


def test_a_weight_that_another_layer_reads_keeps_its_values_there() -> None:
    weights = {"w": normal(4, 4, 1, 1), "s": normal(4), "t": normal(4), "m": normal(4), "v": np.ones(4, F)}
    nodes = [
        node("Conv", ["x", "w"], ["h"]),
        node("BatchNormalization", ["h", "s", "t", "m", "v"], ["y"]),
        node("Conv", ["x", "w"], ["z"]),
    ]
    before = graph(nodes, {"x": (F, [1, 4, 5, 5])}, {"y": (F, [1, 4, 5, 5]), "z": (F, [1, 4, 5, 5])}, weights)
    after = fold_batchnorm.apply(copy(before)).model
    assert operators(after) == ["Conv", "Conv"]
    same_answers(before, after)


def test_a_batch_norm_stays_where_it_cannot_be_folded() -> None:
    parameters = {"s": normal(4), "t": normal(4), "m": normal(4), "v": np.ones(4, F)}
    norm = node("BatchNormalization", ["h", "s", "t", "m", "v"], ["y"])
    shape = [1, 4, 5, 5]
    after_relu = graph([node("Relu", ["x"], ["h"]), norm], {"x": (F, shape)}, {"y": (F, shape)}, parameters)
    read_twice = graph(
        [node("Conv", ["x", "w"], ["h"]), norm, node("Relu", ["h"], ["z"])],
        {"x": (F, shape)},
        {"y": (F, shape), "z": (F, shape)},
        {**parameters, "w": normal(4, 4, 1, 1)},
    )
    grouped = graph(
        [node("ConvTranspose", ["x", "w"], ["h"], group=2), norm],
        {"x": (F, shape)},
        {"y": (F, shape)},
        {**parameters, "w": normal(4, 2, 1, 1)},
    )
    for model in (after_relu, read_twice, grouped):
        assert not fold_batchnorm.apply(model).modified


def test_chains_on_fixed_shapes_become_constants() -> None:
    weights = {"zero": np.array(0), "rest": np.array([-1]), "axes": np.array([0])}
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "axes"], ["u"]),
        node("Concat", ["u", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    before = graph(nodes, {"x": (F, [2, 3, 4])}, {"y": (F, [2, 12])}, weights)
    after = dead_code.apply(fold_constants.apply(copy(before)).model).model
    assert operators(after) == ["Reshape"]
    same_answers(before, after)


def test_a_branch_on_a_constant_is_taken_and_its_names_kept_apart() -> None:
    def branch(op: str, name: str) -> Any:
        constant = node("Constant", [], ["k"], value_float=3.0)
        result = helper.make_tensor_value_info("o", 1, [4])
        return helper.make_graph([constant, node(op, [name, "k"], ["o"])], op, [], [result])

    nodes = [
        node("If", ["yes"], ["a"], then_branch=branch("Add", "x"), else_branch=branch("Mul", "x")),
        node("If", ["no"], ["y"], then_branch=branch("Add", "a"), else_branch=branch("Mul", "a")),
    ]
    weights = {"yes": np.array(True), "no": np.array(False)}
    before = graph(nodes, {"x": (F, [4])}, {"y": (F, [4])}, weights)
    after = drop_identity.apply(fold_constants.apply(copy(before)).model).model
    assert operators(after) == ["Add", "Mul"]
    same_answers(before, after)


def test_random_nodes_are_not_computed_away() -> None:
    nodes = [node("RandomNormal", [], ["r"], shape=[4]), node("Add", ["x", "r"], ["y"])]
    after = fold_constants.apply(graph(nodes, {"x": (F, [4])}, {"y": (F, [4])}, {})).model
    assert operators(after) == ["RandomNormal", "Add"]
