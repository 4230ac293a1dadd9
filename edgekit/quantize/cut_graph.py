"""A graph cut down to some of its tensors, run in float32 with its quantizers as they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgekit.core.packages import require

__all__ = ["Cut", "cut_graph", "with_channel_means"]


class Cut:
    """A session over the part of a ModelProto that makes `tensors`; inputs of the model may be among them."""

    def __init__(self, model: Any, tensors: Iterable[str], *, threads: int = 0) -> None:
        onnxruntime = require("onnxruntime", needed_for="tuning a quantized network")
        inputs = {i.name for i in model.graph.input}
        self.tensors = tuple(dict.fromkeys(tensors))
        self._made = [t for t in self.tensors if t not in inputs]
        self._session = None
        if not self._made:
            return
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = threads
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        part = cut_graph(model, self._made)
        self._session = onnxruntime.InferenceSession(
            part.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        self._inputs = [i.name for i in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The tensors by name, from the model's inputs by name."""
        values = {name: inputs[name] for name in self.tensors if name in inputs}
        if self._session is not None:
            made = self._session.run(self._made, {name: inputs[name] for name in self._inputs})
            values.update(zip(self._made, made, strict=True))
        return values


def cut_graph(model: Any, tensors: Sequence[str]) -> Any:
    """A copy of `model` with the nodes that make `tensors`, its float32 outputs, and nothing else."""
    from onnx import ModelProto, TensorProto, helper

    needed, nodes = set(tensors), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
            needed.update(_read_inside(node))
    graph = helper.make_graph(
        nodes[::-1],
        "cut",
        [i for i in model.graph.input if i.name in needed],
        [helper.make_tensor_value_info(t, TensorProto.FLOAT, None) for t in tensors],
        [i for i in model.graph.initializer if i.name in needed],
    )
    cut = ModelProto()
    cut.CopyFrom(model)
    cut.graph.CopyFrom(graph)
    return cut


def _read_inside(node: Any) -> set[str]:
    """Names that the subgraphs of a node read."""
    graphs = [a.g for a in node.attribute if a.HasField("g")]
    inner = [n for graph in graphs for n in graph.node]
    return {name for n in inner for name in n.input}.union(*(_read_inside(n) for n in inner))


def with_channel_means(model: Any, tensors: Mapping[str, tuple[int, int]]) -> tuple[Any, dict[str, str]]:
    """A copy of `model` that also makes the mean of each channel; tensor -> the name of its means.

    `tensors` gives the rank and the channel axis of each.
    """
    from onnx import ModelProto, TensorProto, helper

    averaged = ModelProto()
    averaged.CopyFrom(model)
    names = {}
    for tensor, (rank, channel) in tensors.items():
        names[tensor] = result = f"{tensor}/channel_means"
        axes = [a for a in range(rank) if a != channel]
        averaged.graph.initializer.append(
            helper.make_tensor(f"{result}/axes", TensorProto.INT64, [len(axes)], axes)
        )
        averaged.graph.node.append(
            helper.make_node("ReduceMean", [tensor, f"{result}/axes"], [result], name=result, keepdims=0)
        )
    return averaged, names
