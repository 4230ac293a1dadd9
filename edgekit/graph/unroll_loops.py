"""A Loop whose number of turns is known becomes its turns, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.graph.fold_constants import evaluated
from edgekit.graph.result import PassResult
from edgekit.graph.walk import constants, rename_reads, subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

__all__ = ["apply", "has_loops"]

_MOST_TURNS = 256
_MOST_NODES = 8192  # that one Loop may become
_SMALL = 64  # elements: counters and conditions, which decide how often a loop turns


def has_loops(model: ModelProto) -> bool:
    """Whether the main graph has a Loop."""
    return any(node.op_type == "Loop" and not node.domain for node in model.graph.node)


def apply(model: ModelProto) -> PassResult:
    """Write out every Loop of the main graph whose turns can be counted beforehand.

    Before: Loop with a constant trip count; Loop whose condition follows from counters that start as
    constants, as TensorFlow's while loops over a fixed number of steps do.
    After: the body's nodes once a turn, NAME/TURN/... by name; scan outputs as one Concat.
    Must not change: values, names of the Loop's outputs. A Loop that never turns, turns more than 256 times,
    becomes more than 8192 nodes or ends when the data say so stays.
    """
    nodes: list[NodeProto] = []
    tensors: list[TensorProto] = []
    modified = False
    known = constants(model.graph)
    for node in model.graph.node:
        turns = _Turns(node, known) if node.op_type == "Loop" and not node.domain else None
        if turns is not None and turns.written_out():
            nodes += turns.nodes
            tensors += turns.tensors
            modified = True
        else:
            nodes.append(node)
    if not modified:
        return PassResult(model=model, modified=False)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    model.graph.initializer.extend(tensors)
    return PassResult(model=model, modified=True)


@dataclass(slots=True)
class _Turns:
    """One Loop on its way to plain nodes: https://onnx.ai/onnx/operators/onnx__Loop.html"""

    loop: NodeProto
    known: dict[str, NDArray[Any]]
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)
    small: dict[str, NDArray[Any]] = field(default_factory=dict)  # small values that are known

    def written_out(self) -> bool:
        """Fill `nodes` and `tensors`; False when the turns cannot be counted."""
        most, start, *carried = self.loop.input
        if (most and most not in self.known) or (start and start not in self.known):
            return False
        limit = int(self.known[most]) if most else _MOST_TURNS + 1
        if limit < 1 or (start and not self.known[start].all()):
            return False
        body = next(subgraphs(self.loop))
        self.small = {name: value for name, value in self.known.items() if value.size <= _SMALL}
        self._own_tensors(body)
        scanned: list[list[str]] = [[] for _ in body.output[1 + len(carried) :]]
        for turn in range(limit):
            if turn >= _MOST_TURNS or len(self.nodes) > _MOST_NODES:
                return False
            goes_on, *values = self._turn(body, turn, carried)
            carried = values[: len(carried)]
            for column, value in zip(scanned, values[len(carried) :], strict=True):
                column.append(value)
            if turn + 1 == limit:
                break
            if goes_on not in self.small:
                return False
            if not self.small[goes_on].all():
                break
        self._outputs(carried, scanned)
        return True

    def _label(self) -> str:
        return str(self.loop.name or next(name for name in self.loop.output if name))

    def _own_tensors(self, body: GraphProto) -> None:
        """The body's constants, once for all turns, under names of their own."""
        onnx = require("onnx")
        for tensor in body.initializer:
            copy = type(tensor).FromString(tensor.SerializeToString())
            copy.name = f"{self._label()}/{tensor.name}"
            self.tensors.append(copy)
            value = onnx.numpy_helper.to_array(tensor)
            if value.size <= _SMALL:
                self.small[copy.name] = value

    def _turn(self, body: GraphProto, turn: int, carried: list[str]) -> list[str]:
        """Add the nodes of one turn; the names of what the body gives in it."""
        label = f"{self._label()}/{turn}"
        names = {tensor.name: f"{self._label()}/{tensor.name}" for tensor in body.initializer}
        ports = [port.name for port in body.input]
        names[ports[0]] = self._constant(f"{label}/turn", np.int64(turn))
        names[ports[1]] = self._constant(f"{label}/goes_on", np.bool_(True))
        names.update(zip(ports[2:], carried, strict=True))
        names.update((name, f"{label}/{name}") for node in body.node for name in node.output if name)
        for node in body.node:
            copy = type(node).FromString(node.SerializeToString())
            copy.name = f"{label}/{node.name or node.output[0]}"
            copy.input[:] = [names.get(name, name) for name in node.input]
            copy.output[:] = [names.get(name, name) for name in node.output]
            for inner in subgraphs(copy):
                rename_reads(inner, names)
                for value in inner.output:
                    value.name = names.get(value.name, value.name)
            self._add(copy)
        return [names.get(value.name, value.name) for value in body.output]

    def _add(self, node: NodeProto) -> None:
        """A node of which all is known and small is computed at once; the others join the graph."""
        given = {name: self.small.get(name) for name in node.input if name}
        if not any(subgraphs(node)) and all(value is not None for value in given.values()):
            found = evaluated(node, {name: value for name, value in given.items() if value is not None})
            if found is not None and all(value.size <= _SMALL for value in found.values()):
                for name, value in found.items():
                    self._constant(name, value)
                return
        self.nodes.append(node)

    def _constant(self, name: str, value: Any) -> str:
        onnx = require("onnx")
        array = np.asarray(value, order="C")
        self.small[name] = array
        self.tensors.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _outputs(self, carried: list[str], scanned: list[list[str]]) -> None:
        """The Loop's own outputs: the last values, and what every turn gave, stacked."""
        make = require("onnx").helper.make_node
        label = self._label()
        last, stacked = self.loop.output[: len(carried)], self.loop.output[len(carried) :]
        self.nodes += [make("Identity", [v], [name]) for name, v in zip(last, carried, strict=True) if name]
        for name, column in zip(stacked, scanned, strict=True):
            if not name:
                continue
            axis = self._constant(f"{label}/{name}/axis", np.array([0], np.int64))
            rows = [f"{label}/{name}/{turn}" for turn in range(len(column))]
            for value, row in zip(column, rows, strict=True):
                self.nodes.append(make("Unsqueeze", [value, axis], [row], name=row))
            self.nodes.append(make("Concat", rows, [name], name=f"{label}/{name}/stack", axis=0))
