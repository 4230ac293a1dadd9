"""Inputs that a graph can sensibly be asked about, made from the graph alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.arrays import save_arrays
from edgekit.core.large_tensors import load_hollow
from edgekit.core.packages import require
from edgekit.errors import UsageError
from edgekit.graph.walk import all_graphs, attribute, constants, dimensions

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["generate_files", "generate_inputs"]

# Operators through which an integer keeps its value, or nearly: the trace goes on behind them.
_CARRIERS = (
    "Cast", "Clip", "Concat", "Expand", "Flatten", "Identity", "Max", "Min", "Reshape", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
_BOOL = 9  # TensorProto.BOOL
_PLAIN_INTEGERS = 8  # values below this, where nothing in the graph says what an integer means


@dataclass(slots=True)
class _Meaning:
    """What the graph does with an integer input: rows of tables, constants compared with, used as a mask."""

    rows: list[int] = field(default_factory=list)
    compared: set[int] = field(default_factory=set)
    mask: bool = False


def generate_inputs(model_path: str | Path, seed: int) -> dict[str, NDArray[Any]]:
    """One input set for an ONNX file with static inputs: the same for the same graph and seed.

    Floats are standard normal. An integer (or a float that is cast) that indexes a table (Gather) lies within
    its rows, one that is compared (Equal) takes the constants it is compared with, one that becomes bool or
    decides a Where is 0 or 1; other integers are 0 to 7, codes of int8 and uint8 their whole range. Booleans
    are half true.
    Raises `UsageError` for an input with a dynamic dimension or no numbers.
    """
    onnx = require("onnx")
    model: ModelProto = load_hollow(Path(model_path), onnx.ModelProto())
    weights = {t.name for t in model.graph.initializer}
    arrays = {}
    for index, value in enumerate(v for v in model.graph.input if v.name not in weights):
        dims = dimensions(value)
        if dims is None or not all(isinstance(d, int) for d in dims):
            raise UsageError(f"the input {value.name!r} has a dynamic dimension", where=str(model_path))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        rng = np.random.default_rng([seed, index])
        arrays[value.name] = _values(model.graph, value.name, tuple(int(d) for d in dims), dtype, rng)
    return arrays


def generate_files(model: str, out: list[str]) -> None:
    """Write one generated input set to each file, with the seeds 0, 1, ..."""
    for seed, path in enumerate(out):
        save_arrays(Path(path), generate_inputs(model, seed))


def _values(
    graph: GraphProto, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator
) -> NDArray[Any]:
    if dtype.kind == "f":
        table = _Meaning()  # ids may come as floats (Keras' default) and be cast
        _trace(graph, name, 0, table, set())
        if table.rows:
            return rng.integers(0, max(1, min(table.rows)), shape).astype(dtype)
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind not in "iu":
        raise UsageError(f"the input {name!r} is {dtype}, numbers are needed")
    meaning = _Meaning()
    _trace(graph, name, 0, meaning, set())
    if meaning.rows:
        return rng.integers(0, max(1, min(meaning.rows)), shape).astype(dtype)
    if meaning.compared:
        return rng.choice(sorted(meaning.compared), shape).astype(dtype)
    if meaning.mask:
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.itemsize == 1:
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
    return rng.integers(0, _PLAIN_INTEGERS, shape).astype(dtype)


def _trace(graph: GraphProto, name: str, shift: int, meaning: _Meaning, seen: set[str]) -> None:
    """Follow a tensor that holds input + shift to what gives it a meaning."""
    if name in seen:
        return
    seen.add(name)
    known = constants(graph)
    for node, place in _readers(graph, name):
        if node.op_type in ("Gather", "GatherElements", "GatherND") and place == 1:
            rows = _rows(graph, node)
            if rows:
                meaning.rows.append(rows - shift)
        elif node.op_type == "Equal":
            other = known.get(node.input[1 - place])
            if other is not None:
                meaning.compared |= {int(v) - shift for v in other.ravel()[:16]}
        elif node.op_type == "Where" or (node.op_type == "Cast" and attribute(node, "to", 0) == _BOOL):
            meaning.mask = True
        elif node.op_type == "Add":
            other = known.get(node.input[1 - place])
            if other is not None and other.size and other.dtype.kind in "iu":
                _trace(graph, node.output[0], shift + int(other.max()), meaning, seen)
        elif node.op_type in _CARRIERS and (place == 0 or node.op_type in ("Concat", "Max", "Min")):
            for output in node.output:
                _trace(graph, output, shift, meaning, seen)


def _readers(graph: GraphProto, name: str) -> Iterator[tuple[NodeProto, int]]:
    for inner in all_graphs(graph):
        for node in inner.node:
            for place, read in enumerate(node.input):
                if read == name:
                    yield node, place


def _rows(graph: GraphProto, node: NodeProto) -> int:
    """How many rows the table of a Gather has along its axis; 0 when the graph does not say."""
    if node.op_type == "GatherND":
        return 0
    table = constants(graph).get(node.input[0])
    shape: tuple[int | str, ...] = table.shape if table is not None else ()
    if table is None:
        for value in (*graph.value_info, *graph.input):
            if value.name == node.input[0]:
                shape = dimensions(value) or ()
    axis = attribute(node, "axis", 0)
    if not -len(shape) <= axis < len(shape):
        return 0
    size = shape[axis]
    return size if isinstance(size, int) else 0
