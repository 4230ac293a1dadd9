"""Which node of a graph is the first to answer otherwise than its source: asked only after an output did."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.arrays import load_arrays
from edgekit.core.packages import require
from edgekit.graph.compare import first_difference
from edgekit.graph.walk import node_reads

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["first_node", "first_value"]

Arrays = Mapping[str, NDArray[Any]]
_OF_SHAPES = ("Shape", "Size")  # what they give does not tell whether the values they read are right
_MOST_AXES = 5  # of a tensor whose axes are tried in every order


def first_node(reference: str, graph: str, inputs: str) -> str:
    """The step: the first node of the ONNX file `graph` that answers otherwise than the file `reference`.

    Both run on the arrays in the file `inputs`, with every tensor an output; tensors are paired by name. The
    first node that is to blame (see `_to_blame`) is named, with those it reads from that have no counterpart
    in the reference, for it may be one of them. Returns words for a message, "" when no node is found. Raises
    what ONNX Runtime raises.
    """
    onnx = require("onnx")
    arrays = load_arrays(Path(inputs))
    expected = _every_tensor(onnx.load(reference), arrays)
    model = onnx.load(graph)
    got = _every_tensor(model, arrays)
    agrees = {
        name: first_difference({name: expected[name]}, {name: got[name]}) is None
        for name in got
        if name in expected
    }
    nodes = {name: node for node in model.graph.node for name in node.output if name}
    reads = {n: [] if node.op_type in _OF_SHAPES else sorted(node_reads(node)) for n, node in nodes.items()}
    guilty = _to_blame(agrees, reads)
    if not guilty:
        return ""
    unpaired: dict[str, list[str]] = {}  # tensor -> the nodes without a counterpart that it is made by
    for node in model.graph.node:
        before = list(dict.fromkeys(n for name in node.input for n in unpaired.get(name, ())))
        if guilty in node.output:
            return _words(node, before)
        if not any(name in agrees for name in node.output):
            unpaired.update((name, [*before, node.name]) for name in node.output)
    return ""


def first_value(values: str, graph: str, inputs: str, reads: dict[str, list[str]] | None = None) -> str:
    """The step: the name of the first of `values` that no tensor of the ONNX file `graph` holds; else "".

    `values` is a file of arrays: what the source computed inside, by the name of what computed it (a layer, a
    module, an operation), in the order of its execution. The graph runs on the arrays in the file `inputs`.
    A value is held by a tensor of its size that is equal to it, with its axes in any order. `reads` says from
    which others a value is made (see `_to_blame`).
    """
    onnx = require("onnx")
    held = list(_every_tensor(onnx.load(graph), load_arrays(Path(inputs))).values())
    found = load_arrays(Path(values))
    known = {name: _holds(held, value) for name, value in found.items() if _telling(value)}
    return _to_blame(known, {name: (reads or {}).get(name, []) for name in found})


def _to_blame(agrees: Mapping[str, bool], reads: Mapping[str, Sequence[str]]) -> str:
    """The first name of `reads` (in order of execution) that does not agree and is to blame for it; or "".

    Names that are not in `agrees` could not be compared. What does not agree is not to blame when it is read,
    and all that is made from it agrees: an exporter or a pass has merged it into its neighbours, or moved a
    bias past it.
    """
    readers: dict[str, list[str]] = {}
    for name, read in reads.items():
        for source in read:
            readers.setdefault(source, []).append(name)
    settled: dict[str, bool] = {}
    for name in reversed(list(reads)):
        after = [r for r in readers.get(name, ()) if r != name]
        settled[name] = bool(after) and all(agrees.get(r) or settled.get(r, False) for r in after)
    return next((name for name in reads if agrees.get(name) is False and not settled[name]), "")


def _words(node: NodeProto, before: Sequence[str]) -> str:
    named = f"{node.name!r} ({node.op_type})"
    if not before:
        return named
    listed = ", ".join(map(repr, before[-3:]))
    more = f" and {len(before) - 3} more" if len(before) > 3 else ""
    return f"{named}, or one of those before it that have no counterpart: {listed}{more}"


def _every_tensor(model: ModelProto, arrays: Arrays) -> dict[str, NDArray[Any]]:
    """What every node of the graph (not of those inside it) writes, and the inputs, by tensor name."""
    onnx, ort = require("onnx"), require("onnxruntime", needed_for="checking the reading")
    onnx_outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in onnx_outputs:
                model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
                onnx_outputs.add(name)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {i.name: arrays[i.name] for i in session.get_inputs()}
    names = [o.name for o in session.get_outputs()]
    answers = zip(names, session.run(None, given), strict=True)
    return {**given, **{name: value for name, value in answers if isinstance(value, np.ndarray)}}


def _telling(value: NDArray[Any]) -> bool:
    """Whether a value can be looked for: a real number, or several that are not all the same."""
    return value.dtype.kind == "f" and (value.size == 1 or bool((value != value.flat[:1]).any()))


def _holds(tensors: Sequence[NDArray[Any]], value: NDArray[Any]) -> bool:
    wanted = _squeezed(value)
    same_size = (_squeezed(t) for t in tensors if t.size == value.size and t.dtype == value.dtype)
    return any(
        _equal(wanted, arranged) for tensor in same_size for arranged in _arranged(tensor, wanted.shape)
    )


def _squeezed(value: NDArray[Any]) -> NDArray[Any]:
    return value.reshape([d for d in value.shape if d != 1])


def _arranged(tensor: NDArray[Any], shape: tuple[int, ...]) -> Iterator[NDArray[Any]]:
    """The tensor in every order of its axes that has this shape; and its elements in order, as this shape."""
    if 1 < tensor.ndim <= _MOST_AXES:
        for axes in itertools.permutations(range(tensor.ndim)):
            if tuple(tensor.shape[a] for a in axes) == shape:
                yield tensor.transpose(axes)
    yield tensor.reshape(shape)


def _equal(expected: NDArray[Any], got: NDArray[Any]) -> bool:
    first = 64  # most tensors are told apart by their beginning
    if expected.size > first:
        scale = float(np.abs(expected).max())
        start = np.abs(expected.flat[:first] - got.flat[:first])
        if not np.isfinite(scale) or (start > 1e-3 * scale + 1e-3).any():
            return bool(np.array_equal(expected, got, equal_nan=True))
    return first_difference({"": expected}, {"": got}) is None
