"""Passes that join arithmetic: hard activations, factors, offsets, biases. ONNX Runtime checks values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from graph_models import copy, graph, needed, normal, operators, same_answers

from edgekit.graph import fold_affine, fuse_gemm, restore_hardswish

onnx = needed("onnx")
helper = onnx.helper
node = helper.make_node
F = np.float32


# activations written out in arithmetic


def written_out(*nodes: Any, opset: int = 20, **constants: float) -> Any:
    weights = {name: np.asarray(value, F) for name, value in constants.items()}
    return graph(list(nodes), {"x": (F, (1, 4, 3, 3))}, {"y": (F, (1, 4, 3, 3))}, weights, opset)


ADD, CLIP = node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"])
BOUNDS = {"three": 3.0, "zero": 0.0, "six": 6.0}


@pytest.mark.parametrize(
    ("nodes", "kinds"),
    [
        ([ADD, CLIP, node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"])], ["HardSwish"]),
        ([ADD, CLIP, node("Div", ["c", "six"], ["d"]), node("Mul", ["d", "x"], ["y"])], ["HardSwish"]),
        ([ADD, CLIP, node("Div", ["c", "six"], ["y"])], ["HardSigmoid"]),
        ([node("HardSigmoid", ["x"], ["h"], alpha=1 / 6), node("Mul", ["h", "x"], ["y"])], ["HardSwish"]),
    ],
)
def test_a_hard_activation_in_arithmetic_becomes_one_node(nodes: list[Any], kinds: list[str]) -> None:
    used = {i for n in nodes for i in n.input}
    before = written_out(*nodes, **{k: v for k, v in BOUNDS.items() if k in used})
    after = restore_hardswish.apply(copy(before))
    assert after.modified
    assert operators(after.model) == kinds
    same_answers(before, after.model)


@pytest.mark.parametrize(
    ("change", "opset"), [({"six": 5.0}, 20), ({"three": 2.0}, 20), ({"zero": -1.0}, 20), ({}, 13)]
)
def test_what_is_not_quite_hard_swish_is_left_alone(change: dict[str, float], opset: int) -> None:
    nodes = [ADD, CLIP, node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "n"], ["y"])]
    before = written_out(*nodes, opset=opset, n=6.0, **{**BOUNDS, **change})
    after = restore_hardswish.apply(copy(before))
    assert not after.modified
    assert operators(after.model) == operators(before)


def test_a_hard_swish_whose_inside_is_read_elsewhere_is_left_alone() -> None:
    nodes = [ADD, CLIP, node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["d"])]
    before = written_out(*nodes, node("Sub", ["d", "c"], ["y"]), **BOUNDS)
    assert not restore_hardswish.apply(before).modified


# factors and offsets of channels


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (1, 4, 1, 1), (4, 1, 1)])
def test_factors_and_offsets_go_into_the_layer_before(shape: tuple[int, ...], transposed: bool) -> None:
    layer = node("ConvTranspose" if transposed else "Conv", ["x", "w"], ["a"], kernel_shape=[3, 3])
    weights = {"w": normal(3, 4, 3, 3) if transposed else normal(4, 3, 3, 3)}
    weights |= {"k": normal(*shape, seed=1) + F(2), "c": normal(*shape, seed=2) + F(1)}
    nodes = [layer, node("Mul", ["k", "a"], ["m"]), node("Add", ["m", "c"], ["y"])]
    side = 8 if transposed else 4
    before = graph(nodes, {"x": (F, (1, 3, 6, 6))}, {"y": (F, (1, 4, side, side))}, weights)
    after = fold_affine.apply(copy(before))
    assert after.modified
    assert operators(after.model) == [layer.op_type]
    same_answers(before, after.model)


@pytest.mark.parametrize("shape", [(4, 4), (1, 1, 4, 1), (2, 4, 1, 1)])
def test_a_constant_that_varies_over_pixels_or_batch_is_not_folded(shape: tuple[int, ...]) -> None:
    nodes = [node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3]), node("Mul", ["a", "k"], ["y"])]
    weights = {"w": normal(4, 3, 3, 3), "k": normal(*shape)}
    outputs = {"y": (F, (2 if shape[0] == 2 else 1, 4, 4, 4))}
    before = graph(nodes, {"x": (F, (1, 3, 6, 6))}, outputs, weights)
    assert not fold_affine.apply(before).modified


def test_a_factor_behind_a_layer_that_something_else_reads_is_not_folded() -> None:
    nodes = [node("Conv", ["x", "w"], ["a"]), node("Mul", ["a", "k"], ["m"]), node("Add", ["a", "m"], ["y"])]
    weights = {"w": normal(4, 3, 1, 1), "k": normal(1)}
    before = graph(nodes, {"x": (F, (1, 3, 6, 6))}, {"y": (F, (1, 4, 6, 6))}, weights)
    assert not fold_affine.apply(before).modified


# a product and its bias


def product(
    rows: tuple[int, ...], bias: Any, *more: Any, turned: bool = False, weight: Any = None, kind: Any = F
) -> Any:
    """x [*rows, 3] times w [3, 5] plus b, and the nodes of `more`."""
    add = ["b", "p"] if turned else ["p", "b"]
    nodes = [node("MatMul", ["x", "w"], ["p"], name="dense"), node("Add", add, ["y"]), *more]
    weights = {"w": normal(3, 5) if weight is None else weight, "b": np.asarray(bias)}
    weights = {name: value.astype(kind) for name, value in weights.items()}
    outputs = {value.output[0]: (kind, (*rows, 5)) for value in nodes[1:]}
    return graph(nodes, {"x": (kind, (*rows, 3))}, outputs, weights)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(5,), (1, 5), (1, 1, 5), (1, 1, 1, 5), (), (1,)])
@pytest.mark.parametrize("rows", [(4,), (2, 4), (2, 3, 4)])
def test_a_product_and_its_bias_become_one_gemm(
    rows: tuple[int, ...], shape: tuple[int, ...], turned: bool
) -> None:
    if len(shape) > len(rows) + 1:
        rows = (*rows, 1, 1)[: len(shape) - 1]
    before = product(rows, normal(*shape, seed=1), turned=turned)
    after = fuse_gemm.apply(copy(before))
    assert after.modified
    flat = ["Reshape", "Gemm", "Reshape"]
    assert operators(after.model) == (flat if len(rows) > 1 else ["Gemm"])
    assert [n.name for n in after.model.graph.node if n.op_type == "Gemm"] == ["dense"]
    same_answers(before, after.model)


@pytest.mark.parametrize(
    "before",
    [
        product((4,), normal(4, 5)),  # a bias of its own for each row
        product((5,), normal(5, 1)),
        product((2, 4), normal(2, 1, 5)),
        product((4,), normal(5), kind=np.float16),
        product((4,), normal(5), node("Neg", ["p"], ["z"])),
        product((2, 4), normal(5), weight=normal(2, 3, 5)),
    ],
)
def test_what_is_no_row_behind_a_matrix_or_is_read_twice_stays_a_product(before: Any) -> None:
    after = fuse_gemm.apply(copy(before))
    assert not after.modified
    assert operators(after.model) == operators(before)


def test_a_weight_and_a_bias_that_others_read_stay_as_they_are() -> None:
    nodes = [node("MatMul", ["x", "w"], ["p"]), node("MatMul", ["x", "w"], ["q"])]
    nodes += [node("Add", ["p", "b"], ["y"]), node("Add", ["b", "q"], ["z"]), node("Neg", ["b"], ["n"])]
    outputs = {"y": (F, (2, 4, 5)), "z": (F, (2, 4, 5)), "n": (F, (1, 1, 5))}
    before = graph(nodes, {"x": (F, (2, 4, 3))}, outputs, {"w": normal(3, 5), "b": normal(1, 1, 5)})
    after = fuse_gemm.apply(copy(before))
    assert operators(after.model).count("Gemm") == 2
    same_answers(before, after.model)
