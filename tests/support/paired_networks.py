"""Five networks in PyTorch whose twins `paired_keras.py` builds in Keras: the same layers, the same weights.

`python paired_networks.py FOLDER` writes NAME.pt (the state), NAME.samples.npz (inputs as PyTorch takes
them), NAME.answers.npy (what PyTorch says to them) and NAME.weights.npz (the weights as Keras takes them,
LAYER/0, LAYER/1, ... by the name of the layer). Weights are random, of a size that signals keep (He et al.
2015).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ALPHA = 0.35
BLOCKS = [  # of MobileNetV2 (Sandler et al. 2018, table 2): expansion, channels, stride
    (1, 16, 1), (6, 24, 2), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 32, 1), (6, 64, 2), (6, 64, 1),
    (6, 64, 1), (6, 64, 1), (6, 96, 1), (6, 96, 1), (6, 96, 1), (6, 160, 2), (6, 160, 1), (6, 160, 1),
    (6, 320, 1),
]  # fmt: skip


class Digits(nn.Module):
    """A convolutional network on 28x28 digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 16, 3, padding=1)
        self.norm, self.dense = nn.BatchNorm2d(8, eps=1e-3), nn.Linear(16 * 6 * 6, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.max_pool2d(self.norm(functional.relu(self.conv1(image))), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return self.dense(x.permute(0, 2, 3, 1).flatten(1))  # Keras flattens with the channels last


class Lstm(nn.Module):
    """Two LSTMs, one upon the other, on (10, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm1, self.lstm2 = nn.LSTM(1, 16, batch_first=True), nn.LSTM(16, 8, batch_first=True)
        self.dense = nn.Linear(8, 1)

    def forward(self, series: Tensor) -> Tensor:
        return self.dense(self.lstm2(self.lstm1(series)[0])[0][:, -1])


class Attention(nn.Module):
    """Dot-product attention over any number of tokens of 1024 numbers (Luong et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.dense = nn.Linear(1024, 16), nn.Linear(1024, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        query, value = self.query(tokens), self.value(tokens)
        return self.dense(((query @ value.transpose(1, 2)).softmax(-1) @ value).mean(1))


class MobileNet(nn.Module):
    """`keras.applications.MobileNetV2`: its names, its padding of strided layers, its epsilon."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict()
        self.steps: list[tuple[str, int]] = []
        channels = self._add("Conv1", "bn_Conv1", 3, _wide(32), 3, stride=2)
        for number, (expand, cout, stride) in enumerate(BLOCKS):
            name = f"block_{number}" if number else "expanded_conv"
            self.steps.append((name, stride))
            hidden = channels * expand
            if number:
                self._add(f"{name}_expand", f"{name}_expand_BN", channels, hidden, 1)
            self._add(f"{name}_depthwise", f"{name}_depthwise_BN", hidden, hidden, 3, stride, hidden)
            channels = self._add(f"{name}_project", f"{name}_project_BN", hidden, _wide(cout), 1)
        self._add("Conv_1", "Conv_1_bn", channels, 1280, 1)
        self.layers["predictions"] = nn.Linear(1280, 10)

    def _add(
        self, name: str, norm: str, cin: int, cout: int, k: int, stride: int = 1, groups: int = 1
    ) -> int:
        self.layers[name] = nn.Conv2d(
            cin, cout, k, stride, k // 2 if stride == 1 else 0, groups=groups, bias=False
        )
        self.layers[norm] = nn.BatchNorm2d(cout, eps=1e-3)
        return cout

    def _run(self, x: Tensor, name: str, norm: str, stride: int = 1, *, relu: bool = True) -> Tensor:
        x = functional.pad(x, (0, 1, 0, 1)) if stride == 2 else x
        x = self.layers[norm](self.layers[name](x))
        return functional.relu6(x) if relu else x

    def forward(self, image: Tensor) -> Tensor:
        x = self._run(image, "Conv1", "bn_Conv1", 2)
        for name, stride in self.steps:
            y = x
            if name != "expanded_conv":
                y = self._run(y, f"{name}_expand", f"{name}_expand_BN")
            y = self._run(y, f"{name}_depthwise", f"{name}_depthwise_BN", stride)
            y = self._run(y, f"{name}_project", f"{name}_project_BN", relu=False)
            x = x + y if stride == 1 and x.shape == y.shape else y
        x = self._run(x, "Conv_1", "Conv_1_bn")
        return self.layers["predictions"](x.mean((2, 3)))


class UNet(nn.Module):
    """Two levels down and up, with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.deep, self.up = nn.Conv2d(16, 32, 3, padding=1), nn.ConvTranspose2d(32, 16, 2, 2)
        self.narrow, self.mask = nn.Conv2d(32, 8, 3, padding=1), nn.Conv2d(16, 1, 1)

    def forward(self, picture: Tensor) -> Tensor:
        first = functional.relu(self.first(picture))
        second = functional.relu(self.second(functional.max_pool2d(first, 2)))
        deep = functional.relu(self.deep(functional.max_pool2d(second, 2)))
        x = self.narrow(torch.cat([self.up(deep), second], 1))
        x = torch.cat([functional.interpolate(x, scale_factor=2.0, mode="nearest"), first], 1)
        return torch.sigmoid(self.mask(x))


def _wide(channels: int) -> int:
    """The nearest multiple of 8 that is no more than 10 % below `channels` times ALPHA."""
    exact = channels * ALPHA
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * exact else rounded + 8


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, tuple[int, ...]]] = {
    "cnn": (Digits, "image", (1, 28, 28)),
    "lstm": (Lstm, "series", (10, 1)),
    "attention": (Attention, "tokens", (8, 1024)),
    "mobilenet_v2": (MobileNet, "image", (3, 64, 64)),
    "unet": (UNet, "picture", (3, 32, 32)),
}


def samples(name: str) -> np.ndarray:
    """32 seeded inputs; fields of pictures are smooth, as pictures are."""
    _, _, shape = NETWORKS[name]
    random = np.random.default_rng(0)
    plain = random.standard_normal((32, *shape))
    if len(shape) == 3:
        coarse = random.standard_normal((32, shape[0], shape[1] // 4, shape[2] // 4))
        plain = np.kron(coarse, np.ones((4, 4))) + 0.3 * plain
    return plain.astype(np.float32)


def _factory(name: str) -> Callable[[], tuple[nn.Module, dict[str, Tensor]]]:
    def make() -> tuple[nn.Module, dict[str, Tensor]]:
        kind, port, _ = NETWORKS[name]
        return kind().eval(), {port: torch.from_numpy(samples(name)[:1])}

    return make


cnn, lstm, attention, mobilenet_v2, unet = map(_factory, NETWORKS)


def as_keras(module: nn.Module) -> list[Tensor] | None:
    """The weights of a layer in Keras' order and layout; None for what is no layer with weights."""
    if isinstance(module, nn.ConvTranspose2d) or (isinstance(module, nn.Conv2d) and module.groups == 1):
        kernel = module.weight.permute(2, 3, 1, 0)
    elif isinstance(module, nn.Conv2d):
        kernel = module.weight.permute(2, 3, 0, 1)
    elif isinstance(module, nn.Linear):
        kernel = module.weight.T
    elif isinstance(module, nn.BatchNorm2d):
        return [module.weight, module.bias, module.running_mean, module.running_var]
    elif isinstance(module, nn.LSTM):
        return [module.weight_ih_l0.T, module.weight_hh_l0.T, module.bias_ih_l0 + module.bias_hh_l0]
    else:
        return None
    return [kernel] if module.bias is None else [kernel, module.bias]


def main(folder: Path) -> None:
    """Write every network's state, samples and weights."""
    torch.set_num_threads(1)
    for name, (kind, port, _) in NETWORKS.items():
        torch.manual_seed(0)
        module, inputs = kind(), samples(name)
        normalized = any(isinstance(layer, nn.BatchNorm2d) for layer in module.modules())
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d) and normalized:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if isinstance(layer, nn.BatchNorm2d):
                for values, low, high in (
                    (layer.weight, 0.8, 1.2), (layer.bias, -0.1, 0.1),
                    (layer.running_mean, -0.1, 0.1), (layer.running_var, 0.8, 1.2),
                ):  # fmt: skip
                    nn.init.uniform_(values, low, high)
        with torch.no_grad():
            module.eval()
            np.save(folder / f"{name}.answers.npy", module(torch.from_numpy(inputs)).numpy())
            weights = {
                f"{path.removeprefix('layers.')}/{i}": value.numpy()
                for path, layer in module.named_modules()
                for i, value in enumerate(as_keras(layer) or ())
            }
        torch.save(module.state_dict(), folder / f"{name}.pt")
        np.savez(folder / f"{name}.samples.npz", **{port: inputs})
        np.savez(folder / f"{name}.weights.npz", **weights)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
