"""Who makes a tensor and who reads it, in an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GraphIndex", "attribute", "index_graph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphIndex:
    """An ONNX graph with the look-ups that quantization needs.

    `constants` maps initializer names to arrays; `producer` a tensor to the node that makes it; `readers` a
    tensor to the nodes that read it, in graph order; `dtypes` and `shapes` come from the graph's own
    value_info, inputs and outputs (a dimension that is not a number is 0).
    """

    model: Any
    constants: dict[str, NDArray[Any]]
    producer: dict[str, Any]
    readers: dict[str, tuple[Any, ...]]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    dtypes: dict[str, int]
    shapes: dict[str, tuple[int, ...]]

    def is_float_activation(self, name: str) -> bool:
        """Whether `name` is a float32 tensor that depends on the inputs."""
        from onnx import TensorProto

        return bool(name) and name not in self.constants and self.dtypes.get(name) == TensorProto.FLOAT

    def is_float_constant(self, name: str) -> bool:
        """Whether `name` is a float32 initializer."""
        return name in self.constants and self.constants[name].dtype == np.float32

    def only_reader(self, name: str) -> Any | None:
        """The one node that reads `name`, or None when several do, none does, or it is a graph output."""
        readers = self.readers.get(name, ())
        return readers[0] if len(readers) == 1 and name not in self.outputs else None


def index_graph(model: Any) -> GraphIndex:
    """Index a ModelProto whose tensors carry shapes (`onnx.shape_inference` has run)."""
    from onnx import numpy_helper

    graph = model.graph
    readers: dict[str, list[Any]] = {}
    producer: dict[str, Any] = {}
    for node in graph.node:
        for name in node.output:
            producer[name] = node
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    infos = [*graph.input, *graph.output, *graph.value_info]
    return GraphIndex(
        model=model,
        constants=constants,
        producer=producer,
        readers={name: tuple(nodes) for name, nodes in readers.items()},
        inputs=tuple(i.name for i in graph.input if i.name not in constants),
        outputs=tuple(o.name for o in graph.output),
        dtypes={i.name: i.type.tensor_type.elem_type for i in infos},
        shapes={i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos},
    )


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default` when it is absent."""
    import onnx

    for item in node.attribute:
        if item.name == name:
            return onnx.helper.get_attribute_value(item)
    return default
