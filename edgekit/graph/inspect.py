"""What an ONNX file is: signature, operators, parameters, multiply-adds."""

from __future__ import annotations

import ast
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.codec import encode
from edgekit.core.packages import require
from edgekit.errors import UsageError
from edgekit.graph import fix_shapes, inline_functions
from edgekit.graph.canonical import signature_of
from edgekit.graph.walk import all_graphs, attribute, dimensions

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["count_macs", "inspect_model"]

# What says which axis holds channels, and what leaves the axes as they are.
_WINDOWS = (
    "AveragePool", "BatchNormalization", "Conv", "ConvTranspose", "GlobalAveragePool", "GlobalMaxPool", "LRN",
    "InstanceNormalization", "MaxPool",
)  # fmt: skip
_SAME_AXES = ("Add", "Cast", "Clip", "DequantizeLinear", "Div", "Identity", "Mul", "Pad", "QuantizeLinear",
              "Relu", "Resize", "Sub")  # fmt: skip
_LABEL_KEYS = ("names", "labels", "classes", "class_names", "id2label")

Shapes = dict[str, tuple[int, ...]]


def inspect_model(path: str) -> dict[str, Any]:
    """The step: facts of an ONNX file as JSON values.

    "inputs" and "outputs" (name, dtype, shape; the "layout" of inputs that convolutions or pools read),
    "labels" (names of classes that the exporter left in the metadata), "opset", "domains" beyond the standard
    one, "operators" (type -> count, inner graphs included), "parameters" (elements of weights that are
    numbers to compute with: no int64, no bool), "size_bytes" (file and external data), "macs" (multiply-adds
    of Conv, ConvTranspose, Gemm and MatMul for one call with a batch of 1; None while other dimensions are
    open) and "dynamic_dimensions". Raises `UsageError` for a file that is not ONNX.
    """
    model, files = _load(Path(path))
    signature = signature_of(model)
    operators = Counter(_label(node) for graph in all_graphs(model.graph) for node in graph.node)
    return {
        "inputs": [{**encode(spec), "layout": _layout(model, spec.name)} for spec in signature.inputs],
        "outputs": encode(signature.outputs),
        "labels": _labels(model),
        "opset": max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0),
        "domains": sorted({o.domain for o in model.opset_import} - {"", "ai.onnx"}),
        "nodes": sum(operators.values()),
        "operators": dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        "parameters": _parameters(model),
        "size_bytes": sum(file.stat().st_size for file in files if file.is_file()),
        "macs": _macs_at_batch_one(model),
        "dynamic_dimensions": [
            f"{spec.name}[{i}]{f' ({dim})' if dim else ''}"
            for spec in signature.inputs
            for i, dim in enumerate(spec.shape)
            if isinstance(dim, str)
        ],
    }


def count_macs(graph: GraphProto, shapes: Shapes) -> int | None:
    """Multiply-adds of one call, given the shape of every tensor; None when one that is needed is unknown.

    Conv: elements of the output x weights of one output channel; ConvTranspose: elements of the input x
    weights of one input channel; Gemm and MatMul: elements of the output x length of the sum.
    """
    total = 0
    for node in graph.node:
        if node.domain or node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            continue
        known = [shapes.get(name) for name in (node.input[0], node.input[1], node.output[0])]
        left, right, out = known
        if left is None or right is None or out is None:
            return None
        if node.op_type == "Conv":
            total += prod(out) * prod(right[1:])
        elif node.op_type == "ConvTranspose":
            total += prod(left) * prod(right[1:])
        else:
            transposed = node.op_type == "Gemm" and attribute(node, "transA", 0)
            total += prod(out) * (left[0] if transposed else left[-1])
    return total


def _load(path: Path) -> tuple[ModelProto, set[Path]]:
    onnx = require("onnx", needed_for="reading ONNX files")
    model: ModelProto = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except require("google.protobuf.message").DecodeError as err:
        raise UsageError(
            f"not a valid ONNX file: {err}", where=str(path), hint="the file may be truncated: copy it again"
        ) from err
    if not model.ir_version or not model.HasField("graph"):
        raise UsageError("not a valid ONNX file: it holds no graph", where=str(path))
    files = {path}
    for tensor in model.graph.initializer:
        files |= {path.parent / e.value for e in tensor.external_data if e.key == "location"}
    weights = {t.name for t in model.graph.initializer}
    for value in [v for v in model.graph.input if v.name in weights]:
        model.graph.input.remove(value)
    return model, files


def _layout(model: ModelProto, name: str) -> str:
    """"channels first" or "channels last": by the first operator that tells; "" where none does."""
    seen, waiting = set(), [(name, False)]
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for read in node.input[:1] if node.op_type in _WINDOWS else node.input:
            readers.setdefault(read, []).append(node)
    while waiting:
        tensor, moved = waiting.pop(0)
        for node in readers.get(tensor, ()):
            if node.op_type in _WINDOWS:
                return "channels last" if moved else "channels first"
            perm = list(attribute(node, "perm", ()))
            last_first = node.op_type == "Transpose" and perm == [0, len(perm) - 1, *range(1, len(perm) - 1)]
            if (last_first or node.op_type in _SAME_AXES) and node.output[0] not in seen:
                seen.add(node.output[0])
                waiting.append((node.output[0], moved or last_first))
    return ""


def _labels(model: ModelProto) -> list[str]:
    """A list of names, or a mapping from numbers to names, under one of the usual keys."""
    known = {entry.key: entry.value for entry in model.metadata_props}
    for key in _LABEL_KEYS:
        try:
            value = ast.literal_eval(known.get(key, "()"))  # JSON of strings and numbers is Python, too
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(value, dict):
            value = [value[n] for n in sorted(value, key=lambda n: int(n) if str(n).isdigit() else 0)]
        if isinstance(value, (list, tuple)) and value and all(isinstance(v, str) for v in value):
            return list(value)
    return []


def _label(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _parameters(model: ModelProto) -> int:
    onnx = require("onnx")
    uncounted = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING)
    tensors = [t for graph in all_graphs(model.graph) for t in graph.initializer]
    nodes = [n for graph in all_graphs(model.graph) for n in graph.node if n.op_type == "Constant"]
    tensors += [a.t for n in nodes for a in n.attribute if a.name == "value"]
    return sum(prod(t.dims) for t in tensors if t.data_type not in uncounted)


def _macs_at_batch_one(model: ModelProto) -> int | None:
    onnx = require("onnx")
    try:
        fixed = fix_shapes.apply(inline_functions.apply(model).model).model
    except UsageError:  # other dimensions are open: the number depends on them
        return None
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes: Shapes = {t.name: tuple(t.dims) for t in inferred.graph.initializer}
    for node in inferred.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
        dims = dimensions(value)
        if dims is not None and all(isinstance(d, int) for d in dims):
            shapes[value.name] = tuple(int(d) for d in dims)
    return count_macs(inferred.graph, shapes)
