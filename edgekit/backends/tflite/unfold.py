"""Function operators become their bodies, and control flow that is known before the run becomes plain nodes.

ONNX defines many operators as functions of others. One that has no lowering of its own is replaced by that
body, so it runs wherever its pieces do. If on a constant condition, Loop of a constant trip count and Scan
over static shapes are written out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from edgekit.backends.tflite.ir import Array
from edgekit.core.packages import require

__all__ = ["MAX_NODES", "MAX_TRIPS", "expand_functions", "unfold"]

MAX_TRIPS = 256
MAX_NODES = 8192  # that one Loop or Scan may become
MAX_CHOICE = 64  # nodes of an If on a computed condition: all of them run
_KEPT = {"Range"}  # its body is a Loop; of constants it is folded
_OLDEST_OPSET = 13  # Unsqueeze takes its axes as an input


def expand_functions(model: Any, whole: Collection[str]) -> Any:
    """The ModelProto without the standard function operators that are not in `whole`.

    Must not change: what is computed, names of inputs and outputs. An operator whose body ONNX cannot give
    (a type is unknown) stays.
    """
    onnx = require("onnx")
    tried: set[str] = set()
    while True:
        opset = _opset(model)
        found = {n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx")}
        unknown = found - {*whole} - _KEPT - tried
        names = [name for name in sorted(unknown) if _is_function(name, opset)]
        if not names:
            return model
        tried.update(names)
        require("onnx.inliner")
        for node in [n for n in model.graph.node if n.op_type in names]:
            _give_defaults(node, opset)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for name in names:
            try:
                model = onnx.inliner.inline_selected_functions(
                    model, [("", name)], inline_schema_functions=True
                )
            except RuntimeError:
                continue  # its C++ side lacks a type: the node stays and is refused by name
        for node in [n for n in model.graph.node if n.op_type == "Constant" and not n.attribute]:
            model.graph.node.remove(node)  # an attribute that was not given, in a body that does not use it


def _give_defaults(node: Any, opset: int) -> None:
    """Write down the attributes that have a default: a body reads one that is not given as none at all."""
    onnx = require("onnx")
    given = {a.name for a in node.attribute}
    attributes = onnx.defs.get_schema(node.op_type, opset, "").attributes
    node.attribute.extend(
        a.default_value for name, a in attributes.items() if a.default_value.name and name not in given
    )


def _opset(model: Any) -> int:
    return max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)


def _is_function(name: str, opset: int) -> bool:
    onnx = require("onnx")
    if not onnx.defs.has(name, opset, ""):
        return False
    schema = onnx.defs.get_schema(name, opset, "")
    return bool(schema.has_function or schema.has_context_dependent_function)


def unfold(
    model: Any, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Any, bool]:
    """The ModelProto with the control flow of its main graph written out where `constants` decide it.

    Also whether anything changed: what was taken apart may hold more.
    """
    if _opset(model) < _OLDEST_OPSET:
        return model, False
    nodes: list[Any] = []
    extra: list[Any] = []
    for node in model.graph.node:
        made = _unfolded(node, constants, shapes)
        nodes.extend([node] if made is None else made.nodes)
        extra.extend([] if made is None else made.constants)
    if len(nodes) == len(model.graph.node) and all(
        a is b for a, b in zip(nodes, model.graph.node, strict=True)
    ):
        return model, False
    changed = type(model)()
    changed.CopyFrom(model)
    del changed.graph.node[:], changed.graph.value_info[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(extra)
    return changed, True


def _unfolded(
    node: Any, constants: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> _Nodes | None:
    if node.domain not in ("", "ai.onnx"):
        return None
    if node.op_type == "If":
        known = constants.get(node.input[0])
        return _both_branches(node) if known is None else _branch(node, bool(known.all()))
    if node.op_type == "Loop":
        return _loop(node, constants)
    if node.op_type == "Scan":
        return _scan(node, shapes)
    return None


class _Nodes:
    """What a control node becomes; every name it makes begins with the node's first output."""

    def __init__(self, node: Any) -> None:
        self.node = node
        self.prefix = next(name for name in node.output if name)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: Any) -> str:
        """A new initializer."""
        name = f"{self.prefix}/{name}"
        self.constants.append(require("onnx").numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A new node with one output."""
        make = require("onnx").helper.make_node
        self.nodes.append(make(op_type, inputs, [output], name=f"{self.node.name}/{output}", **attributes))
        return output

    def inline(self, graph: Any, given: Mapping[str, str], place: str) -> list[str]:
        """The nodes of a subgraph with its inputs replaced; the names of its outputs."""
        inner = {name for n in graph.node for name in n.output if name} | {t.name for t in graph.initializer}
        names = {name: f"{self.prefix}/{place}{name}" for name in sorted(inner)} | dict(given)
        for tensor in graph.initializer:
            copy = type(tensor)()
            copy.CopyFrom(tensor)
            copy.name = names[tensor.name]
            self.constants.append(copy)
        for one in graph.node:
            self.nodes.append(_renamed(one, names, f"{self.prefix}/{place}"))
        return [names.get(value.name, value.name) for value in graph.output]

    def collect(self, parts: list[str], output: str, axis: int) -> None:
        """Stack the parts along a new axis."""
        axes = self.constant(f"{output}/axes", np.asarray([axis], np.int64))
        rows = [self.add("Unsqueeze", [part, axes], f"{output}/row{i}") for i, part in enumerate(parts)]
        self.add("Concat", rows, output, axis=axis)


def _renamed(node: Any, names: Mapping[str, str], prefix: str) -> Any:
    copy = type(node)()
    copy.CopyFrom(node)
    if copy.name:
        copy.name = f"{prefix}{copy.name}"
    _rename(copy, names)
    return copy


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Rename what a node reads and writes, in its subgraphs too."""
    for values in (node.input, node.output):
        for i, name in enumerate(values):
            values[i] = names.get(name, name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                _rename(inner, names)
            for value in graph.output:
                value.name = names.get(value.name, value.name)


def _graph(node: Any, name: str) -> Any:
    return next(a.g for a in node.attribute if a.name == name)


def _branch(node: Any, condition: bool) -> _Nodes:
    made = _Nodes(node)
    results = made.inline(_graph(node, "then_branch" if condition else "else_branch"), {}, "")
    for result, name in zip(results, node.output, strict=False):
        if name:
            made.add("Identity", [result], name)
    return made


def _both_branches(node: Any) -> _Nodes | None:
    """Both branches and a choice between their results: nodes have no effects, so that means the same."""
    branches = [_graph(node, name) for name in ("then_branch", "else_branch")]
    shapes = [[_static_type(value) for value in branch.output] for branch in branches]
    if shapes[0] != shapes[1] or None in shapes[0] or sum(len(b.node) for b in branches) > MAX_CHOICE:
        return None
    made = _Nodes(node)
    scalar = made.constant("scalar", np.zeros(0, np.int64))
    condition = made.add("Reshape", [node.input[0], scalar], f"{made.prefix}/condition")
    results = [made.inline(b, {}, place) for b, place in zip(branches, ("then/", "else/"), strict=True)]
    for name, then, other in zip(node.output, *results, strict=True):
        if name:
            made.add("Where", [condition, then, other], name)
    return made


def _static_type(value: Any) -> tuple[int, tuple[int, ...]] | None:
    """The element type and shape of a value; None when they are not written down."""
    kind = value.type.tensor_type
    dims = kind.shape.dim
    if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in dims):
        return None
    return int(kind.elem_type), tuple(int(d.dim_value) for d in dims)


def _loop(node: Any, constants: Mapping[str, Array]) -> _Nodes | None:
    """A Loop whose trip count is constant and whose condition stays true."""
    body = _graph(node, "body")
    trips = _constant_int(node.input[0], constants)
    start = node.input[1] if len(node.input) > 1 else ""
    if trips is None or not 1 <= trips <= MAX_TRIPS or trips * len(body.node) > MAX_NODES:
        return None
    if start and not (start in constants and bool(constants[start].all())):
        return None
    if not _stays_true(body):
        return None
    made = _Nodes(node)
    true = made.constant("true", np.asarray(True))
    carried = list(node.input[2:])
    count = len(carried)
    rows: list[list[str]] = []
    for trip in range(trips):
        index = made.constant(f"{trip}/trip", np.asarray(trip, np.int64))
        given = [index, true, *carried]
        results = made.inline(body, dict(zip([v.name for v in body.input], given, strict=True)), f"{trip}/")
        carried, scanned = results[1 : count + 1], results[count + 1 :]
        rows.append(scanned)
    _write_outputs(made, carried, rows, [0] * (len(node.output) - count))
    return made


def _constant_int(name: str, constants: Mapping[str, Array]) -> int | None:
    return int(constants[name].item()) if name in constants else None


def _stays_true(body: Any) -> bool:
    """Whether the condition a Loop's body gives is the one it gets, or a constant true."""
    onnx = require("onnx")
    writers = {name: n for n in body.node for name in n.output}
    tensors = {t.name: t for t in body.initializer}
    name = body.output[0].name
    while (writer := writers.get(name)) is not None and writer.op_type in ("Identity", "Cast"):
        name = writer.input[0]
    if name == body.input[1].name:
        return True
    if writer is not None and writer.op_type == "Constant":
        tensors[name] = writer.attribute[0].t
    return name in tensors and bool(np.all(onnx.numpy_helper.to_array(tensors[name])))


def _scan(node: Any, shapes: Mapping[str, tuple[int, ...]]) -> _Nodes | None:
    """A Scan over inputs of static shape."""
    body = _graph(node, "body")
    get = {a.name: require("onnx").helper.get_attribute_value(a) for a in node.attribute}
    scans = int(get["num_scan_inputs"])
    count = len(node.input) - scans
    inputs = list(node.input[count:])
    if len(body.input) != len(node.input) or any(name not in shapes for name in inputs):
        return None
    axes = [
        axis % len(shapes[n]) for n, axis in zip(inputs, get.get("scan_input_axes", [0] * scans), strict=True)
    ]
    trips = shapes[inputs[0]][axes[0]]
    if not 1 <= trips <= MAX_TRIPS or trips * len(body.node) > MAX_NODES:
        return None
    made = _Nodes(node)
    backward = get.get("scan_input_directions", [0] * scans)
    carried = list(node.input[:count])
    rows: list[list[str]] = []
    for trip in range(trips):
        parts = []
        for number, name in enumerate(inputs):
            position = trips - 1 - trip if backward[number] else trip
            index = made.constant(f"{trip}/{number}/at", np.asarray(position, np.int64))
            place = f"{made.prefix}/{trip}/{number}/part"
            parts.append(made.add("Gather", [name, index], place, axis=axes[number]))
        given = dict(zip([v.name for v in body.input], [*carried, *parts], strict=True))
        results = made.inline(body, given, f"{trip}/")
        carried, scanned = results[:count], results[count:]
        rows.append(scanned)
    outputs = len(node.output) - count
    for number, flag in enumerate(get.get("scan_output_directions", [0] * outputs)):
        if flag:
            column = [row[number] for row in rows][::-1]
            for row, name in zip(rows, column, strict=True):
                row[number] = name
    _write_outputs(made, carried, rows, get.get("scan_output_axes", [0] * outputs))
    return made


def _write_outputs(made: _Nodes, carried: list[str], rows: list[list[str]], axes: list[int]) -> None:
    names = list(made.node.output)
    for name, result in zip(names, carried, strict=False):
        if name:
            made.add("Identity", [result], name)
    for number, name in enumerate(names[len(carried) :]):
        if name:
            made.collect([row[number] for row in rows], name, axes[number])
