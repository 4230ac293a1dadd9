"""The node that answers otherwise than its source is named, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graph_models import classifier, graph, needed

from edgekit.core.arrays import save_arrays
from edgekit.graph.locate import first_node, first_value

onnx = needed("onnx")
needed("onnxruntime")
make = onnx.helper.make_node
RANDOM = np.random.default_rng(3)
WEIGHTS = {name: RANDOM.standard_normal((4, 4)).astype(np.float32) for name in ("wa", "wb", "wc", "bias")}


def branches(**scale: float) -> Any:
    """x -> a -> relu, x -> b; both added -> c -> y; every product a node named after its weight."""
    nodes = [
        make("MatMul", ["x", "wa"], ["a"], name="product_a"),
        make("MatMul", ["x", "wb"], ["b"], name="product_b"),
        make("Relu", ["a"], ["positive"], name="relu"),
        make("Add", ["positive", "b"], ["joined"], name="join"),
        make("MatMul", ["joined", "wc"], ["y"], name="product_c"),
    ]
    shape = (np.float32, [4, 4])
    weights = {n: (v * scale.get(n, 1.0)).astype(np.float32) for n, v in WEIGHTS.items() if n != "bias"}
    return graph(nodes, {"x": shape}, {"y": shape}, weights)


def written(folder: Path, name: str, model: Any) -> str:
    onnx.save(model, folder / f"{name}.onnx")
    return str(folder / f"{name}.onnx")


@pytest.fixture
def inputs(tmp_path: Path) -> str:
    save_arrays(tmp_path / "in.npz", {"x": RANDOM.standard_normal((4, 4)).astype(np.float32)})
    return str(tmp_path / "in.npz")


@pytest.mark.parametrize("letter", ["a", "b", "c"])
def test_the_node_with_an_altered_weight_is_named(tmp_path, inputs, letter):
    right = written(tmp_path, "right", branches())
    wrong = written(tmp_path, "wrong", branches(**{f"w{letter}": 1.05}))
    assert first_node(right, wrong, inputs) == f"'product_{letter}' (MatMul)"
    assert first_node(right, right, inputs) == ""


def test_nodes_without_a_counterpart_are_named_as_suspects(tmp_path, inputs):
    model = branches(wa=1.05)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["renamed" if n == "a" else n for n in names]
    wrong = written(tmp_path, "wrong", model)
    found = first_node(written(tmp_path, "right", branches()), wrong, inputs)
    assert found == "'relu' (Relu), or one of those before it that have no counterpart: 'product_a'"


def biased(*, early: bool) -> Any:
    """x @ wa + bias, the bias added to the product or folded in front of it: `a` keeps its name alone."""
    shape = (np.float32, [4, 4])
    nodes = [
        make("MatMul", ["x", "wa"], ["a"], name="product"),
        make("Add", ["a", "bias"], ["y"], name="add"),
    ]
    if early:
        nodes = [
            make("MatMul", ["x", "wa"], ["plain"], name="product"),
            make("Add", ["plain", "bias"], ["a"], name="add"),
            make("Identity", ["a"], ["y"], name="copy"),
        ]
    return graph(nodes, {"x": shape}, {"y": shape}, {n: WEIGHTS[n] for n in ("wa", "bias")})


def test_a_tensor_that_only_kept_its_name_is_not_blamed(tmp_path, inputs):
    right, moved = (written(tmp_path, str(early), biased(early=early)) for early in (False, True))
    assert first_node(right, moved, inputs) == ""


def test_a_whole_classifier_that_was_read_right_has_no_guilty_node(tmp_path):
    from edgekit.graph.canonical import finish, prepare, save_model

    source = written(tmp_path, "source", classifier(opset=13))
    prepared, _ = prepare(onnx.load(source), {})
    save_model(prepared, tmp_path / "prepared.onnx")
    finish(str(tmp_path / "prepared.onnx"), str(tmp_path / "model.onnx"), True, str(tmp_path / "u.onnx"))
    save_arrays(tmp_path / "in.npz", {"image": RANDOM.standard_normal((1, 3, 8, 8)).astype(np.float32)})
    for form in ("prepared", "model", "u"):
        assert first_node(source, str(tmp_path / f"{form}.onnx"), str(tmp_path / "in.npz")) == ""


def test_a_value_is_found_in_any_order_of_its_axes_and_a_wrong_one_is_named(tmp_path):
    nodes = [
        make("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        make("Mul", ["t", "two"], ["m"]),
        make("Relu", ["m"], ["y"]),
    ]
    shape = (np.float32, [1, 2, 3, 4])
    model = graph(nodes, {"x": shape}, {"y": (np.float32, [1, 4, 2, 3])}, {"two": np.float32([2])})
    x = RANDOM.standard_normal((1, 2, 3, 4)).astype(np.float32)
    save_arrays(tmp_path / "in.npz", {"x": x})
    right = {"double": 2 * x, "flat": np.maximum(2 * x, 0).transpose(0, 3, 1, 2).reshape(4, 6)}
    save_arrays(tmp_path / "right.npz", right)
    save_arrays(tmp_path / "wrong.npz", {**right, "double": 2.001 * x})
    files = written(tmp_path, "m", model), str(tmp_path / "in.npz")
    assert first_value(str(tmp_path / "right.npz"), *files) == ""
    assert first_value(str(tmp_path / "wrong.npz"), *files) == "double"
    # merged with what reads it, which is there: not to blame
    assert first_value(str(tmp_path / "wrong.npz"), *files, {"flat": ["double"]}) == ""
