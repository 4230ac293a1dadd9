"""Graphs of one network in several sizes become one graph that works in all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import decode
from edgekit.core.dynamic import Dynamic, name_dimensions, set_dynamic
from edgekit.core.packages import require
from edgekit.errors import Reason, Unsupported
from edgekit.graph.canonical import save_model
from edgekit.graph.walk import dimensions

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["open_dimensions", "open_files"]

Shapes = Sequence[Mapping[str, tuple[int, ...]]]


def open_files(models: list[str], dynamic: dict[str, Any], out: str, opened: str) -> None:
    """The step: merge canonical files, one for each set of sizes, into `out` (in the sizes of the first).

    `opened` gets the same graph with named dimensions in place of the sizes, to be run in every size.
    """
    onnx = require("onnx")
    merged, found = open_dimensions(
        [onnx.load(path) for path in models], decode(Dynamic, dynamic, where="dynamic")
    )
    save_model(merged, Path(out))
    name_dimensions(merged, found)
    save_model(merged, Path(opened))


def open_dimensions(models: Sequence[ModelProto], dynamic: Dynamic) -> tuple[ModelProto, Dynamic]:
    """One graph for all sizes, and `dynamic` with what the outputs show.

    Before: canonical graphs that differ in nothing but sizes.
    After: the first one; a shape that Reshape or Expand was given follows its input (0, -1, 1), sizes that
    Resize was given are scales. Its metadata holds `dynamic`.
    Must not change: what the graph computes in any of the sizes.

    Raises `Unsupported` that names every node whose constants depend on a size.
    """
    onnx = require("onnx")
    first = models[0]
    _same_nodes(models)
    constants = [{t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in models]
    shapes = [_shapes(m) for m in models]
    reasons: list[Reason] = []
    added: dict[str, NDArray[Any]] = {}
    for node in first.graph.node:
        for place, name in enumerate(list(node.input)):
            values = [known[name] for known in constants if name in known]
            if values and any(not np.array_equal(values[0], value) for value in values[1:]):
                found = _follows(node, place, values, shapes)
                if found is None:
                    why = f"its constant {name!r} depends on the size of {' or '.join(sorted(dynamic.sizes))}"
                    hint = "leave that dimension fixed, or let the model compute it from its input"
                    reasons.append(Reason(node=f"{node.name} ({node.op_type})", why=why, hint=hint))
                    continue
                at, replacement = found
                node.input[place] = ""
                node.input[at] = f"{node.name}/follows"
                added[node.input[at]] = replacement
                while not node.input[-1]:  # an input left out at the end is not listed
                    node.input.pop()
    if reasons:
        raise Unsupported("the graph cannot follow its input in size", reasons=reasons)
    first.graph.initializer.extend(onnx.numpy_helper.from_array(v, n) for n, v in added.items())
    used = {name for node in first.graph.node for name in node.input}
    used |= {value.name for value in first.graph.output}
    kept = [t for t in first.graph.initializer if t.name in used]
    del first.graph.initializer[:]
    first.graph.initializer.extend(kept)
    found_dynamic = Dynamic(
        inputs=dynamic.inputs, outputs=_output_names(first, shapes, dynamic), sizes=dynamic.sizes
    )
    set_dynamic(first, found_dynamic)
    onnx.checker.check_model(first, full_check=True)
    return first, found_dynamic


def _same_nodes(models: Sequence[ModelProto]) -> None:
    def described(model: ModelProto) -> list[Any]:
        return [
            (
                n.op_type,
                [*n.input],
                [*n.output],
                [a.SerializeToString(deterministic=True) for a in n.attribute],
            )
            for n in model.graph.node
        ]

    first = described(models[0])
    for model in models[1:]:
        other = described(model)
        if other != first:
            pair = next(((a, b) for a, b in zip(first, other, strict=False) if a != b), None)
            node = f"{pair[0][2][0]} ({pair[0][0]})" if pair else ""
            why = "it is another node in another size" if pair else "there are more nodes in another size"
            raise Unsupported("the graph depends on sizes", reasons=[Reason(node=node, why=why)])


def _shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    graph = model.graph
    found = {v.name: dimensions(v) or () for v in (*graph.input, *graph.value_info, *graph.output)}
    return {name: tuple(d for d in dims if isinstance(d, int)) for name, dims in found.items()}


def _follows(
    node: NodeProto, place: int, values: Sequence[NDArray[Any]], shapes: Shapes
) -> tuple[int, NDArray[Any]] | None:
    """(input, constant) that says the same in every size, or None."""
    inputs = [known.get(node.input[0], ()) for known in shapes]
    if any(value.shape != values[0].shape or value.ndim != 1 for value in values):
        return None
    if node.op_type == "Reshape" and place == 1:
        shape = _reshape(values, inputs)
        return None if shape is None else (1, shape)
    if node.op_type == "Expand" and place == 1:
        shape = _expand(values, inputs)
        return None if shape is None else (1, shape)
    if node.op_type == "Resize" and place == 3:
        scales = _scales(values, inputs)
        return None if scales is None else (2, scales)
    return None


def _reshape(values: Sequence[NDArray[Any]], inputs: Sequence[tuple[int, ...]]) -> NDArray[Any] | None:
    result = values[0].copy()
    for axis in range(len(result)):
        sizes = [int(value[axis]) for value in values]
        if len(set(sizes)) == 1:
            continue
        kept = all(axis < len(dims) and dims[axis] == size for dims, size in zip(inputs, sizes, strict=True))
        result[axis] = 0 if kept else -1
    return result if int((result == -1).sum()) <= 1 else None


def _expand(values: Sequence[NDArray[Any]], inputs: Sequence[tuple[int, ...]]) -> NDArray[Any] | None:
    result = values[0].copy()
    for axis in range(len(result)):
        sizes = [int(value[axis]) for value in values]
        if len(set(sizes)) == 1:
            continue
        at = axis - len(result)
        if not all(-at <= len(dims) and dims[at] == size for dims, size in zip(inputs, sizes, strict=True)):
            return None
        result[axis] = 1
    return result


def _scales(values: Sequence[NDArray[Any]], inputs: Sequence[tuple[int, ...]]) -> NDArray[Any] | None:
    """Scales that give exactly these sizes: whole ratios, or halves, quarters …, which float32 holds."""
    pairs = zip(values, inputs, strict=True)
    ratios = [np.asarray(value, np.float64) / np.asarray(dims) for value, dims in pairs]
    scales: NDArray[Any] = ratios[0].astype(np.float32)
    if any(not np.array_equal(ratio, scales.astype(np.float64)) for ratio in ratios):
        return None
    return scales


def _output_names(model: ModelProto, shapes: Shapes, dynamic: Dynamic) -> dict[str, tuple[str, ...]]:
    named: dict[str, tuple[str, ...]] = {}
    for value in model.graph.output:
        columns = list(zip(*(known[value.name] for known in shapes), strict=True))
        named[value.name] = tuple(_name(column, dynamic) for column in columns)
    return named


def _name(sizes: tuple[int, ...], dynamic: Dynamic) -> str:
    if len(set(sizes)) == 1:
        return ""
    return next((name for name, proven in dynamic.sizes.items() if tuple(proven) == sizes), "?")
