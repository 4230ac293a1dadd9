"""Channels and heads are cut out of graphs exactly, or refused by name."""

from pathlib import Path

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from quantize_models import GraphBuilder
from torch import nn

import edgekit
from edgekit.core.pruning import PruningOptions
from edgekit.errors import Unsupported, UsageError
from edgekit.graph.generate import generate_inputs
from edgekit.train.from_graph import load_canonical, trainable
from edgekit.train.pruning import sparsity, structured
from edgekit.train.pruning.choosing import choose
from edgekit.train.pruning.costs import cost_model, macs_of, parameters_of
from edgekit.train.pruning.cutting import cut_graph
from edgekit.train.pruning.groups import arrays
from edgekit.train.pruning.proof import agrees
from edgekit.train.pruning.structured import prunable_groups


@pytest.fixture(scope="module")
def read(tmp_path_factory, edgekit_cache):
    """`read("resnet")`: the file of a network's canonical graph with BatchNormalization in place."""
    made = {}

    def path(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            source = networks.export(name, folder)
            made[name] = edgekit.open(source, out=folder / "read").unfolded
        return made[name]

    return path


@pytest.mark.parametrize(
    ("name", "method", "least"),
    [
        ("unet", "channels", 12),
        pytest.param("mobilenet_v3", "channels", 9, marks=pytest.mark.conformance),
        pytest.param("resnet", "channels", 6, marks=pytest.mark.conformance),
        pytest.param("cnn_1d", "channels", 3, marks=pytest.mark.conformance),
        ("transformer", "structured", 4),
        ("bert", "heads", 2),
    ],
)
def test_half_of_every_group_is_cut_and_the_rest_answers_like_the_graph_that_ignores_it(
    read, name, method, least
):
    path = read(name)
    model = load_canonical(path)
    groups, _ = prunable_groups(path, method)
    assert len(groups) >= least
    random = np.random.default_rng(0)
    removal = {g.name: np.sort(random.permutation(g.count)[: g.count // 2]) for g in groups}
    assert agrees(model, groups, removal, path) == ""
    smaller = cut_graph(model, groups, removal)
    assert parameters_of(smaller) < (0.95 if method == "heads" else 0.8) * parameters_of(model)
    left = {g.name: g.count - len(removal[g.name]) for g in groups}
    assert cost_model(model, groups, "macs")(left) == pytest.approx(macs_of(smaller))
    assert cost_model(model, groups, "parameters")(left) == pytest.approx(parameters_of(smaller))


@pytest.mark.parametrize("channels_last", [True, False])
def test_what_reads_a_flattened_picture_loses_the_values_of_the_channels_that_go(tmp_path, channels_last):
    """Keras flattens with channels last: neighbours come from different channels."""
    b = GraphBuilder()
    x = b.add("Conv", ["x", b.weight("first.w", 8, 1, 3, 3)], "first")
    x = b.add("Conv", [b.add("Relu", [x], "first.y"), b.weight("second.w", 12, 8, 3, 3)], "second")
    x = b.add("Relu", [x], "second.y")
    if channels_last:
        x = b.add("Transpose", [x], "moved", perm=[0, 2, 3, 1])
    x = b.add("Reshape", [x, b.constant("shape", np.int64([1, 12 * 16]))], "flat")
    x = b.add("Gemm", [x, b.weight("dense.w", 12 * 16, 6)], "dense")
    path = tmp_path / "model.onnx"
    onnx.save(b.build({"x": [1, 1, 8, 8]}, [x]), path)
    groups, _ = prunable_groups(path, "channels")
    assert {g.name: g.count for g in groups} == {"first": 8, "second": 12}
    removal = {"first": np.array([1, 6]), "second": np.array([0, 5, 11])}
    model = load_canonical(path)
    assert agrees(model, groups, removal, path) == ""
    dense = arrays(cut_graph(model, groups, removal))["dense.w"]
    whole = arrays(model)["dense.w"]
    whole = whole.reshape(16, 12, 6) if channels_last else whole.reshape(12, 16, 6).transpose(1, 0, 2)
    kept = whole[:, [1, 2, 3, 4, 6, 7, 8, 9, 10]]
    kept = kept if channels_last else kept.transpose(1, 0, 2)
    np.testing.assert_array_equal(dense, kept.reshape(9 * 16, 6))


def test_no_more_is_cut_than_what_was_asked_for_needs(read):
    """The cheapest layer by loss over work would go far beyond it: a dearer one that suffices is taken."""
    path = read("unet")
    model = load_canonical(path)
    groups, _ = prunable_groups(path, "channels")
    cost, original = cost_model(model, groups, "macs"), {g.name: g.count for g in groups}
    options = PruningOptions(remove=0.02, multiple=1, floor=0.1)
    saved = {g.name: cost({}) - cost({g.name: g.count - 1}) for g in groups}
    large, small = max(saved, key=saved.get), min(saved, key=saved.get)
    scores = {g.name: np.full(g.count, {large: 1.0, small: 1.1}.get(g.name, 1e6)) for g in groups}
    removal = choose(groups, scores, cost, cost({}) - saved[small], options, original)
    assert {name: len(units) for name, units in removal.items()} == {small: 1}


def test_a_unit_in_the_wrong_place_is_caught_by_the_proof(read):
    path = read("resnet")
    model = load_canonical(path)
    groups, _ = prunable_groups(path, "channels")
    group = max(groups, key=lambda g: len(g.cuts))
    from dataclasses import replace

    wrong = [replace(c, units=np.roll(c.units, 1)) if c.side == "in" else c for c in group.cuts]
    shifted = replace(group, cuts=tuple(wrong))
    assert agrees(model, [group], {group.name: np.array([0])}, path) == ""
    # the cut and the mask move together where all readers do: only one reader is wrong here
    first = next(i for i, c in enumerate(group.cuts) if c.side == "in")
    one = replace(group, cuts=tuple(wrong[i] if i == first else c for i, c in enumerate(group.cuts)))
    assert "does not answer like" in agrees(model, [one], {group.name: np.array([0])}, path)
    assert shifted.count == group.count


class Grouped(nn.Module):
    """A convolution in groups of several channels, and a recurrent layer behind another."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 8, 3, padding=1, groups=2)
        self.third, self.lstm = nn.Conv1d(8, 6, 1), nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.third(torch.relu(self.second(torch.relu(self.first(x)))))
        return self.head(self.lstm(x.transpose(1, 2))[0][:, -1])


def test_what_cannot_be_followed_is_refused_by_name(tmp_path):
    torch.manual_seed(0)
    torch.onnx.export(
        Grouped().eval(),
        (torch.randn(1, 4, 9),),
        str(tmp_path / "m.onnx"),
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
    )
    path = edgekit.open(tmp_path / "m.onnx", out=tmp_path / "read").unfolded
    groups, reasons = prunable_groups(path, "channels")
    text = "\n".join(map(str, reasons))
    assert groups == []
    assert "in 2 groups of several channels" in text
    assert "reach the recurrent layer" in text
    assert "a recurrent layer, whose gates are not pruned" in text
    assert "they are an output" in text
    with pytest.raises(Unsupported, match="no channels of this network can be pruned") as caught:
        structured.prune_structured(path, tmp_path / "out.onnx", tmp_path, PruningOptions(), None)
    assert any("recurrent" in str(r) for r in caught.value.reasons)
    assert not (tmp_path / "out.onnx").exists()


def test_counts_that_are_left_are_multiples_and_no_layer_falls_below_its_floor(read):
    path = read("resnet")
    model = load_canonical(path)
    groups, _ = prunable_groups(path, "channels")
    for scope in ("global", "uniform"):
        options = PruningOptions(remove=0.4, scope=scope, multiple=4, floor=0.5)
        scores = structured.importance.magnitude(model, groups)
        cost = cost_model(model, groups, "macs")
        original = {g.name: g.count for g in groups}
        removal = choose(groups, scores, cost, 0.6 * cost({}), options, original)
        for group in groups:
            left = group.count - len(removal.get(group.name, ()))
            assert left % 4 == 0
            assert left >= 0.5 * group.count
        assert macs_of(cut_graph(model, groups, removal)) <= 0.6 * macs_of(model)


def test_more_than_the_floors_allow_says_what_to_change(read):
    with pytest.raises(Unsupported, match=r"lower floor \(it is 0.5\)"):
        structured.prune_structured(
            read("resnet"), Path("x"), Path("y"), PruningOptions(remove=0.95, floor=0.5), None
        )


def test_layers_named_by_a_glob_lose_nothing(read, tmp_path):
    path = read("resnet")
    structured.prune_structured(
        path, tmp_path / "out.onnx", tmp_path, PruningOptions(remove=0.3, multiple=1, keep=("/4/*",)), None
    )
    before, after = arrays(onnx.load(path)), arrays(onnx.load(tmp_path / "out.onnx"))
    assert any(after[name].shape != before[name].shape for name in after if name in before)
    reads = [i for n in onnx.load(path).graph.node if n.name.startswith("/4/") for i in n.input]
    for name in (n for n in reads if n in before and before[n].ndim == 4):
        assert after[name].shape[0] == before[name].shape[0]


@pytest.mark.parametrize("method", ["channels", "2:4"])
def test_a_glob_that_names_no_layer_is_refused_with_its_neighbour(read, tmp_path, method):
    run = sparsity.prune_sparse if method == "2:4" else structured.prune_structured
    with pytest.raises(UsageError, match="names no layer"):
        run(
            read("resnet"),
            tmp_path / "out.onnx",
            tmp_path,
            PruningOptions(method=method, keep=("/9/Cnv",)),
            None,
        )


def test_half_of_the_heads_go_and_the_network_stays_exact(read, tmp_path):
    path = read("transformer")
    done = structured.prune_structured(
        path, tmp_path / "out.onnx", tmp_path, PruningOptions(method="heads", remove=0.5, floor=0.25), None
    )
    groups, _ = prunable_groups(tmp_path / "out.onnx", "heads")
    assert sum(g.count for g in groups) == 4
    assert done.steps[1].parameters < done.steps[0].parameters
    with torch.no_grad():
        inputs = generate_inputs(path, 0)
        got = trainable(tmp_path / "out.onnx")(*map(torch.from_numpy, inputs.values())).numpy()
    wanted = onnxruntime.InferenceSession(str(tmp_path / "out.onnx")).run(None, inputs)[0]
    assert np.allclose(got, wanted, atol=1e-5)
