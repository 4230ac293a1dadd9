"""Small networks and runs of the training loop, for its tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.training import TrainingOptions
from edgekit.train.data import TrainingData, training_data_of
from edgekit.train.judging import Judge
from edgekit.train.loop import Trained, train
from edgekit.train.losses import Objective, label_loss

OPTIONS = TrainingOptions(data=(DataSource(path="in memory"),), epochs=3, batch_size=32, threads=1)
SIGNATURE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(1, 2)),),
    outputs=(TensorSpec(name="scores", dtype="float32", shape=(1, 2)),),
)


class Named(nn.Module):
    """`body` on the inputs side by side: {"scores": [n, 2]}, and with `second` {"sum": [n, 1]}, too."""

    def __init__(self, body: nn.Module, *, second: bool = False) -> None:
        super().__init__()
        self.body, self.second = body, second

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        joined = torch.cat(list(inputs.values()), 1)
        outputs = {"scores": self.body(joined)}
        return {**outputs, "sum": joined.sum(1, keepdim=True)} if self.second else outputs


def network(*, width: int = 16, seed: int = 0) -> Named:
    """Two inputs, one hidden layer with BatchNorm and dropout, two classes."""
    torch.manual_seed(seed)
    layers = [nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.05), nn.Linear(width, 2)]
    return Named(nn.Sequential(*layers))


def two_ports() -> Named:
    """The same with the inputs one by one, and two outputs."""
    return Named(network().body, second=True)


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """512 points [512, 2] float32 of two classes that a line divides, and their classes."""
    points = np.random.default_rng(0).normal(size=(512, 2)).astype(np.float32)
    return points, (points[:, 1] > 0.5 * points[:, 0]).astype(np.int64)


def objective_of(data: TrainingData, *, output: str, kind: str = "auto") -> Objective:
    """Labels alone."""
    scores = np.zeros((1, 2), np.float32)
    loss = label_loss(kind, output, scores, data.labels(), form="logits", smoothing=0.0)  # type: ignore[arg-type]
    return Objective(labels=loss)


def run(module: nn.Module, options: TrainingOptions, *, labels=lambda y: y, **more) -> Trained:
    """Train on the blobs, judged by accuracy on a tenth of them."""
    inputs, classes = blobs()
    data = training_data_of({"x": inputs}, labels(classes), options=options)
    objective = objective_of(data, output="scores", kind=options.loss)
    judge = Judge(objective=objective, data=data, metric="accuracy", output="scores")
    return train(module, objective, data, options, judge=judge, **more)
