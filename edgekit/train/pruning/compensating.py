"""What readers of removed units are given instead: the least-squares prediction from the units that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.train.judging import tensors
from edgekit.train.module_graph import Layer
from edgekit.train.pruning.cutting import Removal
from edgekit.train.pruning.groups import Group, arrays, with_arrays
from edgekit.train.teaching import named_call

__all__ = ["compensated"]

_ROWS = 4096  # places of a batch that a layer's inputs are counted at
_RIDGE = 1e-3  # of the mean variance, so that channels that are nearly copies do not get huge weights


@dataclass(slots=True)
class _Moments:
    """Sums over places of a reader's inputs [channels] and of their products [channels, channels]."""

    count: int
    sums: NDArray[np.float64]
    products: NDArray[np.float64]


def compensated(
    model: Any, module: Any, groups: Sequence[Group], removal: Removal, data: Any, batches: int
) -> Any:
    """A copy of the ONNX `model` whose remaining units stand in for those that `removal` takes away.

    `module` is its `trainable` form, run on `batches` batches of `data` without labels. Convolutions (of one
    group) and matrix products that read removed channels r and kept ones k get W_k + W_r A with A the ridge
    regression of x_r on x_k over all places, and the bias what is left of the means; where a reader has no
    bias, the regression is without intercept. He, Zhang & Sun, Channel Pruning for Accelerating Very Deep
    Neural Networks (2017, section 3.1, the second step), with one A for all places of a kernel. Weights of
    several readers stay as they are.
    """
    gone = _gone(model, module, groups, removal)
    moments = _moments(module, {layer.path: layer.kind for layer, _, _ in gone}, data, batches)
    held = arrays(model)
    changed: dict[str, NDArray[Any]] = {}
    for layer, axis, removed in gone:
        weight, bias = layer.initializers[1], "".join(layer.initializers[2:3])
        found = moments.get(layer.path)
        if found is None or removed.all() or len(removed) != len(found.sums):
            continue
        factors, offset = _regression(found, removed, centred=bool(bias))
        values = np.moveaxis(held[weight].astype(np.float64), axis, -1)
        lost = values[..., removed]
        values[..., ~removed] += lost @ factors
        changed[weight] = np.moveaxis(values, -1, axis).astype(held[weight].dtype)
        if bias:
            shift = (lost @ offset).reshape(lost.shape[0], -1).sum(axis=1)
            changed[bias] = (held[bias] + shift.reshape(held[bias].shape)).astype(held[bias].dtype)
    return with_arrays(model, changed)


def _gone(
    model: Any, module: Any, groups: Sequence[Group], removal: Removal
) -> list[tuple[Layer, int, NDArray[np.bool_]]]:
    """Readers of removed units: layer, axis of its weight, which of its inputs go."""
    readers: dict[str, int] = {}
    for node in model.graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    layers = {
        layer.initializers[1]: layer
        for layer in module.meta["layers"]
        if layer.kind in ("conv", "linear") and len(layer.initializers) > 1
        and all(readers.get(name) == 1 for name in layer.initializers if name)
    }  # fmt: skip
    found: dict[tuple[str, int], NDArray[np.bool_]] = {}
    for group in groups:
        removed = np.asarray(removal.get(group.name, ()), np.int64)
        for cut in group.cuts if len(removed) else ():
            if cut.side == "in" and cut.constant in layers:
                own = np.isin(cut.units, removed)
                found[cut.constant, cut.axis] = own | found.get((cut.constant, cut.axis), np.zeros_like(own))
    return [(layers[name], axis, removed) for (name, axis), removed in found.items()]


def _moments(module: Any, kinds: dict[str, str], data: Any, batches: int) -> dict[str, _Moments]:
    torch = require("torch")
    found: dict[str, _Moments] = {}
    handles = []
    for path, kind in kinds.items():
        axis = -1 if kind == "linear" else 1

        def keep(_module: Any, given: Any, path: str = path, axis: int = axis) -> None:
            rows = given[0].movedim(axis, -1).flatten(0, -2)
            rows = rows[:: max(1, len(rows) // _ROWS)].double()
            old = found.setdefault(path, _Moments(0, np.zeros(rows.shape[1]), np.zeros((rows.shape[1],) * 2)))
            old.count += len(rows)
            old.sums += rows.sum(0).numpy()
            old.products += (rows.T @ rows).numpy()

        handles.append(module.get_submodule(path).register_forward_pre_hook(keep))
    module.eval()
    try:
        with torch.no_grad():
            for number in range(batches):
                named_call(module, tensors(data.batch(number))[0])
    finally:
        for handle in handles:
            handle.remove()
    return found


def _regression(
    moments: _Moments, removed: NDArray[np.bool_], *, centred: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors A [removed, kept] and offset [removed] of x_r = A x_k + offset."""
    means = moments.sums / moments.count
    products = moments.products / moments.count
    if centred:
        products = products - np.outer(means, means)
    kept = products[np.ix_(~removed, ~removed)]
    size = float(np.trace(kept)) / len(kept)
    factors = np.linalg.solve(
        kept + (_RIDGE * size + 1e-12) * np.eye(len(kept)), products[np.ix_(~removed, removed)]
    ).T
    offset = means[removed] - factors @ means[~removed]
    return np.asarray(factors, np.float64), offset if centred else np.zeros_like(offset)
