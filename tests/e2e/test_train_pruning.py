"""Pruning on real tasks: a Transformer encoder that loses half of its heads, digits at half of the work."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import taught_networks
import torch
from networks import Encoder
from torch import nn

import edgekit
from edgekit.core.pruning import PruningOptions
from edgekit.core.recipe import load_recipe
from edgekit.core.sources import DataSource, SourceOptions
from edgekit.core.training import TrainingOptions
from edgekit.formats.tf_export import ENVIRONMENT
from edgekit.train.pruning.structured import prunable_groups

STEPS, HELD_BACK = 16, 20  # steps of two readings; recordings that nothing is trained on


def windows():
    """Wrist motion (BasicMotions) in windows of 16 steps of two readings of six axes: inputs, activities,
    for training and held back by recording."""
    series, labels = taught_networks.motion()
    cut = [series[:, :, start : start + 2 * STEPS] for start in (0, 17, 34, 51, 68)]
    parts = [c.transpose(0, 2, 1).reshape(len(c), STEPS, 12) for c in cut]
    both = [np.concatenate([p[rows] for p in parts]) for rows in (slice(HELD_BACK, None), slice(HELD_BACK))]
    return [(x, np.tile(y, len(parts))) for x, y in
            zip(both, (labels[HELD_BACK:], labels[:HELD_BACK]), strict=True)]


def accuracy(path, inputs, labels):
    session = onnxruntime.InferenceSession(str(path))
    name = session.get_inputs()[0].name
    got = [session.run(None, {name: x[None]})[0].argmax() for x in inputs]
    return float((np.array(got) == labels).mean())


@pytest.mark.conformance
def test_a_transformer_of_wrist_motion_loses_half_of_its_heads_and_recovers_without_labels(tmp_path):
    (inputs, labels), (held, truth) = windows()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = Encoder(32, 2, STEPS)
    optimizer = torch.optim.AdamW(module.parameters(), 2e-3)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    for step in range(150):
        rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(step))[:32]
        loss = nn.functional.cross_entropy(module(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.savez(tmp_path / "unlabelled.npz", x=inputs)
    model = edgekit.open(module.eval(), example_inputs={"x": x[:1]}, out=tmp_path / "read")
    base = accuracy(model.unfolded, held, truth)
    recovery = TrainingOptions(data=(DataSource(path=str(tmp_path / "unlabelled.npz")),), epochs=12,
                               learning_rate=2e-3, batch_size=32, threads=1)
    options = PruningOptions(method="heads", remove=0.5, floor=0.25)
    cut = edgekit.prune(model.unfolded, out=tmp_path / "cut", options=options)
    small = edgekit.prune(model.unfolded, out=tmp_path / "small", options=replace(
        options, criterion="taylor", recovery=recovery))
    before = sum(g.count for g in prunable_groups(model.unfolded, "heads")[0])
    after = sum(g.count for g in prunable_groups(small.unfolded, "heads")[0])
    assert after == before // 2
    assert base > 0.8
    recovered = accuracy(small.path, held, truth)
    assert recovered >= base - 0.02
    assert accuracy(cut.path, held, truth) < recovered - 0.1
    assert small.path.stat().st_size < model.path.stat().st_size


def in_keras(root, digits, place):
    """The network saved by Keras, channels last, and a folder with its samples."""
    script = root / "tests" / "support" / "digits_keras.py"
    done = subprocess.run(
        [sys.executable, str(script), str(digits), str(place / "digits.keras")],
        env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for file in digits.glob("*.npz"):
        arrays = dict(np.load(file))
        np.savez(place / file.name, **{**arrays, "image": arrays["image"].transpose(0, 2, 3, 1)})
    return SourceOptions(model=str(place / "digits.keras")), place


@pytest.mark.conformance
@pytest.mark.parametrize("kind", ["torch", "onnx", "keras"])
def test_digits_at_half_of_the_multiply_adds_in_int8_answer_as_well_and_faster_on_three_engines(
    root, digits, tmp_path, need, kind
):
    recipe = load_recipe(root / "examples" / "digits" / "compress.toml")
    source = replace(recipe.source, model=str(root / "examples" / "digits" / "model.py") + ":digits_net",
                     state=str(digits / "digits.pt"))
    if kind == "onnx":
        model = edgekit.open(source.model, state=source.state, out=tmp_path / "read")
        source = SourceOptions(model=str(model.path))
    if kind == "keras":
        need("tensorflow")
        source, digits = in_keras(root, digits, tmp_path)

    def lying(data):
        return replace(data, path=str(digits / Path(data.path).name))

    def training(options):
        return replace(options, data=tuple(map(lying, options.data)))

    report = edgekit.run(replace(
        recipe, source=source, output=str(tmp_path / "out"),
        calibration=replace(recipe.calibration, data=lying(recipe.calibration.data)),
        validation=replace(recipe.validation, data=lying(recipe.validation.data)),
        prune=replace(recipe.prune, recovery=training(recipe.prune.recovery)),
        qat=replace(recipe.qat, training=training(recipe.qat.training)),
    ))  # fmt: skip
    print(kind, [(a.target, a.accuracy.drop, a.accuracy.interval, a.accuracy.n, a.speedup) for a in
                 report.artifacts], report.source.notes)  # fmt: skip
    assert report.verdict == "pass", report.verdict_reasons
    assert all(a.accuracy.drop <= 0.5 and a.speedup > 1.0 for a in report.artifacts)
    assert max(a.speedup for a in report.artifacts) > 1.5
