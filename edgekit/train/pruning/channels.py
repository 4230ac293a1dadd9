"""Groups of channels, by the dependency graph of torch-pruning (Fang et al., DepGraph, CVPR 2023)."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.errors import Reason
from edgekit.train.module_graph import Layer
from edgekit.train.pruning.flattening import flattened_channels
from edgekit.train.pruning.groups import Cut, Group, arrays

__all__ = ["channel_groups"]

_RECURRENT = ("lstm", "gru", "rnn")
_VECTORS = ("batch_norm", "norm", "prelu")


def channel_groups(module: Any, model: Any, inputs: tuple[Any, ...]) -> tuple[list[Group], list[Reason]]:
    """The groups of channels of a `trainable` module and its ONNX `model`, and why others are none.

    `inputs` are an example call. Layers whose channels reach a product of two computed tensors (attention)
    are left to the groups of heads; those that reach an output or a recurrent layer are no groups.
    """
    pruning = require("torch_pruning", needed_for="pruning channels")
    torch = require("torch")
    layers = {layer.path: layer for layer in module.meta["layers"]}
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of tracing; what it could not follow is found by the proof
        graph = pruning.DependencyGraph().build_dependency(module, example_inputs=inputs, verbose=False)
    constants = arrays(model)
    names = {child: name for name, child in module.named_modules()}
    groups: list[Group] = []
    reasons: list[Reason] = []
    seen: set[str] = set()
    for node in module.graph.nodes:
        layer = layers.get(str(node.target)) if node.op == "call_module" else None
        if layer is None or layer.path in seen or layer.kind not in ("conv", "linear"):
            continue
        child = module.get_submodule(layer.path)
        if _meets_product(node, torch) or child not in graph.module2node:
            continue
        width = int(child.out_features if layer.kind == "linear" else child.out_channels)
        try:
            found = graph.get_pruning_group(child, graph.get_pruner_of_module(child).prune_out_channels,
                                            list(range(width)))  # fmt: skip
            cuts, members = _cuts(found, graph, names, layers, constants)
            cuts = [_in_order(cut, model, width) for cut in cuts]
        except _NotFollowed as err:
            reasons.append(Reason(node=layer.node, why=str(err)))
            continue
        seen |= members
        if any(c.side == "in" for c in cuts):
            groups.append(Group(name=layer.node, kind="channels", count=width, cuts=tuple(cuts)))
        else:
            reasons.append(Reason(node=layer.node, why="no layer reads its channels: they are an output"))
    reasons += [
        Reason(node=layer.node, why="a recurrent layer, whose gates are not pruned")
        for layer in layers.values() if layer.kind in _RECURRENT
    ]  # fmt: skip
    return groups, reasons


class _NotFollowed(Exception):
    """Why a group cannot be pruned."""


def _meets_product(node: Any, torch: Any) -> bool:
    """Whether a layer's values reach a product of computed tensors before another layer with weights."""
    products = (torch.matmul, torch.bmm, torch.einsum, torch.softmax, torch.nn.functional.softmax)
    waiting, seen = [*node.users], set()
    while waiting:
        user = waiting.pop()
        if user in seen or user.op == "call_module" or user.op == "output":
            continue
        seen.add(user)
        if user.target in products:
            return True
        waiting.extend(user.users)
    return False


def _cuts(
    found: Any, graph: Any, names: dict[Any, str], layers: dict[str, Layer], constants: dict[str, Any]
) -> tuple[list[Cut], set[str]]:
    cuts: list[Cut] = []
    members: set[str] = set()
    taken: set[tuple[str, int]] = set()
    for item in found:
        target, out = item.dep.target.module, graph.is_out_channel_pruning_fn(item.dep.handler)
        path = graph._param_to_name.get(target) if item.dep.target.type == 9 else names.get(target)
        if path is None and hasattr(target, "requires_grad"):
            path = graph._param_to_name.get(target)
        layer = layers.get(path or "")
        if layer is None:
            if path:
                raise _NotFollowed(f"its channels reach {path!r}, which holds weights that are no layer's")
            continue
        places, roots = list(item.idxs), list(item.root_idxs or item.idxs)
        for constant, axis in _places(layer, target, out, constants):
            if (constant, axis) in taken:
                continue
            taken.add((constant, axis))
            size = constants[constant].shape[axis]
            if max(places) >= size:
                raise _NotFollowed(f"{layer.node} reads them in an order that cannot be followed")
            units = np.full(size, -1, np.int64)
            units[places] = roots
            cuts.append(Cut(constant=constant, axis=axis, units=units, side="out" if out else "in"))
        if out:
            members.add(layer.path)
    return cuts, members


def _in_order(cut: Cut, model: Any, width: int) -> Cut:
    """The cut of what reads a flattened tensor, in the order in which that was flattened.

    torch-pruning takes channels for the outermost axis, as PyTorch keeps them.
    """
    if cut.side == "out" or len(cut.units) == width:
        return cut
    reader = next(n for n in model.graph.node if cut.constant in n.input)
    if reader.op_type not in ("Gemm", "MatMul"):
        return cut
    units = flattened_channels(model, reader.input[0], width)
    return cut if units is None or len(units) != len(cut.units) else replace(cut, units=units)


def _places(
    layer: Layer, child: Any, out: bool, constants: dict[str, NDArray[Any]]
) -> list[tuple[str, int]]:
    """(constant, axis) of a layer's channels on one side."""
    names = {i: name for i, name in enumerate(layer.initializers) if name}
    if layer.kind in _RECURRENT:
        raise _NotFollowed(
            f"its channels reach the recurrent layer {layer.node}, whose gates are not pruned: name layers "
            "behind it, or use unstructured sparsity"
        )
    if layer.kind == "norm":
        raise _NotFollowed(f"its channels reach {layer.node}, whose statistics are over all of them")
    if layer.kind in _VECTORS or layer.kind == "parameter":
        return [(name, _wide_axis(constants[name])) for name in names.values()]
    if layer.kind == "embedding":
        return [(names[0], 1)]
    if layer.kind == "conv" and child.groups > 1:
        if not child.groups == child.in_channels == child.out_channels or "Transpose" in type(child).__name__:
            raise _NotFollowed(f"{layer.node} is a convolution in {child.groups} groups of several channels")
        return [(name, 0) for name in names.values()]
    turned = bool(layer.options.get("transposed")) or "Transpose" in type(child).__name__
    if not out:
        return [(names[1], 0 if turned else 1)]
    bias = [(names[2], constants[names[2]].ndim - 1)] if 2 in names else []
    return [(names[1], 1 if turned else 0), *bias]


def _wide_axis(values: NDArray[Any]) -> int:
    wide = [i for i, size in enumerate(values.shape) if size > 1]
    if len(wide) > 1:
        raise _NotFollowed("its channels meet a table of constants")
    return wide[0] if wide else 0
