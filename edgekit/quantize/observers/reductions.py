"""Statistics that the engine computes itself: reductions added to the graph, a few numbers a sample out.

Reductions per channel run in parallel inside ONNX Runtime, those of a whole tensor do not. GlobalMaxPool and
GlobalAveragePool read the blocked layout that convolutions write, where ReduceMax and ReduceMean make the
engine reorder the tensor first. The minimum of what a ReLU wrote needs no reduction: the range of a
quantized tensor includes 0. ReduceMin, ReduceMax and GlobalMaxPool pass over NaN, a mean does not: so every
tensor has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.graph_index import GraphIndex

__all__ = ["Reductions", "add_reductions"]

_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs")


class Reductions:
    """Which outputs of the graph that `add_reductions` made hold the statistics of each tensor."""

    def __init__(self, tensors: list[str], *, floored: frozenset[str]) -> None:
        self.tensors = tensors
        self.floored = floored
        self.names = [f"{t}/{kind}" for t in tensors for kind in ("min", "max", "mean")]
        self.names = [n for n in self.names if not (n.endswith("/min") and n[:-4] in floored)]

    def of(self, tensor: str, values: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Minimum, maximum and mean of a tensor, scalars or one a channel, shape () or (channels,)."""
        high, mean = values[f"{tensor}/max"].squeeze(), values[f"{tensor}/mean"].squeeze()
        low = np.zeros_like(high) if tensor in self.floored else values[f"{tensor}/min"].squeeze()
        return low, high, mean


def add_reductions(
    index: GraphIndex, tensors: list[str], channels: Mapping[str, int]
) -> tuple[Any, Reductions]:
    """A copy of the indexed model with statistics of `tensors` as extra outputs, and where they are.

    `channels`: tensor -> the axis (from the front) of those whose channels are kept apart.
    """
    import onnx
    from onnx import TensorProto, helper

    observed = onnx.ModelProto()
    observed.CopyFrom(index.model)
    graph = observed.graph
    floored = frozenset(t for t in tensors if _never_negative(index, t))
    reductions = Reductions(tensors, floored=floored)

    def add(op: str, name: str, result: str, axes: list[int] | None) -> None:
        inputs, attributes = [name], {}
        if op.startswith("Reduce"):
            attributes = {"keepdims": 0}
            if axes is not None:
                inputs.append(f"{result}/axes")
                graph.initializer.append(helper.make_tensor(inputs[1], TensorProto.INT64, [len(axes)], axes))
        graph.node.append(helper.make_node(op, inputs, [result], name=result, **attributes))
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, None))

    for name in tensors:
        rank = len(index.shapes[name])
        axes = [a for a in range(rank) if a != channels[name]] if name in channels else None
        pooled = rank == 4 and channels.get(name) == 1 and index.shapes[name][0] == 1
        add("GlobalAveragePool" if pooled else "ReduceMean", name, f"{name}/mean", axes)
        add("GlobalMaxPool" if pooled and name in floored else "ReduceMax", name, f"{name}/max", axes)
        if name not in floored:
            add("ReduceMin", name, f"{name}/min", axes)
    return observed, reductions


def _never_negative(index: GraphIndex, name: str) -> bool:
    node = index.producer.get(name)
    if node is None:
        return False
    if node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in index.constants:
        return bool(index.constants[node.input[1]].min() >= 0.0)
    return node.op_type in _NEVER_NEGATIVE
