"""A small convolutional network for 28x28 digits: stem, one depthwise block with a shortcut, head."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["DigitsNet", "digits_net"]


class _Block(nn.Module):
    """Depthwise 3x3, pointwise 1x1, shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class DigitsNet(nn.Module):
    """Images (batch, 1, 28, 28), float32 in [0, 1], to ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 24, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            _Block(24),
            nn.Conv2d(24, 48, 3, padding=1, bias=False),
            nn.BatchNorm2d(48),
            nn.ReLU(),
            nn.MaxPool2d(2),
            _Block(48),
            nn.Conv2d(48, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(64 * 3 * 3, 10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(image))


def digits_net() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The network and one example input, as `edgekit convert examples/digits/model.py:digits_net` asks."""
    return DigitsNet(), {"image": torch.zeros(1, 1, 28, 28)}
