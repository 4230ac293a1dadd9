"""Weights of LSTM, GRU and RNN: ONNX's order of gates and PyTorch's.

ONNX (operators LSTM, GRU, RNN): W [directions, gates * hidden, inputs], R [directions, gates * hidden,
hidden], B [directions, 2 * gates * hidden], gates i o f c, z r h, and one. PyTorch: one matrix a direction,
gates i f g o, r z n.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.train.module_graph import Layer

__all__ = ["ORDERS", "arrays_of", "fill"]

ORDERS: dict[str, tuple[int, ...]] = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}


def _suffixes(module: Any) -> list[str]:
    return ["_l0", "_l0_reverse"] if module.bidirectional else ["_l0"]


def _reordered(rows: NDArray[Any], order: tuple[int, ...]) -> NDArray[Any]:
    gates = np.split(rows, len(order), axis=0)
    return np.concatenate([gates[i] for i in order], axis=0)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(order))


def fill(module: Any, kind: str, arrays: dict[int, NDArray[Any]]) -> None:
    """Copy W (position 1), R (2) and B (3, where there is one) into an nn.LSTM, nn.GRU or nn.RNN."""
    torch = require("torch")
    order = ORDERS[kind]
    module.to(torch.float32)  # whatever the default type is
    with torch.no_grad():
        for number, suffix in enumerate(_suffixes(module)):
            parts = {"weight_ih": arrays[1][number], "weight_hh": arrays[2][number]}
            if 3 in arrays:
                parts["bias_ih"], parts["bias_hh"] = np.split(arrays[3][number], 2)
            for name, rows in parts.items():
                values = torch.from_numpy(_reordered(np.array(rows), order))
                getattr(module, name + suffix).copy_(values)


def arrays_of(module: Any, layer: Layer) -> dict[int, NDArray[Any]]:
    """W, R and B in ONNX's order, by input position."""
    order = _inverse(ORDERS[layer.kind])

    def stacked(*names: str) -> NDArray[Any]:
        rows = []
        for suffix in _suffixes(module):
            tensors = [getattr(module, name + suffix).detach().cpu().numpy() for name in names]
            rows.append(np.concatenate([_reordered(t, order) for t in tensors], axis=0))
        return np.stack(rows)

    found = {1: stacked("weight_ih"), 2: stacked("weight_hh")}
    if len(layer.initializers) > 3 and layer.initializers[3]:
        found[3] = stacked("bias_ih", "bias_hh")
    return found
