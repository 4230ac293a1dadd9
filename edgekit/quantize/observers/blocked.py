"""Rows taken out of the blocked layout that ONNX Runtime's convolutions write, before it is undone.

Between convolutions its optimizer keeps [N, C, H, W] as [N, C / b, H, W, b] ("NCHWc", b of the machine) and
writes a `ReorderOutput` in front of what does not read that: for the Slice that takes some rows of H, the
whole tensor is put in order. Seen as [N, C / b, H, W * b], the blocked tensor has the same rows: here they
are taken first, and only they are put in order. What comes out is the same to the bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit.core.packages import require
from edgekit.quantize.graph_index import attribute
from edgekit.quantize.observers.reductions import values_of

__all__ = ["take_rows_first"]

_DOMAIN = "com.microsoft.nchwc"
_PROBED = 64  # channels; no block is larger


def take_rows_first(graph: Any, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Change every Slice of `add_values` that alone reads a `ReorderOutput` of an optimized GraphProto.

    Returns the names of the nodes that are new.
    `shapes`: of the tensors; those of four dimensions are [N, C, H, W], and rows of H are taken of them.
    """
    producer = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    outputs = {o.name for o in graph.output}
    slices = {}
    for node in graph.node:
        ours = node.op_type == "Slice" and node.output[0] == values_of(node.input[0])
        if not ours or len(shapes.get(node.input[0], ())) != 4:
            continue
        reorder = producer.get(node.input[0])
        if reorder is None or reorder.op_type != "ReorderOutput" or attribute(reorder, "channels_last", 0):
            continue
        if readers[node.input[0]] == 1 and node.input[0] not in outputs:
            slices[node.input[0]] = node
    if not slices:
        return set()
    block, nodes = _block(), []
    new: set[str] = set()
    for node in graph.node:
        if node.op_type == "ReorderOutput" and node.output[0] in slices:
            made = _rows(graph, node, slices[node.output[0]], shapes[node.output[0]], block)
            nodes += made
            new.update(n.name for n in made)
        elif node.op_type != "Slice" or node.input[0] not in slices:
            nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    return new


def _rows(graph: Any, reorder: Any, taken: Any, shape: tuple[int, ...], block: int) -> list[Any]:
    from onnx import TensorProto, helper

    batch, channels, height, width = shape
    blocks = -(-channels // block)
    name = f"{taken.output[0]}/blocked"
    seen_as = {f"{name}/by_row": [batch, blocks, height, width * block],
               f"{name}/of_rows": [batch, blocks * block, -1, width]}  # fmt: skip
    for constant, dims in seen_as.items():
        graph.initializer.append(helper.make_tensor(constant, TensorProto.INT64, [4], dims))
    by_row, of_rows = seen_as
    ordered = helper.make_node("ReorderOutput", [f"{name}/rows"], taken.output, name=name, domain=_DOMAIN)
    ordered.attribute.extend(reorder.attribute)
    return [
        helper.make_node("Reshape", [reorder.input[0], by_row], [f"{name}/all"], name=f"{name}/all"),
        helper.make_node("Slice", [f"{name}/all", *taken.input[1:]], [f"{name}/some"], name=f"{name}/some"),
        helper.make_node("Reshape", [f"{name}/some", of_rows], [f"{name}/rows"], name=f"{name}/rows"),
        ordered,
    ]


def _block() -> int:
    """How many channels lie beside each other on this machine: seen by having an array reordered."""
    onnxruntime = require("onnxruntime", needed_for="calibration")
    from onnx import TensorProto, helper

    shape = [1, _PROBED, 1, 2]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("plain", "blocked")]
    node = helper.make_node("ReorderInput", ["plain"], ["blocked"], domain=_DOMAIN)
    domains = [helper.make_opsetid("", 20), helper.make_opsetid(_DOMAIN, 1)]
    graph = helper.make_graph([node], "probe", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.arange(2 * _PROBED, dtype=np.float32).reshape(shape)
    (blocked,) = session.run(None, {"plain": values})
    return int(np.argmax(blocked.ravel() == values[0, 0, 0, 1]))  # channels of the first place come before it
