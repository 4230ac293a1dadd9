"""Pruning: to the ratio that was asked for, step by step, recovered, within its budget."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import edgekit
from edgekit.core.codec import encode
from edgekit.core.model import Signature, TensorSpec
from edgekit.core.pruning import PruningOptions
from edgekit.core.sources import DataSource
from edgekit.core.training import TrainingOptions
from edgekit.errors import Reason, StepError, Unsupported, UsageError
from edgekit.train.data import training_data_of
from edgekit.train.from_graph import load_canonical, trainable
from edgekit.train.pruning import structured
from edgekit.train.pruning.compensating import compensated
from edgekit.train.pruning.costs import macs_of, zeros_of
from edgekit.train.pruning.cutting import cut_graph
from edgekit.train.pruning.groups import arrays
from edgekit.train.pruning.sparsity import sparsity_at
from edgekit.train.pruning.step import prune_file
from edgekit.train.pruning.structured import prunable_groups
from edgekit.train.rates import PRUNED


@pytest.fixture(scope="module")
def learned(tmp_path_factory, edgekit_cache):
    """A small network that learned which half of a picture is brighter, and its samples, in a folder."""
    tmp_path, width = tmp_path_factory.mktemp("learned"), 16
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 2),
    )
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 320)
    images = random.normal(size=(320, 1, 8, 8)).astype(np.float32)
    images[labels == 0, :, :4] += 0.5
    images[labels == 1, :, 4:] += 0.5
    np.savez(tmp_path / "labelled.npz", image=images, labels=labels)
    np.savez(tmp_path / "unlabelled.npz", image=images)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for _ in range(40):
        rows = torch.from_numpy(random.integers(0, 320, 64))
        x, y = torch.from_numpy(images)[rows], torch.from_numpy(labels)[rows]
        loss = nn.functional.cross_entropy(module(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.onnx.export(
        module.eval(),
        (torch.zeros(1, 1, 8, 8),),
        str(tmp_path / "m.onnx"),
        dynamo=False,
        input_names=["image"],
        output_names=["scores"],
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    return edgekit.open(tmp_path / "m.onnx", out=tmp_path / "read")


@pytest.fixture
def model(learned, tmp_path):
    """It, with its samples in the test's own folder."""
    for name in ("labelled.npz", "unlabelled.npz"):
        (tmp_path / name).symlink_to(learned.path.parent.parent / name)
    return learned


def step(model, tmp_path, source="unlabelled", work="work", out="out.onnx", epochs=4, rate=3e-3, **options):
    recovery = TrainingOptions(
        data=(DataSource(path=str(tmp_path / f"{source}.npz")),),
        epochs=epochs,
        learning_rate=rate,
        threads=1,
        held_out=0.2,
        batch_size=32,
    )
    asked = PruningOptions(recovery=recovery, **options)
    return prune_file(
        model=str(model.unfolded),
        out=str(tmp_path / out),
        work=str(tmp_path / work),
        options=encode(asked),
        signature=encode(model.signature),
    )


def accuracy(path, tmp_path):
    held = np.load(tmp_path / "labelled.npz")
    session = onnxruntime.InferenceSession(str(path))
    got = [session.run(None, {"image": x[None]})[0].argmax() for x in held["image"]]
    return float((np.array(got) == held["labels"]).mean())


def test_a_network_is_pruned_by_halves_and_recovers_from_unlabelled_samples(model, tmp_path):
    base = accuracy(model.unfolded, tmp_path)
    assert base > 0.9
    for criterion in ("magnitude", "activation"):
        done = step(model, tmp_path, criterion=criterion, steps=2, work=criterion)
        assert done["result"] == 2
        assert done["steps"][2]["macs"] <= 0.5 * done["steps"][0]["macs"]
        assert done["steps"][2]["after"] < done["steps"][2]["before"]
        assert accuracy(tmp_path / "out.onnx", tmp_path) > base - 0.05
        assert (tmp_path / "out.onnx").stat().st_size < model.unfolded.stat().st_size


def test_taylor_ranks_by_labels_and_without_them_by_the_change_of_the_answers(model, tmp_path):
    done = step(model, tmp_path, source="labelled", criterion="taylor", learn_from="labels")
    assert done["metric"] == "accuracy"
    assert done["steps"][1]["after"] > 0.85
    loss = {c: step(model, tmp_path, criterion=c, work=c, compensation="none", epochs=1)["steps"][1]["before"]
            for c in ("taylor", "magnitude")}  # fmt: skip
    assert loss["taylor"] < loss["magnitude"]


def test_pruning_stops_by_itself_where_the_budget_breaks_and_keeps_the_step_before(model, tmp_path):
    done = step(
        model,
        tmp_path,
        source="labelled",
        learn_from="labels",
        epochs=1,
        rate=1e-6,
        steps=6,
        remove=0.9,
        multiple=1,
        floor=0.06,
        max_drop=5.0,
        compensation="none",
    )
    assert "max_drop allows 5" in done["stopped"]
    assert 0 < done["result"] < 6
    kept = done["steps"][done["result"]]
    assert 100 * (done["steps"][0]["after"] - kept["after"]) <= 5.0
    assert 100 * (done["steps"][0]["after"] - done["steps"][-1]["after"]) > 5.0
    assert macs_of(load_canonical(tmp_path / "out.onnx")) == kept["macs"]


def test_an_interrupted_run_goes_on_behind_its_last_step_to_the_same_bytes(model, tmp_path, monkeypatch):
    step(model, tmp_path, steps=2, work="whole", out="whole.onnx")
    calls = []
    real = structured.train

    def once(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise StepError("the loss became nan")
        return real(*arguments, **options)

    monkeypatch.setattr(structured, "train", once)
    with pytest.raises(StepError):
        step(model, tmp_path, steps=2)
    assert not (tmp_path / "out.onnx").exists()
    step(model, tmp_path, steps=2)
    assert len(calls) == 3
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_channels_that_others_predict_go_without_a_trace(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )
    with torch.no_grad():
        for tensor in (module[0].weight, module[0].bias):
            tensor[8:] = 0.5 * tensor[:8]
        module[0].bias[12:], module[0].weight[12:] = torch.rand(4), 0.0
    example = {"input": torch.zeros(1, 3, 8, 8)}
    model = edgekit.open(module.eval(), example_inputs=example, out=tmp_path / "read")
    path, x = model.unfolded, np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)
    data = training_data_of({"input": x}, options=TrainingOptions(data=(DataSource(path="x"),), batch_size=8))
    graph = load_canonical(path)
    [group, *_] = prunable_groups(path, "channels")[0]
    gone = {group.name: np.arange(8, 16)}
    adjusted = compensated(graph, trainable(path), [group], gone, data, 4)
    left = [cut_graph(source, [group], gone).SerializeToString() for source in (graph, adjusted)]
    sessions = [onnxruntime.InferenceSession(source) for source in (str(path), *left)]
    wanted, cut, mended = (np.concatenate([s.run(None, {"input": v[None]})[0] for v in x]) for s in sessions)
    assert np.abs(cut - wanted).max() > 0.1 * np.abs(wanted).max()
    assert np.abs(mended - wanted).max() < 3e-3 * np.abs(wanted).max()


def test_recovery_without_a_learning_rate_takes_the_one_that_held_out_samples_like_best(
    model, tmp_path, monkeypatch
):
    rates, train = [], structured.train

    def watched(module, objective, data, options, **others):
        rates.append(options.learning_rate)
        return train(module, objective, data, options, **others)

    monkeypatch.setattr(structured, "train", watched)
    step(model, tmp_path, remove=0.3, rate=0.0, epochs=3)
    assert len(rates) == 1
    assert rates[0] in PRUNED


def with_latencies(model, tmp_path, measure, **options):
    return structured.prune_structured(
        model.unfolded,
        tmp_path / "out.onnx",
        tmp_path,
        PruningOptions(measure="latency", target="onnxruntime", multiple=1, **options),
        None,
        measure,
    )


def test_the_latency_that_was_asked_for_is_reached_with_as_many_multiply_adds_as_it_allows(model, tmp_path):
    def measure(path):
        return 1.0 + 3.0 * macs_of(load_canonical(path)) / macs_of(load_canonical(model.unfolded))

    done = with_latencies(model, tmp_path, measure, remove=0.4, steps=2)
    assert done.result == 2
    for step, wanted in zip(done.steps[1:], (4.0 * 0.6**0.5, 2.4), strict=True):
        assert wanted - 0.25 < step.latency_ms <= wanted
    assert "2.4 ms on onnxruntime wanted" in done.notes[1]


def test_a_latency_out_of_reach_is_refused_with_what_was_reached_and_what_could_not_be_cut(
    model, tmp_path, monkeypatch
):
    with pytest.raises(Unsupported, match=r"cannot be brought to 1 ms .* fastest that was tried takes 3 ms"):
        with_latencies(model, tmp_path, lambda path: 3.0 if "trial" in path.name else 4.0, remove=0.75)

    def refuses(graph, groups, removal):
        raise Unsupported("the graph cannot be cut there", reasons=[Reason(node="/1/Conv", why="it is tied")])

    monkeypatch.setattr(structured, "cut_graph", refuses)
    with pytest.raises(Unsupported, match=r"some cuts cannot be made: .*it is tied"):
        with_latencies(model, tmp_path, lambda path: 4.0, remove=0.2)


@pytest.mark.parametrize("scope", ["global", pytest.param("uniform", marks=pytest.mark.conformance)])
def test_weights_go_to_zero_gradually_and_stay_there(model, tmp_path, scope):
    base = accuracy(model.unfolded, tmp_path)
    done = step(model, tmp_path, method="unstructured", remove=0.7, scope=scope)
    held = [a for a in arrays(onnx.load(tmp_path / "out.onnx")).values() if a.ndim > 1]
    share = sum(int((a == 0).sum()) for a in held) / sum(a.size for a in held)
    assert share == pytest.approx(0.7, abs=0.01)
    assert done["steps"][1]["after"] < done["steps"][1]["before"]
    assert accuracy(tmp_path / "out.onnx", tmp_path) > base - 0.05


def test_two_of_every_four_neighbours_are_zero_and_what_cannot_be_is_named(model, tmp_path):
    done = step(model, tmp_path, method="2:4")
    for name, values in arrays(onnx.load(tmp_path / "out.onnx")).items():
        if values.ndim > 1 and values.shape[1] % 4 == 0:
            fours = np.moveaxis(values, 1, -1).reshape(-1, 4)
            assert ((fours == 0).sum(axis=1) >= 2).all(), name
    assert zeros_of(load_canonical(tmp_path / "out.onnx")) > 0
    assert any("no multiple of 4" in r["why"] for r in done["reasons"])


def test_the_schedule_of_sparsity_rises_along_a_cubic_to_what_was_asked_for():
    found = [sparsity_at(s, 100, 0.8) for s in range(100)]
    assert found == sorted(found)
    assert found[0] < 0.15
    assert found[34] == pytest.approx(0.8 * (1 - 0.5**3), abs=0.02)
    assert found[70:] == [0.8] * 30


def test_every_pruning_option_out_of_range_is_named_at_once():
    with pytest.raises(UsageError) as caught:
        PruningOptions(remove=1.5, floor=2, steps=0, measure="latency", criterion="taylor", max_drop=1)
    assert len(caught.value.problems) == 6
    assert json.loads(json.dumps(encode(PruningOptions())))["method"] == "channels"
    assert Signature(inputs=(TensorSpec(name="x", dtype="float32", shape=(1,)),), outputs=())


def test_a_recipe_prunes_distills_converts_and_judges_beside_the_network_as_it_came(model, tmp_path):
    source, held = str(tmp_path / "unlabelled.npz"), str(tmp_path / "labelled.npz")
    (tmp_path / "recipe.toml").write_text(f"""
        targets = ["onnxruntime"]
        precisions = ["int8"]
        output = "out"
        source.model = "{model.unfolded}"
        calibration.data = {{path = "{source}", count = 24}}
        validation.data.path = "{held}"
        budgets.max_accuracy_drop = 8.0
        [prune]
        remove = 0.5
        criterion = "activation"
        [prune.recovery]
        data = [{{path = "{source}"}}]
        epochs = 2
        threads = 1
        [finetune]
        data = [{{path = "{held}"}}]
        epochs = 2
        threads = 1
        learning_rate = 3e-3
        [distill]
        label_weight = 0.1
        """)
    said = []
    report = edgekit.run(tmp_path / "recipe.toml", on_event=lambda e: said.append((e.step, e.state, e.note)))
    assert report.verdict == "pass", report.verdict_reasons
    assert report.artifacts[0].size_bytes < report.source.size_bytes
    notes = "\n".join(report.source.notes)
    assert "multiply-adds to" in notes
    assert "distill: accuracy" in notes
    assert any(state == "note" and note.startswith("epoch 2/2") for _, state, note in said)
    yardstick = next((tmp_path / "out" / "source" / "onnx").glob("*.onnx"))
    assert macs_of(load_canonical(model.path)) == macs_of(onnx.load(yardstick))


@pytest.mark.conformance
def test_a_student_of_other_ports_is_refused_with_both_signatures(model, tmp_path):
    from edgekit.core.recipe import Recipe, SourceOptions
    from edgekit.core.training import DistillationOptions

    torch.onnx.export(
        nn.Linear(3, 2).eval(),
        (torch.zeros(1, 3),),
        str(tmp_path / "student.onnx"),
        dynamo=False,
        input_names=["x"],
        output_names=["scores"],
    )
    data = (DataSource(path=str(tmp_path / "unlabelled.npz")),)
    recipe = Recipe(
        source=SourceOptions(model=str(model.unfolded)),
        targets=("onnxruntime",),
        precisions=("float32",),
        output=str(tmp_path / "out"),
        finetune=TrainingOptions(data=data),
        distill=DistillationOptions(student=SourceOptions(model=str(tmp_path / "student.onnx"))),
    )
    with pytest.raises(UsageError, match=r"the student has x: float32\[1, 3\]"):
        edgekit.run(recipe)


def test_features_of_layers_that_lost_channels_are_refused_with_both_shapes(model, tmp_path):
    from edgekit.core.training import DistillationOptions

    layers = [layer.path for layer in trainable(model).meta["layers"]]
    with pytest.raises(UsageError, match="whose width is the same in both"):
        step(model, tmp_path, remove=0.5, epochs=1, distill=DistillationOptions(features=(layers[0],)))
