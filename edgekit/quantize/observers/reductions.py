"""Statistics that the engine computes itself: reductions added to the graph, three vectors a sample out.

Every tensor is reduced to its minimum, maximum and mean by channel, and those of all tensors are joined, so
that a sample costs three small arrays. By channel, because ONNX Runtime runs such reductions in parallel and
those of a whole tensor not. GlobalMaxPool and GlobalAveragePool read the blocked layout that convolutions
write, where ReduceMax and ReduceMean make the engine reorder the tensor first. The minimum of what a ReLU
wrote needs no reduction: the range of a quantized tensor includes 0. ReduceMin, ReduceMax and GlobalMaxPool
pass over NaN, a mean does not: so every tensor has one.

Values that a method counts come out of the same graph: all of a small tensor, every s-th row of a larger one
(`ROWS_FROM` values), another row in every call, so that none is left out for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.quantize.graph_index import GraphIndex

__all__ = ["CALL", "ROWS_FROM", "Layout", "Reduced", "add_reductions", "add_values", "values_of"]

ROWS_FROM = 1 << 14
CALL = "calibration/call"

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the statistics of each tensor lie in the joined vectors: tensor -> slice of channels.

    `floored`: the tensors that are never negative, whose minimum is taken for 0 and left out of the vector of
    minima; that one has its own slices, `lows`.
    """

    slices: dict[str, slice]
    lows: dict[str, slice]
    floored: frozenset[str]

    @property
    def size(self) -> int:
        """The length of the joined vectors of maxima and means."""
        return sum(s.stop - s.start for s in self.slices.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """The observed graph; `outputs`: the joined minima, maxima and means."""

    model: Any
    layout: Layout
    outputs: tuple[str, str, str] = ("calibration/min", "calibration/max", "calibration/mean")


def add_reductions(index: GraphIndex, tensors: list[str], channels: Mapping[str, int]) -> Reduced:
    """A copy of the indexed model with the statistics of `tensors` as extra outputs.

    `channels`: tensor -> channel axis, from the front, of those whose channels are asked for.
    """
    import onnx

    observed = onnx.ModelProto()
    observed.CopyFrom(index.model)
    floored = frozenset(t for t in tensors if _never_negative(index, t))
    axes = {t: channels.get(t, _parallel_axis(len(index.shapes[t]))) for t in tensors}
    pooled = [t for t in tensors if len(index.shapes[t]) == 4 and axes[t] == 1 and index.shapes[t][0] == 1]
    pooled.sort(key=lambda t: t not in floored)  # as `join` orders them: pools before other reductions
    order = [*pooled, *(t for t in tensors if t not in set(pooled))]
    sizes = {t: index.shapes[t][axes[t]] if index.shapes[t] else 1 for t in order}
    lowered = [t for t in order if t not in floored]
    reduced = Reduced(
        model=observed,
        layout=Layout(slices=_slices(order, sizes), lows=_slices(lowered, sizes), floored=floored),
    )
    writer = _Writer(observed.graph, {t: len(index.shapes[t]) for t in order}, axes)
    pool = set(pooled)
    low, high, mean = reduced.outputs
    writer.join(low, [("ReduceMin", t) for t in lowered])
    writer.join(high, [("GlobalMaxPool" if t in pool & floored else "ReduceMax", t) for t in order])
    writer.join(mean, [("GlobalAveragePool" if t in pool else "ReduceMean", t) for t in order])
    return reduced


def values_of(tensor: str) -> str:
    """The output that holds rows of a tensor too large for all of its values."""
    return f"{tensor}/values"


def add_values(reduced: Reduced, index: GraphIndex, tensors: list[str]) -> dict[str, str]:
    """Outputs that hold values of `tensors`: tensor -> output. Adds the input `CALL`, int64 [1]."""
    from onnx import TensorProto, helper

    graph, found, starts = reduced.model.graph, {}, {}
    have = {o.name for o in graph.output} | set(index.inputs)
    for name in tensors:
        found[name] = name
        axis, stride = _thinned(index.shapes[name])
        if stride > 1:
            if stride not in starts:
                start = starts[stride] = f"calibration/row{stride}"
                graph.initializer.append(helper.make_tensor(f"{start}/of", TensorProto.INT64, [1], [stride]))
                graph.node.append(helper.make_node("Mod", [CALL, f"{start}/of"], [start], name=start))
                end = helper.make_tensor("calibration/end", TensorProto.INT64, [1], [np.iinfo(np.int64).max])
                graph.initializer.extend([end] if len(starts) == 1 else [])
            found[name] = values_of(name)
            graph.initializer.append(helper.make_tensor(f"{name}/axis", TensorProto.INT64, [1], [axis]))
            inputs = [name, starts[stride], "calibration/end", f"{name}/axis", f"{starts[stride]}/of"]
            graph.node.append(helper.make_node("Slice", inputs, [found[name]], name=found[name]))
        if found[name] not in have:
            graph.output.append(helper.make_tensor_value_info(found[name], TensorProto.FLOAT, None))
    if starts:
        graph.input.append(helper.make_tensor_value_info(CALL, TensorProto.INT64, [1]))
    return found


class _Writer:
    """Appends reductions to a graph; the name of each comes from its tensor and operator."""

    def __init__(self, graph: Any, ranks: Mapping[str, int], axes: Mapping[str, int]) -> None:
        self.graph = graph
        self.ranks = ranks
        self.axes = axes
        self.constants: set[str] = set()

    def join(self, output: str, reductions: list[tuple[str, str]]) -> None:
        """One vector of all `reductions` (operator, tensor), pools first, as graph output `output`."""
        from onnx import TensorProto, helper

        results = [(op, self.reduce(op, tensor)) for op, tensor in reductions]
        pools = [r for op, r in results if op.startswith("Global")]
        vectors = [r for op, r in results if not op.startswith("Global")]
        if pools:
            self.node("Concat", pools, f"{output}/pools", axis=1)
            flat = self.constant("calibration/flat", [-1])
            self.node("Reshape", [f"{output}/pools", flat], f"{output}/flat")
            vectors = [f"{output}/flat", *vectors]
        if vectors:
            self.node("Concat", vectors, output, axis=0)
            self.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))

    def reduce(self, op: str, tensor: str) -> str:
        """Add one reduction; returns its result, [channels] or, of a pool, [1, channels, 1, 1]."""
        result = f"{tensor}/{op}"
        if self.ranks[tensor] < 2:
            return self.node("Reshape", [tensor, self.constant("calibration/flat", [-1])], result)
        if op.startswith("Global"):
            return self.node(op, [tensor], result)
        kept = [a for a in range(self.ranks[tensor]) if a != self.axes[tensor]]
        name = "calibration/axes" + "".join(map(str, kept))
        return self.node(op, [tensor, self.constant(name, kept)], result, keepdims=0)

    def node(self, op: str, inputs: list[str], result: str, **attributes: int) -> str:
        from onnx import helper

        self.graph.node.append(helper.make_node(op, inputs, [result], name=result, **attributes))
        return result

    def constant(self, name: str, values: list[int]) -> str:
        from onnx import TensorProto, helper

        if name not in self.constants:
            self.constants.add(name)
            self.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(values)], values))
        return name


def _parallel_axis(rank: int) -> int:
    return 1 if rank == 4 else max(rank - 1, 0)


def _slices(order: list[str], sizes: Mapping[str, int]) -> dict[str, slice]:
    ends = np.cumsum([sizes[t] for t in order]).tolist()
    return {t: slice(end - sizes[t], end) for t, end in zip(order, ends, strict=True)}


def _never_negative(index: GraphIndex, name: str) -> bool:
    node = index.producer.get(name)
    if node is None:
        return False
    if node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in index.constants:
        return bool(index.constants[node.input[1]].min() >= 0.0)
    return node.op_type in _NEVER_NEGATIVE


def _thinned(shape: tuple[int, ...]) -> tuple[int, int]:
    """The axis whose rows are taken in turn, and one in how many: 1 for a small tensor."""
    size = int(np.prod(shape))
    if size <= ROWS_FROM:
        return 0, 1
    axes = [2] if len(shape) == 4 else list(range(1, len(shape))) or [0]
    axis = max(axes, key=lambda a: shape[a])
    return axis, min(-(-size // ROWS_FROM), shape[axis])
