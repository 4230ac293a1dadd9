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
_LOOPS = ("While", "StatelessWhile")
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

    A large weight that plain products, convolutions and look-ups alone read, also in a loop, becomes a
    Placeholder; one that a branch or a loop in a loop takes does not: what is inside has to know its shape.
    """
    convert = require("tensorflow.python.framework.convert_to_constants")
    large: dict[str, Any] = {}

    class Sparing(convert._FunctionConverterDataInEager):  # type: ignore[misc, name-defined]
        @cached_property
        def reading(self) -> _Reading:
            functions = {f.signature.name: f for f in self.graph_def.library.function}
            return _Reading(nodes=self.graph_def.node, functions=functions)

        def _eval(self, tensor: Any) -> Any:
            if _is_large(tensor):
                inside = next(i for outside, i in function.graph.captures if outside is tensor.handle)
                name = inside.name.partition(":")[0]
                if self.reading.plain(name):
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
    """The ONNX model with hollow initializers instead of the inputs that stand for these weights.

    A weight that no node reads (what recurrent nodes are made of) is left out.
    """
    read = _read(model.graph)
    kept = [type(v).FromString(v.SerializeToString()) for v in model.graph.input if v.name not in weights]
    for value in (v for v in model.graph.input if v.name in weights and v.name in read):
        tensor = model.graph.initializer.add()
        tensor.name, tensor.data_type = value.name, value.type.tensor_type.elem_type
        tensor.dims.extend(weights[value.name].shape)
        made_external(tensor, "", 0, weights[value.name].nbytes)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _read(graph: Any) -> set[str]:
    """The names that the nodes of the graph read, also within what they hold; and its outputs."""
    names = {output.name for output in graph.output}
    for node in graph.node:
        names.update(node.input)
        for inner in (a.g for a in node.attribute if a.HasField("g")):
            names |= _read(inner)
    return names


def _is_large(tensor: Any) -> bool:
    known = hasattr(tensor, "handle") and tensor.dtype.name in _PLAIN and tensor.shape.is_fully_defined()
    return known and tensor.shape.num_elements() * tensor.dtype.size >= LARGE_BYTES


class _Reading:
    """Who reads what: of the nodes of a graph or of a function in it."""

    def __init__(self, *, nodes: Any, functions: Mapping[str, Any] | None = None) -> None:
        self._functions = functions
        self._readers: dict[str, list[Any]] = {}
        for node in nodes:
            for name in node.input:  # "^name" waits for it and reads nothing
                self._readers.setdefault(name.partition(":")[0], []).append(node)

    def plain(self, variable: str) -> bool:
        """Whether `_READERS` alone read the variable of this name, here and in the loops that take it."""
        names = [variable]
        while names:
            name = names.pop()
            for node in self._readers.get(name, []):
                if node.op in _PASSED_ON:
                    names.append(node.name)
                elif node.op in _LOOPS:
                    if not self._plain_within(node, name):
                        return False
                elif node.op not in _READERS:
                    return False
        return True

    def _plain_within(self, loop: Any, name: str) -> bool:
        for part in ("cond", "body"):
            if self._functions is None:
                return False
            function = self._functions[loop.attr[part].func.name]
            arguments = [
                argument.name
                for given, argument in zip(loop.input, function.signature.input_arg, strict=False)
                if given.partition(":")[0] == name
            ]
            inner = _Reading(nodes=function.node_def)
            if not all(inner.plain(argument) for argument in arguments):
                return False
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
    _restore_shapes(graph_def, large)
    return weights


def _restore_shapes(graph_def: Any, large: Mapping[str, Any]) -> None:
    """Let the loops that take these variables know their shapes: while frozen they were scalars."""
    copied = {node.name: node.input[0] for node in graph_def.node if node.op == "Identity"}
    for loop in (node for node in graph_def.node if node.op in _LOOPS):
        for shape, taken in zip(loop.attr["output_shapes"].list.shape, loop.input, strict=False):
            name = taken
            while name in copied:
                name = copied[name]
            if name in large:
                shape.CopyFrom(large[name].shape.as_proto())
