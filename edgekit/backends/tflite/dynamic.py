"""One LiteRT graph that works in several sizes: lowered in each, then merged where nothing but sizes differs.

Every lowering works on static shapes; what a dynamic dimension changes shows when the same model is lowered
in the sizes at which its source was proven. A tensor whose shapes differ gets a -1 in its signature, a
RESHAPE or SLICE a -1 in its parameters, or they are computed from the shape of the operand (RESIZE and
TRANSPOSE_CONV, too); any other difference is refused, with its node.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends.dynamic import fixed_at
from edgekit.backends.tflite.computed_shapes import compute, follows, operand
from edgekit.backends.tflite.ir import Array, Graph, Operator, OptionValue, Tensor
from edgekit.core.dynamic import Dynamic, dynamic_of, is_dynamic
from edgekit.core.packages import require
from edgekit.errors import Reason

__all__ = ["build_in_every_size", "merge_sizes"]

_FACTORS = (1, 4, 16, 32)

Build = Callable[[Path], tuple[Graph, list[Reason]]]


def build_in_every_size(model: Path, build: Build) -> tuple[Graph, list[Reason], Dynamic | None]:
    """`build(model)`; where the file has dynamic dimensions, a graph in which they stay so, and those.

    A kernel pads by the remainder of its stride: heights and widths that change in single steps may need
    another graph where those that change by 32 do not. The returned `Dynamic` has the steps that hold.
    """
    graph, reasons = build(model)
    if reasons or not is_dynamic(model):
        return graph, reasons, None
    onnx = require("onnx", needed_for="reading the graph to lower")
    source = onnx.load(str(model))
    dynamic = dynamic_of(source)
    if dynamic is None:
        return graph, [], None
    first: list[Reason] = []
    for factor in _FACTORS if set(dynamic.sizes) - dynamic.batches else _FACTORS[:1]:
        coarse = dynamic.coarser(factor)
        graphs, reasons = _variants(source, coarse, build)
        if not reasons:
            graphs = [build(model)[0], *graphs]
            reasons = merge_sizes(graphs)
        if not reasons:
            return graphs[0], [], coarse
        first = first or reasons
    return graph, first, dynamic


def _variants(source: Any, dynamic: Dynamic, build: Build) -> tuple[list[Graph], list[Reason]]:
    graphs: list[Graph] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-sizes-") as folder:
        for variant in range(1, dynamic.variants):
            path = Path(folder) / f"{variant}.onnx"
            path.write_bytes(fixed_at(source, dynamic, variant).SerializeToString(deterministic=True))
            graph, reasons = build(path)
            if reasons:
                return graphs, reasons
            graphs.append(graph)
    return graphs, []


def merge_sizes(graphs: Sequence[Graph]) -> list[Reason]:
    """Make the first graph work in the sizes of all; reasons name what cannot. Mutates the first."""
    reasons = list(_different_operators(graphs))
    if reasons:
        return reasons
    merge = _Merge()
    for ports in zip(*([*g.inputs, *g.outputs] for g in graphs), strict=True):
        merge.shapes([port.tensor for port in ports])
    for operators in zip(*(g.operators for g in graphs), strict=True):
        merge.operator(operators)
    graphs[0].operators = merge.operators
    return merge.reasons


def _different_operators(graphs: Sequence[Graph]) -> Iterator[Reason]:
    first = graphs[0]
    for other in graphs[1:]:
        layouts = [[port.axes for port in (*g.inputs, *g.outputs)] for g in (first, other)]
        if layouts[0] != layouts[1]:
            yield Reason(why="inputs or outputs have another layout in another size", hint="--layout source")
            return
        for a, b in zip(first.operators, other.operators, strict=False):
            if (a.kind, len(a.inputs), len(a.outputs)) != (b.kind, len(b.inputs), len(b.outputs)):
                yield Reason(node=a.origin, why=f"{a.kind} in one size is {b.kind} in another")
                return
        if len(first.operators) != len(other.operators):
            yield Reason(why="another number of operators in another size")
            return


@dataclass(slots=True)
class _Merge:
    operators: list[Operator] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)

    def operator(self, variants: Sequence[Operator]) -> None:
        """Merge one operator as it was lowered in every size into the first."""
        op = variants[0]
        names = set().union(*(other.options for other in variants)) - {"new_shape"}
        for name in sorted(names):
            if len({other.options.get(name) for other in variants}) > 1:
                self._refuse(op, f"its {name} depends on a size")
        for place in range(len(op.outputs)):
            self.shapes([other.outputs[place] for other in variants])
        if op.kind == "RESHAPE" and (plain := _only_ones(variants)):
            self.operators += plain
            return
        self.operators.append(op)
        for place in range(len(op.inputs)):
            tensors = [t for other in variants if (t := other.inputs[place]) is not None]
            if not tensors or tensors[0].data is None:
                self.shapes(tensors)
            elif any(t.data is None or not np.array_equal(t.data, tensors[0].data) for t in tensors):
                self._parameter(variants, place, tensors)

    def shapes(self, tensors: Sequence[Tensor]) -> None:
        """Give the first tensor a signature when the shapes differ."""
        if len({t.shape for t in tensors}) > 1:
            columns = zip(*(t.shape for t in tensors), strict=True)
            tensors[0].signature = tuple(column[0] if len(set(column)) == 1 else -1 for column in columns)

    def _parameter(self, variants: Sequence[Operator], place: int, tensors: Sequence[Tensor]) -> None:
        op, data = variants[0], [t.data for t in tensors if t.data is not None]
        sources = [t.shape for other in variants if (t := other.inputs[0]) is not None]
        found: Array | None = None
        if len(data) == len(variants) and len({values.shape for values in data}) == 1:
            if op.kind == "RESHAPE" and place == 1:
                found = _one_open(data)
                if found is not None:
                    op.options = {**op.options, "new_shape": tuple(int(d) for d in found)}
            elif op.kind == "SLICE" and place == 2:
                begin = op.inputs[1]
                found = _to_the_end(data, sources, begin.data if begin is not None else None)
        if found is None and self._computed(variants, place, tensors):
            return
        if found is None:
            self._refuse(op, f"its constant {tensors[0].name!r} depends on a size: {_shown(data)}")
            return
        old = tensors[0]
        op.inputs[place] = Tensor(name=old.name, shape=found.shape, dtype=old.dtype, data=found)

    def _computed(self, variants: Sequence[Operator], place: int, tensors: Sequence[Tensor]) -> bool:
        """Whether the parameter follows the shape of its operand; it is then computed before the operator."""
        op, data = variants[0], [t.data for t in tensors if t.data is not None]
        if len(data) != len(variants) or len({values.shape for values in data}) != 1 or data[0].ndim != 1:
            return False
        rule = follows(op.kind, place, data, [operand(other).shape for other in variants])
        if rule is None:
            return False
        op.inputs[place], operators = compute(rule, operand(op), tensors[0], origin=op.origin)
        if op.kind == "RESHAPE":
            op.options = {}
        self.operators[-1:-1] = operators
        return True

    def _refuse(self, op: Operator, why: str) -> None:
        hint = "leave the dimension fixed for LiteRT: its kernel takes this from the file"
        self.reasons.append(Reason(node=op.origin, why=f"{op.kind}: {why}", hint=hint))


def _one_open(data: Sequence[Array]) -> Array | None:
    """The shape with -1 where it differs; None when it differs twice."""
    differs = np.any(np.stack(data) != data[0], axis=0)
    if int(differs.sum()) != 1:
        return None
    return np.where(differs, -1, data[0]).astype(np.int32)


def _only_ones(variants: Sequence[Operator]) -> list[Operator]:
    """A RESHAPE with several dynamic dimensions that only adds or drops ones, as SQUEEZE and EXPAND_DIMS.

    Empty where one -1 says it all, or where it does more.
    """
    op = variants[0]
    before = [t.shape for other in variants if (t := other.inputs[0]) is not None]
    after = [other.output.shape for other in variants]
    if sum(len(set(column)) > 1 for column in zip(*after, strict=True)) < 2:
        return []
    dropped, added = _ones(before), _ones(after)
    kept = [[d for axis, d in enumerate(shape) if axis not in dropped] for shape in before]
    if kept != [[d for axis, d in enumerate(shape) if axis not in added] for shape in after]:
        return []
    x = op.inputs[0]
    assert x is not None
    steps: list[Operator] = []

    def step(kind: str, axes: Array | None, shape: tuple[int, ...], options: dict[str, OptionValue]) -> None:
        nonlocal x
        y = Tensor(name=op.output.name, shape=shape, dtype=op.output.dtype, quant=op.output.quant)
        inputs = [x] if axes is None else [x, Tensor(name="axis", shape=(), dtype="int32", data=axes)]
        steps.append(Operator(kind=kind, inputs=inputs, outputs=[y], options=options, origin=op.origin))
        x = y

    if dropped:
        step("SQUEEZE", None, tuple(kept[0]), {"squeeze_dims": tuple(dropped)})
    shape = tuple(kept[0])
    for axis in added:
        shape = (*shape[:axis], 1, *shape[axis:])
        step("EXPAND_DIMS", np.asarray(axis, np.int32), shape, {})
    steps[-1].outputs = [op.output]
    return steps


def _ones(shapes: Sequence[tuple[int, ...]]) -> list[int]:
    """The axes that are 1 in every size."""
    return [axis for axis, column in enumerate(zip(*shapes, strict=True)) if set(column) == {1}]


def _to_the_end(
    data: Sequence[Array], sources: Sequence[tuple[int, ...]], begin: Array | None
) -> Array | None:
    """The sizes of a SLICE with -1 where it reaches the end in every size."""
    if begin is None:
        return None
    differs = np.any(np.stack(data) != data[0], axis=0)
    reached = [begin + values == np.asarray(dims) for values, dims in zip(data, sources, strict=True)]
    ends = np.all(reached, axis=0)
    if bool(np.any(differs & ~ends)):
        return None
    return np.where(differs, -1, data[0]).astype(np.int32)


def _shown(data: Sequence[Array]) -> str:
    if any(values.size > 8 for values in data):
        return "a table of as many values"
    return ", ".join(str(values.tolist()) for values in data)
