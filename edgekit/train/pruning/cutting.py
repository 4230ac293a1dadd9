"""The smaller graph: constants cut, `group` of depthwise convolutions and shapes mended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.errors import Reason, Unsupported
from edgekit.graph import infer_shapes
from edgekit.graph.walk import dimensions
from edgekit.train.pruning.groups import Group, arrays, with_arrays, without_places

__all__ = ["Removal", "cut_graph", "masked_graph", "static_shapes"]

Removal = Mapping[str, NDArray[np.int64]]  # name of a group -> the units that go


def masked_graph(model: Any, groups: Sequence[Group], removal: Removal) -> Any:
    """The graph with zeros wherever the removed units are read: what the cut graph must answer like."""
    return _replaced(model, groups, removal, zeroed=True)


def cut_graph(model: Any, groups: Sequence[Group], removal: Removal) -> Any:
    """The graph without these units, of new shapes, checked by ONNX.

    Before: a canonical graph with static shapes. After: every constant that holds the units is smaller,
    depthwise `group`, sizes in Reshape and Split and value_info say so. Must not change: nodes, names, inputs
    and outputs, the constants of others. Raises `Unsupported` where the shapes of what is left contradict
    each other.
    """
    onnx = require("onnx", needed_for="pruning")
    before = static_shapes(model)
    outputs = [(o.name, dimensions(o)) for o in model.graph.output]
    designated: dict[str, tuple[int, float]] = {}
    for group in groups:
        if len(removal.get(group.name, ())):
            left = 1 - len(removal[group.name]) / group.count
            designated |= {node: (axis, left) for node, axis in group.shapes.items()}
    smaller = _replaced(model, groups, removal, zeroed=False)
    _mend_groups(smaller)
    _mend_shapes(smaller, before, designated)
    smaller = infer_shapes.apply(smaller).model
    reasons = infer_shapes.unknown_shapes(smaller)
    reasons += [
        Reason(node=name, why=f"the output would change its shape from {dims} to {dimensions(o)}")
        for (name, dims), o in zip(outputs, smaller.graph.output, strict=True)
        if dims != dimensions(o)
    ]
    if reasons:
        raise Unsupported("the graph cannot be cut there", reasons=reasons[:12])
    try:
        onnx.checker.check_model(smaller, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as err:
        raise Unsupported(f"the graph cannot be cut there: {str(err).splitlines()[0]}") from err
    return smaller


def static_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that has a static one, constants included."""
    found = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = dimensions(value)
        if dims is not None and all(isinstance(d, int) for d in dims):
            found[value.name] = tuple(int(d) for d in dims)
    return found | {t.name: tuple(t.dims) for t in model.graph.initializer}


def _replaced(model: Any, groups: Sequence[Group], removal: Removal, *, zeroed: bool) -> Any:
    gone: dict[tuple[str, int], NDArray[np.bool_]] = {}  # of several groups, behind a Concat
    for group in groups:
        removed = np.asarray(removal.get(group.name, ()), np.int64)
        for cut in group.cuts if len(removed) else ():
            if not (zeroed and cut.side == "out"):
                own = np.isin(cut.units, removed)
                gone[cut.constant, cut.axis] = own | gone.get((cut.constant, cut.axis), np.zeros_like(own))
    changed: dict[str, NDArray[Any]] = {}
    held = arrays(model)
    for (name, axis), places in gone.items():
        changed[name] = without_places(changed.get(name, held[name]), axis, places, zeroed=zeroed)
    return with_arrays(model, changed)


def _mend_groups(model: Any) -> None:
    """A depthwise convolution of fewer channels has as many groups."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for node in model.graph.node:
        weight = shapes.get(node.input[1]) if node.op_type == "Conv" else None
        for item in node.attribute:
            if item.name == "group" and item.i > 1 and weight is not None and weight[1] == 1:
                item.i = weight[0]


def _mend_shapes(
    model: Any, before: Mapping[str, tuple[int, ...]], designated: Mapping[str, tuple[int, float]]
) -> None:
    """Sizes that Reshape, Split and Slice hold as constants, node by node behind each other."""
    onnx = require("onnx")
    del model.graph.value_info[:]
    for value in model.graph.output:  # inferred anew, so that a changed one is seen
        value.type.tensor_type.ClearField("shape")
    waiting = [n for n in model.graph.node if n.op_type in ("Reshape", "Split", "Expand")]
    while waiting:
        node = waiting.pop(0)
        constants = arrays(model)
        if node.op_type == "Split" and node.name not in designated:
            continue
        if len(node.input) < 2 or node.input[1] not in constants:
            continue
        known = static_shapes(onnx.shape_inference.infer_shapes(model, data_prop=True))
        old, new = before.get(node.input[0]), known.get(node.input[0])
        if old is None or new is None or old == new:
            continue
        sizes = [int(v) for v in constants[node.input[1]]]
        if node.op_type == "Split":
            wanted = [round(s * designated[node.name][1]) for s in sizes]
        elif node.op_type == "Expand":
            wanted = [n if s == o else s for s, o, n in zip(sizes, old, new, strict=False)]
        else:
            wanted = list(before[node.output[0]])
            axis, left = designated.get(node.name, (-1, 1.0))
            if axis >= 0:
                wanted[axis] = round(wanted[axis] * left)
            else:
                wanted = _scaled(old, new, tuple(wanted))
        name = f"{node.name}_sizes"
        while name in constants:
            name += "_"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(wanted, np.int64), name))
        node.input[1] = name
    used = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in used]
    copies = [type(t).FromString(t.SerializeToString()) for t in kept]
    del model.graph.initializer[:]
    model.graph.initializer.extend(copies)


def _scaled(old: tuple[int, ...], new: tuple[int, ...], wanted: tuple[int, ...]) -> list[int]:
    """The sizes of a reshaped tensor when its input's sizes went from `old` to `new`.

    Axes are aligned in blocks of equal products; within a block the change goes to the outermost axis that
    takes it in whole numbers.
    """
    sizes = list(wanted)
    i = j = 0
    while i < len(old) and j < len(wanted):
        start_i, start_j, left, right = i, j, old[i], wanted[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right and i < len(old):
                left, i = left * old[i], i + 1
            elif right < left and j < len(wanted):
                right, j = right * wanted[j], j + 1
            else:
                return sizes
        before, after = prod(old[start_i:i]), prod(new[start_i:i])
        if before != after:
            for axis in range(start_j, j):
                if sizes[axis] > 1 and sizes[axis] * after % before == 0:
                    sizes[axis] = sizes[axis] * after // before
                    break
    return sizes
