"""Pruning on a real task: a Transformer encoder that loses half of its heads."""

import numpy as np
import onnxruntime
import pytest
import taught_networks
import torch
from networks import Encoder
from torch import nn

import edgekit
from edgekit.core.pruning import PruningOptions
from edgekit.core.sources import DataSource
from edgekit.core.training import TrainingOptions
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
    small = edgekit.prune(model.unfolded, out=tmp_path / "small", options=PruningOptions(
        method="heads", remove=0.5, floor=0.5, criterion="activation", recovery=recovery))
    before = sum(g.count for g in prunable_groups(model.unfolded, "heads")[0])
    after = sum(g.count for g in prunable_groups(small.unfolded, "heads")[0])
    assert after == before // 2
    assert base > 0.8
    assert accuracy(small.path, held, truth) >= base - 0.02
    assert small.path.stat().st_size < model.path.stat().st_size
