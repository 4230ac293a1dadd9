"""The trainable form of a graph: forward like ONNX Runtime, gradients like numerical ones, weights back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from graph_models import graph, normal
from trained_forms import agreement, canonical, derivative_error, gradients_missing, same_weights

from edgekit.errors import Unsupported, UsageError
from edgekit.train import trainable, write_back

F = np.float32
QUICK = ["mobilenet_v2", "lstm", "bert"]


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Canonical files of three families: convolutions, a recurrent layer, a Transformer of token ids."""
    import networks as library

    folder = tmp_path_factory.mktemp("networks")
    found = {}
    for name in QUICK:
        library.export(name, folder)
        found[name] = canonical(folder / f"{name}.onnx")
    return found


@pytest.mark.parametrize("name", QUICK)
def test_a_network_answers_learns_and_is_written_back(name: str, networks: dict, tmp_path: Path) -> None:
    path = networks[name]
    module = trainable(path)
    assert module.meta["batch"] == ""
    assert agreement(module, path, batch=1) < 2e-6
    assert agreement(module, path, batch=3) < 5e-6
    assert not gradients_missing(module, path)
    assert derivative_error(path) < 2e-5
    assert same_weights(path, write_back(module, path, tmp_path / "back.onnx"))


def save(model: Any, place: Path) -> Path:
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(onnx.shape_inference.infer_shapes(model), place)
    return place


def make(*arguments: Any, **attributes: Any) -> Any:
    return onnx.helper.make_node(*arguments, **attributes)


def test_a_trained_weight_changes_the_answers_of_the_file_alike(networks: dict, tmp_path: Path) -> None:
    module = trainable(networks["lstm"])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    moved = write_back(module, networks["lstm"], tmp_path / "moved.onnx")
    assert agreement(module, moved, batch=2) < 5e-6
    assert agreement(module, networks["lstm"], batch=1) > 1e-3
    assert not same_weights(networks["lstm"], moved)


def test_an_unknown_operator_is_refused_by_its_node(tmp_path: Path) -> None:
    nodes = [make("NonZero", ["x"], ["z"], name="find"), make("Cast", ["z"], ["y"], name="cast", to=1)]
    path = save(graph(nodes, {"x": (F, (2, 3))}, {"y": (F, (2, "n"))}, {}), tmp_path / "m.onnx")
    with pytest.raises(Unsupported) as caught:
        trainable(path)
    assert [r.node for r in caught.value.reasons] == ["find (NonZero)"]


def test_a_file_that_is_not_canonical_says_how_to_read_it(tmp_path: Path) -> None:
    model = graph([make("Relu", ["x"], ["y"], name="r")], {"x": (F, (1, 3))}, {"y": (F, (1, 3))}, {}, 17)
    with pytest.raises(UsageError, match="opset 17") as caught:
        trainable(save(model, tmp_path / "m.onnx"))
    assert "edgekit.open" in caught.value.hint


def twice(first: np.ndarray) -> Any:
    nodes = [
        make("Gemm", ["x", "w", "b"], ["h"], name="one", transB=1),
        make("Gemm", ["h", "w", "b"], ["y"], name="two", transB=1),
    ]
    return graph(nodes, {"x": (F, (1, 4))}, {"y": (F, (1, 4))}, {"w": first, "b": np.zeros(4, np.float32)})


def test_a_weight_used_twice_is_one_parameter_and_equal_zeros_are_two(tmp_path: Path) -> None:
    path = save(twice(normal(4, 4)), tmp_path / "m.onnx")
    module = trainable(path)
    assert module.one.weight is module.two.weight
    assert module.one.bias is not module.two.bias
    with torch.no_grad():
        module.one.bias.add_(1.0)
        module.one.weight.mul_(2.0)
    back = write_back(module, path, tmp_path / "back.onnx")
    assert agreement(module, back, batch=2) < 1e-6
    nodes = {n.name: n for n in onnx.load(back).graph.node}
    assert nodes["one"].input[1] == nodes["two"].input[1]
    assert nodes["one"].input[2] != nodes["two"].input[2]


def test_weights_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    path = save(twice(normal(4, 4)), tmp_path / "m.onnx")
    module = trainable(path)
    with torch.no_grad():
        module.one.weight[0, 0] = float("nan")
    with pytest.raises(UsageError, match="'w' are not finite"):
        write_back(module, path, tmp_path / "back.onnx")
    assert not (tmp_path / "back.onnx").exists()


def test_a_batch_that_cannot_be_freed_is_refused_with_its_node(tmp_path: Path) -> None:
    nodes = [make("Squeeze", ["x", "axes"], ["v"], name="drop"), make("Relu", ["v"], ["y"], name="r")]
    axes = {"axes": np.array([0], np.int64)}
    path = save(graph(nodes, {"x": (F, (1, 4))}, {"y": (F, (4,))}, axes), tmp_path / "m.onnx")
    module = trainable(path)
    assert "squeeze" in module.meta["batch"]
    assert agreement(module, path, batch=1) == 0
    with pytest.raises(Unsupported, match="a batch of 2: this graph takes 1"):
        module(torch.zeros(2, 4))
