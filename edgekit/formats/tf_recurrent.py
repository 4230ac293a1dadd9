"""Let tf2onnx make LSTM and GRU nodes of loops whose weights are inputs of the graph, not constants in it.

tf2onnx (1.17) makes them of constants alone: it puts the gates of Keras' kernels into ONNX's order by numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.large_tensors import LARGE_BYTES
from edgekit.core.packages import require

__all__ = ["recurrent_inputs"]

# Of tf2onnx.tfonnx: what makes recurrent nodes of loops, and one in two directions of two nodes.
_REWRITERS = ("rewriter_lstm_tf2", "rewrite_gru_tf2", "rewrite_bi_direction_lstm", "rewrite_bi_direction_gru")


@contextmanager
def recurrent_inputs(weights: dict[str, NDArray[Any]]) -> Iterator[None]:
    """While tf2onnx runs, its rewriters of recurrent loops find `weights`, by name of an input, constant.

    The large arrays that they make of them become inputs, too, and are added to `weights`.
    """
    tfonnx = require("tf2onnx.tfonnx")
    with ExitStack() as stack:
        for name in _REWRITERS:
            stack.enter_context(_replaced(tfonnx, name, _seeing(weights, getattr(tfonnx, name))))
        yield


def _seeing(weights: dict[str, NDArray[Any]], rewriter: Callable[..., Any]) -> Callable[..., Any]:
    """The rewriter; nodes of inputs among `weights` are constants to it."""
    graphs = require("tf2onnx.graph")
    is_const, make_const = graphs.Graph.is_const, graphs.Graph.make_const
    get_value = graphs.Node.get_tensor_value

    def const(graph: Any, output: str) -> bool:
        return output in weights or is_const(graph, output)

    def value(node: Any, as_list: bool = True) -> Any:
        if as_list or node.is_const():
            return get_value(node, as_list)
        return weights[node.output[0]] if node.output[0] in weights else get_value(node, as_list)

    def made(graph: Any, name: str, array: Any, *args: Any, **kwargs: Any) -> Any:
        if array.nbytes < LARGE_BYTES or array.dtype.kind != "f":
            return make_const(graph, name, array, *args, **kwargs)
        weights[name] = np.ascontiguousarray(array)
        dtype = require("tf2onnx.utils").map_numpy_to_onnx_dtype(array.dtype)
        known_as = {"outputs": [name], "dtypes": [dtype], "shapes": [list(array.shape)]}
        node = graph.make_node("Placeholder", [], name=name, **known_as)
        graph.inputs.append(node)
        return node

    def rewrite(graph: Any, nodes: Any) -> Any:
        with ExitStack() as stack:
            stack.enter_context(_replaced(graphs.Graph, "is_const", const))
            stack.enter_context(_replaced(graphs.Node, "get_tensor_value", value))
            stack.enter_context(_replaced(graphs.Graph, "make_const", made))
            return rewriter(graph, nodes)

    return rewrite


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
