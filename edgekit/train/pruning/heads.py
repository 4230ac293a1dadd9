"""Groups of attention heads: where each head lies is followed by moving numbers through the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.errors import Reason
from edgekit.graph.walk import attribute
from edgekit.train.pruning.cutting import static_shapes
from edgekit.train.pruning.groups import Cut, Group, arrays

__all__ = ["head_groups"]

# operators that only move values, or change each by itself
_MOVING = ("Reshape", "Transpose", "Split", "Slice", "Gather", "Squeeze", "Unsqueeze", "Identity", "Flatten")
_SCALING = ("Mul", "Div", "Add", "Sub")
_SOFTMAX_PATH = ("Softmax", "Add", "Mul", "Div", "Where", "Identity", "Cast", "Sub")
Labels = NDArray[np.int64]


class _NotFollowed(Exception):
    """Why the heads of an attention cannot be pruned."""


@dataclass(slots=True)
class _Graph:
    """A canonical graph with what is looked up in it."""

    model: Any
    shapes: dict[str, tuple[int, ...]]
    constants: dict[str, NDArray[Any]]
    producers: dict[str, Any]
    readers: dict[str, list[Any]] = field(default_factory=dict)


def head_groups(model: Any) -> tuple[list[Group], list[Reason]]:
    """The heads of every attention of a canonical graph: softmax of a product of two computed tensors, times
    a third (Vaswani et al. 2017, section 3.2); and why others are none."""
    graph = _Graph(
        model, static_shapes(model), arrays(model), {o: n for n in model.graph.node for o in n.output}
    )
    for node in model.graph.node:
        for name in dict.fromkeys(node.input):
            graph.readers.setdefault(name, []).append(node)
    groups: list[Group] = []
    reasons: list[Reason] = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or any(i in graph.constants for i in node.input):
            continue
        scores = _scores_behind(graph, node.input[0])
        if scores is None:
            continue
        try:
            groups.append(_group(graph, scores, node))
        except _NotFollowed as err:
            reasons.append(Reason(node=node.name, why=str(err)))
    return groups, reasons


def _scores_behind(graph: _Graph, name: str) -> Any:
    """The product whose softmax a tensor is; None where it is none."""
    node, softmax = graph.producers.get(name), False
    while node is not None and node.op_type in _SOFTMAX_PATH:
        softmax |= node.op_type == "Softmax"
        computed = [i for i in node.input if i not in graph.constants and i in graph.producers]
        if not computed:
            return None
        # a mask joins by Add or Where: the scores are the side that leads to a product
        node = next((p for p in map(graph.producers.get, computed) if _leads(graph, p)), None)
    return node if softmax and node is not None and node.op_type == "MatMul" else None


def _leads(graph: _Graph, node: Any) -> bool:
    while node is not None and node.op_type in _SOFTMAX_PATH:
        behind = [graph.producers.get(i) for i in node.input]
        node = next((p for p in behind if p is not None and _leads(graph, p)), None)
    return node is not None and node.op_type == "MatMul" and not any(i in graph.constants for i in node.input)


def _group(graph: _Graph, scores: Any, context: Any) -> Group:
    shape = graph.shapes.get(context.output[0])
    if shape is None or len(shape) not in (3, 4):
        raise _NotFollowed("a product of tensors of three or four axes is needed")
    axis = len(shape) - 3  # (batch, heads, steps, width) or (batch and heads, steps, width)
    count = shape[axis]
    if count < 2 or (len(shape) == 4 and shape[0] != 1):
        raise _NotFollowed(f"it has {count} head(s)" if count < 2 else "its batch is not 1")
    cuts: list[Cut] = []
    shapes: dict[str, int] = {}
    for name in (*scores.input, context.input[1]):
        cuts += _makers(graph, name, axis, count, shapes)
    cuts += _reader(graph, context.output[0], axis, count, shapes)
    merged: dict[tuple[str, int], Cut] = {}
    for cut in cuts:  # query, key and value of one packed layer: each owns places of the same constant
        known = merged.get((cut.constant, cut.axis))
        units = cut.units if known is None else np.maximum(known.units, cut.units)
        merged[cut.constant, cut.axis] = Cut(constant=cut.constant, axis=cut.axis, units=units, side=cut.side)
    _check_between(graph, scores, context, axis, count)
    return Group(
        name=context.name, kind="heads", count=count, cuts=tuple(merged.values()), shapes=shapes,
        products=(scores.name, context.name),
    )  # fmt: skip


def _check_between(graph: _Graph, scores: Any, context: Any, axis: int, count: int) -> None:
    """Refuse constants between the products that differ from head to head (a table of positions)."""
    node = graph.producers[context.input[0]]
    while node is not scores:
        for name in node.input:
            held = graph.constants.get(name)
            if held is not None and held.ndim > 2 and held.shape[-3] == count > 1:
                raise _NotFollowed(f"{node.name} adds what belongs to single heads ({name!r})")
        computed = [i for i in node.input if i in graph.producers]
        node = next(p for p in map(graph.producers.get, computed) if _leads(graph, p))


def _makers(graph: _Graph, name: str, axis: int, count: int, shapes: dict[str, int]) -> list[Cut]:
    """Where the layer that makes a tensor [.., heads, .., ..] holds each head: back to a matrix product."""
    path: list[Any] = []
    tensor = name
    while True:
        node = graph.producers.get(tensor)
        if node is None:
            raise _NotFollowed(f"{tensor!r} is an input of the network")
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in graph.constants:
            break
        if node.op_type not in (*_MOVING, *_SCALING):
            raise _NotFollowed(f"{node.name} ({node.op_type}) stands between the heads and their layer")
        path.append(node)
        computed = [i for i in node.input if i not in graph.constants]
        if len(computed) != 1:
            raise _NotFollowed(f"{node.name} joins two computed tensors (a rotation of positions)")
        tensor = computed[0]
    source = graph.shapes[node.output[0]]
    channels = np.broadcast_to(np.arange(source[-1]), source).astype(np.int64)
    moved = _moved(graph, channels, path[::-1], name, node.output[0])
    units = np.full(source[-1], -1, np.int64)
    for head in range(count):
        own = np.unique(moved.take(head, axis=axis))
        if (units[own] >= 0).any():
            raise _NotFollowed(f"two heads share channels of {node.name}")
        units[own] = head
    labels = np.broadcast_to(units, source)
    _note_shapes(graph, labels, path[::-1], node.output[0], shapes)
    cuts = [_weight_cut(graph, node, units, "out")]
    if node.op_type == "Gemm" and len(node.input) > 2:
        cuts.append(Cut(constant=node.input[2], axis=graph.constants[node.input[2]].ndim - 1, units=units,
                        side="out"))  # fmt: skip
    for step in path:
        held = [i for i in step.input if i in graph.constants] if step.op_type in _SCALING else []
        for constant in (c for c in held if graph.constants[c].size > 1):
            values = graph.constants[constant]
            if values.size != source[-1] or graph.shapes[step.output[0]][-1] != source[-1]:
                raise _NotFollowed(f"{step.name} adds a table of constants to the heads")
            cuts.append(Cut(constant=constant, axis=values.ndim - 1, units=units, side="out"))
    return cuts


def _reader(graph: _Graph, name: str, axis: int, count: int, shapes: dict[str, int]) -> list[Cut]:
    """Where the layer that reads the heads' answers reads each."""
    path: list[Any] = []
    tensor = name
    while True:
        readers = graph.readers.get(tensor, [])
        if len(readers) != 1:
            raise _NotFollowed("what the heads give is read by several nodes")
        node = readers[0]
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in graph.constants:
            break
        if node.op_type not in _MOVING:
            raise _NotFollowed(f"{node.name} ({node.op_type}) stands behind the heads")
        path.append(node)
        tensor = node.output[0]
    shape = graph.shapes[name]
    place = [1] * len(shape)
    place[axis] = count
    heads = np.broadcast_to(np.arange(count).reshape(place), shape).astype(np.int64)
    moved = _moved(graph, heads, path, tensor, name)
    rows = moved.reshape(-1, moved.shape[-1])
    if (rows != rows[0]).any():
        raise _NotFollowed(f"{node.name} does not read heads side by side")
    _note_shapes(graph, heads, path, name, shapes)
    return [_weight_cut(graph, node, rows[0], "in")]


def _weight_cut(graph: _Graph, node: Any, units: Labels, side: Any) -> Cut:
    turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
    axis = (0 if turned else 1) if side == "out" else (1 if turned else 0)
    return Cut(constant=node.input[1], axis=axis, units=units, side=side)


def _moved(graph: _Graph, values: Labels, path: Iterable[Any], wanted: str, start: str) -> Labels:
    """What the nodes of a path make of `values`, computed by ONNX's reference implementation."""
    reference = require("onnx.reference")
    known: dict[str, Any] = {start: values}
    for node in path:
        if node.op_type in _SCALING:
            computed = next(i for i in node.input if i not in graph.constants)
            known[node.output[0]] = known[computed]
            continue
        feeds = {i: known.get(i, graph.constants.get(i)) for i in node.input if i}
        answers = reference.ReferenceEvaluator(_single(graph.model, node)).run(None, feeds)
        known.update(zip(node.output, answers, strict=False))
    return np.asarray(known[wanted])


def _note_shapes(
    graph: _Graph, units: Labels, path: Iterable[Any], start: str, shapes: dict[str, int]
) -> None:
    """Remember for every Reshape and Split of a path the axis of its output along which units differ."""
    for node in path:
        made = _moved(graph, units, _until(path, node), node.output[0], start)
        if node.op_type not in ("Reshape", "Split", "Slice", "Flatten"):
            continue
        varies = [a for a in range(made.ndim) if (made != made.take([0], axis=a)).any()]
        if node.op_type == "Slice":
            raise _NotFollowed(f"{node.name} (Slice) stands between the heads and their layer")
        if node.op_type == "Split":
            axis = int(attribute(node, "axis", 0)) % made.ndim
            if axis not in varies:
                continue
        if node.op_type == "Reshape" and varies:
            # heads differ along the outermost; within an axis of heads and width together it is that one
            shapes[node.name] = varies[0] if len(varies) == 1 else _axis_of_heads(made, varies)
        elif varies:
            shapes[node.name] = varies[0]


def _axis_of_heads(made: Labels, varies: list[int]) -> int:
    """The axis whose places belong to one head each (-1: to none), of several along which units differ."""
    for axis in varies:
        rows = np.moveaxis(made, axis, 0).reshape(made.shape[axis], -1)
        if all(len(set(row[row >= 0].tolist())) <= 1 for row in rows) and len({r.max() for r in rows}) > 1:
            return axis
    return varies[0]


def _until(path: Iterable[Any], last: Any) -> list[Any]:
    found = []
    for node in path:
        found.append(node)
        if node is last:
            break
    return found


def _single(model: Any, node: Any) -> Any:
    onnx = require("onnx")
    none = onnx.TensorProto.UNDEFINED
    inputs = [onnx.helper.make_tensor_value_info(i, onnx.TensorProto.INT64, None) for i in node.input if i]
    outputs = [onnx.helper.make_tensor_value_info(o, none, None) for o in node.output if o]
    graph = onnx.helper.make_graph([node], "one", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=list(model.opset_import))
