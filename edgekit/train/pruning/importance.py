"""What each unit of a group is worth: by its weights, by gradients, or by what its readers make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.train.judging import tensors
from edgekit.train.pruning.groups import Cut, Group, arrays
from edgekit.train.teaching import named_call
from edgekit.train.to_graph import written

__all__ = ["activation", "magnitude", "projected", "taylor"]

Scores = dict[str, NDArray[np.float64]]  # name of a group -> the worth of each unit


def magnitude(model: Any, groups: Sequence[Group]) -> Scores:
    """The mean square of the weights that make or read a unit, over the group's own mean.

    Li et al., Pruning Filters for Efficient ConvNets (2017), with all layers of a group taken together as
    in DepGraph (2023, section 3.3).
    """
    held = arrays(model)
    found = {}
    for group in groups:
        parts = []
        for cut in (c for c in group.cuts if held[c.constant].ndim > 1):
            parts.append(_by_unit(held[cut.constant].astype(np.float64) ** 2, cut, group.count, mean=True))
        found[group.name] = _over_mean(sum(p / max(p.mean(), 1e-30) for p in parts))
    return found


def taylor(
    model: Any, module: Any, groups: Sequence[Group], data: Any, objective: Any, batches: int
) -> Scores:
    """The squared sum of weight times gradient over what makes a unit, averaged over batches.

    Molchanov et al., Importance Estimation for Neural Network Pruning (2019), equation 8, with the sum over
    the unit taken before the square (group sums, section 3.1). Comparable between layers as it is.
    """
    torch = require("torch")
    found = {g.name: np.zeros(g.count) for g in groups}
    module.eval()
    torch.manual_seed(data.seed)
    for number in range(batches):
        inputs, labels, labelled = tensors(data.batch(number))
        module.zero_grad(set_to_none=True)
        objective(named_call(module, inputs), inputs, labels, labelled, {}).backward()
        kept = {name: p.detach().clone() for name, p in module.named_parameters()}
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(p * p.grad if p.grad is not None else torch.zeros_like(p))
        copy = type(model)()
        copy.CopyFrom(model)
        products = arrays(written(module, copy))
        with torch.no_grad():
            for name, p in module.named_parameters():
                p.copy_(kept[name])
        for group in groups:
            makers = [c for c in group.cuts if c.side == "out" and c.constant in products]
            makers = [c for c in makers if products[c.constant].ndim > 1] or makers
            total = sum(_by_unit(products[c.constant].astype(np.float64), c, group.count) for c in makers)
            found[group.name] += np.asarray(total) ** 2 / batches
    module.zero_grad(set_to_none=True)
    return found


def projected(outputs: Any, inputs: Any, labels: Any, labelled: Any, features: Any) -> Any:
    """A random direction of the answers, as an objective of `taylor`: its score then is the squared change of
    the answers to first order (the diagonal of J^T J, estimated as by Hutchinson 1989), of which labels are
    no part. Each output counts by its own variance."""
    torch = require("torch")
    total: Any = 0.0
    for value in outputs.values():
        if value.is_floating_point():
            spread = value.detach().var(unbiased=False).clamp_min(1e-12).sqrt() if value.numel() > 1 else 1.0
            total = total + (value * torch.randn_like(value)).sum() / (spread * value.numel() ** 0.5)
    return total


def activation(model: Any, module: Any, groups: Sequence[Group], data: Any, batches: int) -> Scores:
    """The mean energy that a unit brings to the outputs of its readers, over all that these receive.

    For a reader W of inputs x: E[x_c^2] times the squared norm of W at c, divided by the sum over c.
    """
    torch = require("torch")
    squares, handles = _watch_inputs(module)
    module.eval()
    with torch.no_grad():
        for number in range(batches):
            inputs, _, _ = tensors(data.batch(number))
            named_call(module, inputs)
    for handle in handles:
        handle.remove()
    held = arrays(model)
    paths = {name: layer.path for layer in module.meta["layers"] for name in layer.initializers if name}
    found = {}
    for group in groups:
        total = np.zeros(group.count)
        for cut in (c for c in group.cuts if c.side == "in" and paths.get(c.constant) in squares):
            axes = tuple(a for a in range(held[cut.constant].ndim) if a != cut.axis)
            norms = (held[cut.constant].astype(np.float64) ** 2).sum(axis=axes)
            energy = norms * squares[paths[cut.constant]]
            row = Cut(constant="", axis=0, units=cut.units, side="in")
            total += _by_unit(energy, row, group.count) / max(float(energy.sum()), 1e-30)
        found[group.name] = total
    return found


def _watch_inputs(module: Any) -> tuple[Mapping[str, NDArray[np.float64]], list[Any]]:
    """Mean squares by channel of what every convolution and linear layer reads, filled as the module runs."""
    squares: dict[str, NDArray[np.float64]] = {}
    handles = []
    for layer in module.meta["layers"]:
        if layer.kind not in ("conv", "linear"):
            continue
        axis = -1 if layer.kind == "linear" else 1

        def keep(_module: Any, given: Any, path: str = layer.path, axis: int = axis) -> None:
            others = [i for i in range(given[0].dim()) if i != axis % given[0].dim()]
            squares[path] = squares.get(path, 0.0) + given[0].square().mean(others).double().numpy()

        handles.append(module.get_submodule(layer.path).register_forward_pre_hook(keep))
    return squares, handles


def _by_unit(values: NDArray[np.float64], cut: Cut, count: int, *, mean: bool = False) -> NDArray[np.float64]:
    """Values added (or averaged) over all places of each unit."""
    axes = tuple(a for a in range(values.ndim) if a != cut.axis)
    reduce: Callable[..., Any] = np.mean if mean else np.sum
    rows = np.asarray(reduce(values, axis=axes))
    owned = cut.units >= 0
    sums = np.bincount(cut.units[owned], weights=rows[owned], minlength=count)
    total = sums.astype(np.float64)
    if mean:
        total = total / np.maximum(np.bincount(cut.units[owned], minlength=count), 1)
    return total


def _over_mean(values: Any) -> NDArray[np.float64]:
    scores = np.asarray(values, np.float64)
    return scores / max(float(scores.mean()), 1e-30)
