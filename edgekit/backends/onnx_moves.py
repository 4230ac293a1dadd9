"""Moves that ONNX Runtime runs one by one, made fewer: in a small network each costs as much as a sum.

A Slice of several axes that takes some of them whole is sliced along the others alone (ONNX Runtime makes one
Split of several with one input and one axis). A Gather of one index and the Unsqueeze that puts its axis back
are a Slice. Of a row of Reshape, Flatten, Squeeze and Unsqueeze, also with quantizers of one scale between
them, the last is left, as a Reshape. Sizes must be known; no value changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["fewer_moves"]

_SHAPES_ONLY = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")
_OPSET = 13  # from here on Squeeze and Unsqueeze take their axes as an input
_TO_THE_END = np.iinfo(np.int64).max


def fewer_moves(model: Any) -> None:
    """Edit a ModelProto of static shapes in place. Must not change: any value of an output, any port."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if opset < _OPSET:
        return
    edit = _Edit(model.graph)
    for node in list(model.graph.node):
        if node.op_type == "Slice":
            edit.narrow(node)
        elif node.op_type == "Unsqueeze":
            edit.slice_instead(node)
    for node in list(model.graph.node):
        if node.op_type in _SHAPES_ONLY:
            edit.merge(node)
    edit.drop_unread()


class _Edit:
    """A GraphProto with who makes and who reads what; an inner graph reads, too."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.reads = Counter(_read_in(graph))
        self.released: set[str] = set()
        self.maker = {name: node for node in graph.node for name in node.output}
        small = (t for t in graph.initializer if len(t.dims) <= 1)
        self.constants = {t.name: numpy_helper.to_array(t) for t in small}
        infos = (*graph.input, *graph.value_info, *graph.output)
        self.shapes = {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos}

    def shape(self, name: str) -> tuple[int, ...]:
        """The sizes of a value, quantized or not; () where one is not known."""
        node = self.maker.get(name)
        while name not in self.shapes and node is not None and node.op_type.endswith("eLinear"):
            name = node.input[0]
            node = self.maker.get(name)
        sizes = self.shapes.get(name, ())
        return sizes if all(sizes) else ()

    def only_reader_of(self, name: str) -> bool:
        return self.reads[name] == 1

    def ints(self, name: str, values: list[int]) -> str:
        """A new int64 initializer, one-dimensional."""
        from onnx import numpy_helper

        taken = {t.name for t in self.graph.initializer} | set(self.maker)
        while name in taken:
            name += "_"
        self.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def narrow(self, node: Any) -> None:
        """Leave the axes out that a Slice takes whole."""
        known = [self.constants[i] for i in node.input[1:] if i in self.constants]
        shape, count = self.shape(node.input[0]), len(node.input) - 1
        if count < 3 or len(known) < count or not shape:
            return
        starts, ends, axes, steps = [*known, np.ones_like(known[0])][:4]
        whole = (starts == 0) & (steps == 1) & (ends >= np.array(shape)[axes])
        if not whole.any() or whole.all():
            return
        left = [values[~whole].tolist() for values in (starts, ends, axes, steps)[:count]]
        names = [self.ints(f"{node.output[0]}/{i}", values) for i, values in enumerate(left, start=1)]
        self.become(node, "Slice", [node.input[0], *names])

    def slice_instead(self, node: Any) -> None:
        """Make a Slice of an Unsqueeze that puts the axis back which a Gather of one index took."""
        gather = self.maker.get(node.input[0])
        axes = self.constants.get(node.input[1])
        if gather is None or gather.op_type != "Gather" or axes is None:
            return
        if not self.only_reader_of(node.input[0]):
            return
        index, rank = self.constants.get(gather.input[1]), len(self.shape(gather.input[0]))
        if index is None or index.shape or not rank:
            return
        axis = sum(a.i for a in gather.attribute if a.name == "axis") % rank
        if axes.tolist() not in ([axis], [axis - rank]):
            return
        start = int(index)
        end = start + 1 if start != -1 else _TO_THE_END
        bounds = [
            self.ints(f"{node.output[0]}/{i}", [value]) for i, value in enumerate((start, end, axis), start=1)
        ]
        self.become(node, "Slice", [gather.input[0], *bounds])

    def merge(self, node: Any) -> None:
        """Let a move of the last shape read what the first of a row of moves reads."""
        shape = self.shape(node.output[0])
        source = node.input[0]
        while (further := self.moved(source)) is not None:
            source = further
        if shape and source != node.input[0]:
            self.become(node, "Reshape", [source, self.ints(f"{node.output[0]}/shape", list(shape))])

    def moved(self, name: str) -> str | None:
        """What the move reads that makes `name`, alone or with quantizers around it that change nothing."""
        node = self.maker.get(name)
        if node is None or not self.only_reader_of(name):
            return None
        if node.op_type in _SHAPES_ONLY:
            return str(node.input[0])
        quantize = self.maker.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is None or quantize.op_type != "QuantizeLinear":
            return None
        move = self.maker.get(quantize.input[0])
        if move is None or move.op_type not in _SHAPES_ONLY:
            return None
        alone = self.only_reader_of(node.input[0]) and self.only_reader_of(quantize.input[0])
        first = self.maker.get(move.input[0])
        same = first is not None and first.op_type == "DequantizeLinear" and self.equal_codes(first, node)
        return str(move.input[0]) if alone and same else None

    def equal_codes(self, one: Any, other: Any) -> bool:
        """Whether two DequantizeLinear have the same scale, of the whole tensor, and the same zero point."""
        if len(one.input) != len(other.input):
            return False
        codes = [[self.constants.get(i) for i in node.input[1:]] for node in (one, other)]
        return all(
            a is not None and b is not None and a.size == b.size == 1 and a.dtype == b.dtype and a == b
            for a, b in zip(*codes, strict=True)
        )

    def become(self, node: Any, op_type: str, inputs: list[str]) -> None:
        """Turn a node into another one that makes the same value."""
        self.released.update(node.input)
        self.reads.subtract(node.input)
        self.reads.update(inputs)
        node.op_type = op_type
        del node.attribute[:]
        del node.input[:]
        node.input.extend(inputs)

    def drop_unread(self) -> None:
        """Remove what nothing reads any more."""
        waiting = list(self.released)
        while waiting:
            name = waiting.pop()
            node = self.maker.get(name)
            if self.reads[name] or node is None or any(self.reads[o] for o in node.output):
                continue
            self.graph.node.remove(node)
            for output in node.output:
                del self.maker[output]
            self.reads.subtract(node.input)
            self.released.update(node.input)
            waiting += node.input
        unread = [t for t in self.graph.initializer if t.name in self.released and not self.reads[t.name]]
        for tensor in unread:
            self.graph.initializer.remove(tensor)


def _read_in(graph: Any) -> Iterator[str]:
    """Every name as often as a node, an inner graph or an output reads it."""
    yield from (o.name for o in graph.output)
    for node in graph.node:
        yield from node.input
        for item in node.attribute:
            if item.HasField("g"):
                yield from _read_in(item.g)
