"""How the constants of an ONNX node lie in the PyTorch module it became, and back.

A kind names the attribute for each input position; "linear" may lie transposed ("transposed" in the layer's
options), "lstm", "gru" and "rnn" order their gates otherwise (`edgekit.train.gates`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.train import gates
from edgekit.train.module_graph import Layer, Op

__all__ = ["PLACES", "arrays_of", "filled"]

PLACES: dict[str, dict[int, str]] = {
    "conv": {1: "weight", 2: "bias"},
    "linear": {1: "weight", 2: "bias"},
    "batch_norm": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    "norm": {1: "weight", 2: "bias"},
    "prelu": {1: "weight"},
    "embedding": {0: "weight"},
}


def filled(op: Op, module: Any, *args: Any, kind: str, **options: int) -> Any:
    """The call of `module` with the node's constants in it.

    A constant that another node of the same layout holds already is tied to it, unless its values are all
    alike: exporters merge equal constants, and what happens to start equal is not shared.
    """
    torch = require("torch")
    parameters = op.builder.parameters
    module.to(torch.float32)  # whatever the default type is
    for position, name in PLACES[kind].items():
        array = op.constant(position)
        if array is None:
            continue
        layout = "transposed" if options.get("transposed") and position == 1 else "same"
        shared = parameters.get((op.name(position), layout))
        slot = getattr(module, name)
        if shared is not None and isinstance(slot, torch.nn.Parameter) and shared.shape == slot.shape:
            setattr(module, name, shared)
            continue
        values = array.T if layout == "transposed" else array
        with torch.no_grad():
            slot.copy_(torch.from_numpy(np.array(values)).reshape(slot.shape))
        if isinstance(slot, torch.nn.Parameter) and not alike(array):
            parameters[op.name(position), layout] = slot
    return op.module(module, *args, kind=kind, inputs=tuple(PLACES[kind]), **options)


def alike(array: NDArray[Any]) -> bool:
    """Whether all values are the same: an initial value, not something that was learned."""
    return bool(array.size == 0 or (array == array.reshape(-1)[0]).all())


def arrays_of(root: Any, layer: Layer) -> dict[int, NDArray[Any]]:
    """What the module holds now, by input position of the ONNX node and laid out as it wants it."""
    if layer.kind == "parameter":
        return {len(layer.initializers) - 1: _array(getattr(root, layer.path))}
    module = root.get_submodule(layer.path)
    if layer.kind in gates.ORDERS:
        return gates.arrays_of(module, layer)
    found = {}
    for position, name in PLACES[layer.kind].items():
        if position < len(layer.initializers) and layer.initializers[position]:
            array = _array(getattr(module, name))
            transposed = position == 1 and layer.options.get("transposed")
            found[position] = np.ascontiguousarray(array.T) if transposed else array
    return found


def _array(tensor: Any) -> NDArray[Any]:
    return np.asarray(tensor.detach().cpu().numpy())


def positions(layer: Layer) -> Sequence[int]:
    """The input positions that hold initializers."""
    return [i for i, name in enumerate(layer.initializers) if name]
