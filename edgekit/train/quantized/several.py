"""Several policies trained at once: one set of float weights, and each policy's own scales and biases.

Each policy places its quantizers elsewhere and shares scales between other tensors, so a scale exists in its
own graph alone; weights are what they have in common. Each step trains one policy, in turn: the strictest
placement, a quantizer wherever any policy has one, would round where no engine does.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from edgekit.core.packages import require

__all__ = ["in_turn"]


@cache
def _class() -> Any:
    nn = require("torch").nn

    class Policies(nn.Module):  # type: ignore[misc, name-defined]
        """Calls one of its modules: in training that of `turn`, in evaluation one call after the other."""

        def __init__(self, modules: list[Any]) -> None:
            super().__init__()
            self.policies = nn.ModuleList(modules)
            names = ("inputs", "outputs", "batch", "batch_axes", "source")
            self.meta = {name: modules[0].meta[name] for name in names}
            self.turn, self.calls = 0, 0

        def train(self, mode: bool = True) -> Any:
            self.calls = 0
            return super().train(mode)

        def forward(self, *inputs: Any) -> Any:
            if self.training:
                return self.policies[self.turn % len(self.policies)](*inputs)
            self.calls += 1
            return self.policies[(self.calls - 1) % len(self.policies)](*inputs)

    return Policies


def in_turn(modules: list[Any]) -> Any:
    """A module of several that share weights; `turn` says which one trains."""
    return _class()(modules)
