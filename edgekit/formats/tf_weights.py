"""Freeze a traced TensorFlow function without its large weights: tf2onnx takes 46 times what they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.large_tensors import LARGE_BYTES, made_external
from edgekit.core.packages import require

__all__ = ["FrozenGraph", "freeze", "with_weights"]

# Operators that tf2onnx converts alike whether a weight is a constant or an input.
_READERS = (
    "BatchMatMulV2", "Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "GatherV2", "MatMul",
    "ResourceGather",
)  # fmt: skip
_PASSED_ON = ("Identity", "ReadVariableOp")
_PLAIN = ("float32", "float16", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenGraph:
    """A GraphDef with the names of its inputs and outputs as tensors.

    `weights`: the values of Placeholder nodes that stand for large constants, by name of the node.
    """

    graph_def: Any
    inputs: list[str]
    outputs: list[str]
    weights: Mapping[str, NDArray[Any]]


def freeze(function: Any) -> FrozenGraph:
    """A concrete function as one graph, its variables constants, the functions it calls inlined.

    A large weight that plain products, convolutions and look-ups alone read becomes a Placeholder; one that a
    loop or a branch takes does not: what is inside has to know its shape.
    """
    convert = require("tensorflow.python.framework.convert_to_constants")
    large: dict[str, Any] = {}

    class Sparing(convert._FunctionConverterDataInEager):  # type: ignore[misc, name-defined]
        @cached_property
        def readers(self) -> dict[str, list[Any]]:
            return _readers(self.graph_def)

        def _eval(self, tensor: Any) -> Any:
            if _is_large(tensor):
                inside = next(i for outside, i in function.graph.captures if outside is tensor.handle)
                name = inside.name.partition(":")[0]
                if _read_plainly(name, self.readers):
                    large[name] = tensor
                    return np.zeros((), tensor.dtype.as_numpy_dtype)
            return tensor.numpy()

    data = Sparing(func=function, lower_control_flow=False, aggressive_inlining=True)
    graph_def, frozen = convert._replace_variables_by_constants(converter_data=data)
    captured = {t.name for i, t in enumerate(function.graph.internal_captures) if i in frozen}
    weights = _taken_out(graph_def, large)
    return FrozenGraph(
        graph_def=graph_def,
        inputs=[t.name for t in function.inputs if t.name not in captured],
        outputs=[t.name for t in function.outputs],
        weights=weights,
    )


def with_weights(model: Any, weights: Mapping[str, NDArray[Any]]) -> Any:
    """The ONNX model with hollow initializers instead of the inputs that stand for these weights."""
    kept = [type(v).FromString(v.SerializeToString()) for v in model.graph.input if v.name not in weights]
    for value in (v for v in model.graph.input if v.name in weights):
        tensor = model.graph.initializer.add()
        tensor.name, tensor.data_type = value.name, value.type.tensor_type.elem_type
        tensor.dims.extend(weights[value.name].shape)
        made_external(tensor, "", 0, weights[value.name].nbytes)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _is_large(tensor: Any) -> bool:
    known = hasattr(tensor, "handle") and tensor.dtype.name in _PLAIN and tensor.shape.is_fully_defined()
    return known and tensor.shape.num_elements() * tensor.dtype.size >= LARGE_BYTES


def _readers(graph_def: Any) -> dict[str, list[Any]]:
    """The nodes that read each node; "^name" waits for it and reads nothing."""
    readers: dict[str, list[Any]] = {}
    for node in graph_def.node:
        for name in node.input:
            readers.setdefault(name.partition(":")[0], []).append(node)
    return readers


def _read_plainly(variable: str, readers: Mapping[str, list[Any]]) -> bool:
    """Whether `_READERS` alone read the variable of this name."""
    names = [variable]
    while names:
        reading = readers.get(names.pop(), [])
        if not all(node.op in (*_READERS, *_PASSED_ON) for node in reading):
            return False
        names += [node.name for node in reading if node.op in _PASSED_ON]
    return True


def _taken_out(graph_def: Any, large: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Let Placeholders stand for the constants that are named after these variables: their values."""
    weights: dict[str, NDArray[Any]] = {}
    for node in graph_def.node:
        if node.name not in large:
            continue
        variable = large[node.name]
        weights[node.name] = np.asarray(memoryview(variable.read_value()))  # `numpy` would copy it
        dtype = node.attr["dtype"].type
        node.op = "Placeholder"
        node.attr.clear()
        node.attr["dtype"].type = dtype
        node.attr["shape"].shape.CopyFrom(variable.shape.as_proto())
    return weights
