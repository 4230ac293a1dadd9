"""Networks of the families edge models come from, written in PyTorch: small for tests, large for benchmarks.

Weights are seeded and random; running statistics of BatchNorm are settled on seeded inputs, so that signals
keep their size through the network as they do in a trained one. `python networks.py OUT NAME…` writes
OUT/NAME.onnx and OUT/NAME.npz (samples for calibration, by input name, samples first).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 10


@dataclass(frozen=True, kw_only=True)
class Network:
    """A module in eval mode with the names of its inputs and outputs, and samples of its inputs."""

    module: nn.Module
    samples: dict[str, np.ndarray]
    outputs: tuple[str, ...]


def block(
    cin: int, cout: int, k: int = 3, stride: int = 1, group: int = 1, act: type | None = nn.ReLU
) -> nn.Module:
    """Convolution, BatchNorm, activation."""
    layers = [nn.Conv2d(cin, cout, k, stride, k // 2, groups=group, bias=False), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    """`body(x) + shortcut(x)`, then `after`."""

    def __init__(
        self, body: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.body, self.shortcut, self.after = body, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.body(x) + self.shortcut(x))


class SqueezeExcite(nn.Module):
    """Channels weighed by HardSigmoid of two 1x1 convolutions of their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        s = functional.adaptive_avg_pool2d(x, 1)
        return x * functional.hardsigmoid(self.up(functional.relu(self.down(s))))


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]


def resnet(large: bool) -> nn.Module:
    """A 7x7 stem, a padded max-pool and basic blocks, as in ResNet-18."""
    width = 64 if large else 8
    layers: list[nn.Module] = [block(3, width, 7, 2), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage in range(4 if large else 3):
        for number in range(2 if large else 1):
            cout, stride = width << stage, 2 if stage and not number else 1
            body = nn.Sequential(block(channels, cout, 3, stride), block(cout, cout, act=None))
            plain = stride == 1 and channels == cout
            shortcut = None if plain else block(channels, cout, 1, stride, act=None)
            layers.append(Residual(body, shortcut, nn.ReLU()))
            channels = cout
    return nn.Sequential(*layers, *head(channels))


def inverted(cin: int, cout: int, *, k: int, expand: int, stride: int, act: type, excite: bool) -> nn.Module:
    hidden = cin * expand
    layers = [block(cin, hidden, 1, act=act)] if expand > 1 else []
    layers.append(block(hidden, hidden, k, stride, hidden, act))
    if excite:
        layers.append(SqueezeExcite(hidden))
    layers.append(block(hidden, cout, 1, act=None))
    body = nn.Sequential(*layers)
    return Residual(body) if stride == 1 and cin == cout else body


def mobilenet_v2(large: bool) -> nn.Module:
    """Inverted residuals with ReLU6."""
    rows = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    small = [(1, 8, 1, 1), (4, 12, 2, 2), (4, 16, 1, 1)]
    channels = 32 if large else 8
    layers = [block(3, channels, 3, 2, act=nn.ReLU6)]
    for expand, cout, repeats, stride in rows if large else small:
        for number in range(repeats):
            layers.append(
                inverted(
                    channels,
                    cout,
                    k=3,
                    expand=expand,
                    stride=1 if number else stride,
                    act=nn.ReLU6,
                    excite=False,
                )
            )
            channels = cout
    last = channels * 4
    return nn.Sequential(*layers, block(channels, last, 1, act=nn.ReLU6), *head(last))


def mobilenet_v3(large: bool) -> nn.Module:
    """HardSwish, 5x5 depthwise kernels, squeeze-and-excite."""
    rows = [
        (3, 1, 16, False, nn.ReLU, 1), (3, 4, 24, False, nn.ReLU, 2), (3, 3, 24, False, nn.ReLU, 1),
        (5, 3, 40, True, nn.ReLU, 2), (5, 3, 40, True, nn.ReLU, 1), (3, 6, 80, False, nn.Hardswish, 2),
        (3, 3, 80, False, nn.Hardswish, 1), (3, 3, 80, False, nn.Hardswish, 1),
        (3, 6, 112, True, nn.Hardswish, 1), (3, 6, 112, True, nn.Hardswish, 1),
        (5, 6, 160, True, nn.Hardswish, 2), (5, 6, 160, True, nn.Hardswish, 1),
    ]  # fmt: skip
    small = [
        (3, 2, 8, False, nn.ReLU, 1),
        (5, 4, 12, True, nn.Hardswish, 2),
        (5, 3, 12, True, nn.Hardswish, 1),
    ]
    channels = 16 if large else 8
    layers = [block(3, channels, 3, 2, act=nn.Hardswish)]
    for k, expand, cout, excite, act, stride in rows if large else small:
        layers.append(inverted(channels, cout, k=k, expand=expand, stride=stride, act=act, excite=excite))
        channels = cout
    last = channels * 6
    layers += [block(channels, last, 1, act=nn.Hardswish), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(last, last), nn.Hardswish(), nn.Linear(last, CLASSES))


class UNet(nn.Module):
    """Down by max-pool, up by transposed convolutions, skips by concatenation; a mask of two channels."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        ins = (3, *widths[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(block(i, o), block(o, o)) for i, o in zip(ins, widths, strict=True)
        )
        pairs = list(zip(widths[1:], widths[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(i, o, 2, 2) for i, o in pairs)
        self.join = nn.ModuleList(nn.Sequential(block(2 * o, o), block(o, o)) for _, o in pairs)
        self.mask = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, level in enumerate(self.down):
            x = level(functional.max_pool2d(x, 2) if number else x)
            skips.append(x)
        for up, join, skip in zip(self.up, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([up(x), skip], dim=1))
        return torch.sigmoid(self.mask(x))


class Detector(nn.Module):
    """A YOLO-style detector: SiLU, nearest upsampling, two scales, boxes as expectations over 8 distances."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(block(3, w, 3, 2, act=nn.SiLU), block(w, 2 * w, 3, 2, act=nn.SiLU))
        self.fine = nn.Sequential(
            block(2 * w, 4 * w, 3, 2, act=nn.SiLU), Residual(block(4 * w, 4 * w, act=nn.SiLU))
        )
        self.coarse = block(4 * w, 4 * w, 3, 2, act=nn.SiLU)
        self.join = block(8 * w, 4 * w, act=nn.SiLU)
        self.heads = nn.ModuleList(nn.Conv2d(4 * w, 4 * 8 + CLASSES, 1) for _ in range(2))
        self.register_buffer("bins", torch.arange(8.0).view(1, 1, 8, 1))
        centres, strides = [], []
        for stride in (8, 16):
            ticks = torch.arange(side // stride) + 0.5
            y, x = torch.meshgrid(ticks, ticks, indexing="ij")
            centres.append(torch.stack([x.flatten(), y.flatten()]))
            strides.append(torch.full((1, ticks.numel() ** 2), float(stride)))
        self.register_buffer("centres", torch.cat(centres, 1)[None])
        self.register_buffer("strides", torch.cat(strides, 1)[None])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(self.stem(image))
        coarse = self.coarse(fine)
        up = functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        fine = self.join(torch.cat([up, fine], 1))
        found = [h(x).flatten(2) for h, x in zip(self.heads, (fine, coarse), strict=True)]
        raw = torch.cat(found, 2)
        box, scores = raw.split([32, CLASSES], 1)
        shares = box.reshape(1, 4, 8, -1).softmax(2)
        left, right = (shares * self.bins).sum(2).chunk(2, 1)
        low, high = self.centres - left, self.centres + right
        boxes = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return boxes, scores.sigmoid()


def cnn_1d(large: bool) -> nn.Module:
    """Convolutions over time, as for motion sensors and keywords."""
    width, layers, channels = 64 if large else 16, [], 6
    for step in range(4 if large else 3):
        cout = width * (1 + step // 2)
        layers += [nn.Conv1d(channels, cout, 5, padding=2), nn.BatchNorm1d(cout), nn.ReLU(), nn.MaxPool1d(2)]
        channels = cout
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(channels, CLASSES))


class Recurrent(nn.Module):
    """A recurrent layer over (1, T, F), classified at its last step."""

    def __init__(self, kind: type, hidden: int) -> None:
        super().__init__()
        self.cells, self.out = kind(12, hidden, batch_first=True), nn.Linear(hidden, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cells(x)[0][:, -1])


class Attention(nn.Module):
    """Scaled dot products of `heads` heads; `mask` (1, 1, 1, T) is added to the scores."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, steps, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        y = (scores if mask is None else scores + mask).softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(batch, steps, width))


class Layer(nn.Module):
    """One pre-norm (`first`) or post-norm encoder layer with GELU."""

    def __init__(self, width: int, heads: int, *, first: bool) -> None:
        super().__init__()
        self.first, self.attention = first, Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.first:
            x = x + self.attention(self.norms[0](x), mask)
            return x + self.mlp(self.norms[1](x))
        x = self.norms[0](x + self.attention(x, mask))
        return self.norms[1](x + self.mlp(x))


class Encoder(nn.Module):
    """A Transformer encoder over (1, T, F) with learned positions."""

    def __init__(self, width: int, layers: int, steps: int) -> None:
        super().__init__()
        self.embed, self.places = nn.Linear(12, width), nn.Parameter(torch.randn(1, steps, width) * 0.3)
        self.layers = nn.Sequential(*(Layer(width, 4, first=True) for _ in range(layers)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.layers(self.embed(x) + self.places)).mean(1))


class Bert(nn.Module):
    """Token ids and a mask (1, T), int64, to class logits: embeddings, post-norm layers, a tanh pooler."""

    def __init__(self, width: int, layers: int, steps: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(500, width), nn.Parameter(torch.randn(1, steps, width))
        self.norm, self.pool = nn.LayerNorm(width), nn.Linear(width, width)
        self.layers = nn.ModuleList(Layer(width, 4, first=False) for _ in range(layers))
        self.out = nn.Linear(width, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = (1.0 - attention_mask[:, None, None, :].float()) * -10000.0
        x = self.norm(self.words(input_ids) + self.places)
        for layer in self.layers:
            x = layer(x, mask)
        return self.out(torch.tanh(self.pool(x[:, 0])))


def autoencoder(large: bool) -> nn.Module:
    """Strided convolutions down, a dense waist, overlapping transposed convolutions up."""
    w = 32 if large else 8
    quarter = 16 if large else 8
    waist = 2 * w * quarter * quarter
    return nn.Sequential(
        block(3, w, 3, 2), block(w, 2 * w, 3, 2), nn.Flatten(), nn.Linear(waist, 32), nn.ReLU(),
        nn.Linear(32, waist), nn.ReLU(), nn.Unflatten(1, (2 * w, quarter, quarter)),
        nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(w, 3, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


def pictures(side: int, count: int = 16) -> dict[str, np.ndarray]:
    """Seeded noise smoothed into picture-like fields."""
    coarse = np.random.default_rng(0).standard_normal((count, 3, side // 8, side // 8))
    fine = np.random.default_rng(1).standard_normal((count, 3, side, side))
    return {"image": (np.kron(coarse, np.ones((8, 8))) + 0.3 * fine).astype(np.float32)}


def series(shape: tuple[int, ...], count: int = 16) -> dict[str, np.ndarray]:
    steps = np.random.default_rng(0).standard_normal((count, *shape))
    return {"series": (0.2 * np.cumsum(steps, axis=-1 if shape[0] < shape[1] else 1)).astype(np.float32)}


def sentences(steps: int, count: int = 16) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(1, 500, (count, steps))
    mask = np.arange(steps)[None] < random.integers(steps // 2, steps + 1, (count, 1))
    return {"input_ids": ids * mask, "attention_mask": mask.astype(np.int64)}


def _sized(large: bool, big: int, small: int) -> int:
    return big if large else small


NETWORKS: dict[str, Callable[[bool], tuple[nn.Module, dict[str, np.ndarray], tuple[str, ...]]]] = {
    "resnet": lambda big: (resnet(big), pictures(_sized(big, 224, 64)), ("logits",)),
    "mobilenet_v2": lambda big: (mobilenet_v2(big), pictures(_sized(big, 224, 64)), ("logits",)),
    "mobilenet_v3": lambda big: (mobilenet_v3(big), pictures(_sized(big, 224, 64)), ("logits",)),
    "unet": lambda big: (
        UNet((16, 32, 64) if big else (8, 12, 16)), pictures(_sized(big, 128, 32)), ("mask",)
    ),
    "detector": lambda big: (
        Detector(16 if big else 4, _sized(big, 256, 64)), pictures(_sized(big, 256, 64)), ("boxes", "scores")
    ),
    "cnn_1d": lambda big: (cnn_1d(big), series((6, _sized(big, 256, 64))), ("logits",)),
    "lstm": lambda big: (Recurrent(nn.LSTM, _sized(big, 64, 16)), series((20, 12)), ("logits",)),
    "gru": lambda big: (Recurrent(nn.GRU, _sized(big, 64, 16)), series((20, 12)), ("logits",)),
    "transformer": lambda big: (
        Encoder(*((128, 4, 64) if big else (32, 2, 16))), series((_sized(big, 64, 16), 12)), ("logits",)
    ),
    "bert": lambda big: (
        Bert(*((128, 4, 64) if big else (32, 2, 16))), sentences(_sized(big, 64, 16)), ("logits",)
    ),
    "autoencoder": lambda big: (autoencoder(big), pictures(_sized(big, 64, 32)), ("picture",)),
}  # fmt: skip


def make(name: str, *, large: bool = False) -> Network:
    """The network of this name, settled, in eval mode."""
    torch.manual_seed(0)
    module, samples, outputs = NETWORKS[name](large)
    batches = [
        {k: torch.from_numpy(v[i : i + 1]) for k, v in samples.items()}
        for i in range(len(next(iter(samples.values()))))
    ]
    for layer in module.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.momentum = None  # the plain average over all batches
            nn.init.uniform_(layer.weight, 0.6, 1.4)
            nn.init.uniform_(layer.bias, -0.4, 0.4)
    with torch.no_grad():
        for batch in batches:
            module.train()(*batch.values())
    return Network(module=module.eval(), samples=samples, outputs=outputs)


def export(name: str, folder: Path, *, large: bool = False) -> Path:
    """Write folder/NAME.onnx and folder/NAME.npz; the path of the first."""
    network, path = make(name, large=large), folder / f"{name}.onnx"
    example = tuple(torch.from_numpy(v[:1]) for v in network.samples.values())
    torch.onnx.export(
        network.module, example, str(path), dynamo=False, opset_version=17,
        input_names=list(network.samples), output_names=list(network.outputs),
    )  # fmt: skip
    np.savez(folder / f"{name}.npz", **network.samples)
    return path


if __name__ == "__main__":
    large = "--large" in sys.argv
    torch.set_num_threads(1)
    out, *names = [argument for argument in sys.argv[1:] if argument != "--large"]
    for wanted in names or NETWORKS:
        export(wanted, Path(out), large=large)
