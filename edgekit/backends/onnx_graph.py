"""What the backends that take ONNX files share: signatures, integer I/O, half-precision weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekit.core.packages import require
from edgekit.core.target import Precision
from edgekit.errors import Reason
from edgekit.runtime.manifest import TensorIO

__all__ = [
    "IOScale",
    "float16_weights",
    "integer_io",
    "nothing_stored",
    "refused_dtypes",
    "stored_notes",
    "tensor_ios",
]

_NUMPY_DTYPES = frozenset({
    "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class IOScale:
    """The scale and zero point of a model input or output that is integer."""

    scale: float
    zero_point: int


def tensor_ios(
    model: Any, scales: Mapping[str, IOScale] | None = None
) -> tuple[tuple[TensorIO, ...], tuple[TensorIO, ...]]:
    """The inputs and outputs of a ModelProto as the manifest lists them, in the source's layout."""
    onnx = require("onnx")
    scales = scales or {}
    constants = {i.name for i in model.graph.initializer}

    def io(info: Any) -> TensorIO:
        kind = info.type.tensor_type
        scale = scales.get(info.name)
        return TensorIO(
            name=info.name,
            engine_name=info.name,
            dtype=np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name,
            shape=tuple(d.dim_param if d.HasField("dim_param") else d.dim_value for d in kind.shape.dim),
            scale=scale.scale if scale else 0.0,
            zero_point=scale.zero_point if scale else 0,
        )

    inputs = tuple(io(i) for i in model.graph.input if i.name not in constants)
    return inputs, tuple(io(o) for o in model.graph.output)


def refused_dtypes(model: Any) -> list[Reason]:
    """The inputs and outputs whose dtype numpy does not have: the runtime takes and gives numpy arrays."""
    inputs, outputs = tensor_ios(model)
    return [
        Reason(
            node=io.name,
            why=f"it is {io.dtype}, which numpy does not have; allowed: {', '.join(sorted(_NUMPY_DTYPES))}",
            hint="cast it to float32 inside the model",
        )
        for io in (*inputs, *outputs)
        if io.dtype not in _NUMPY_DTYPES
    ]


def integer_io(model: Any) -> tuple[Any, dict[str, IOScale]]:
    """Take the quantizer off every input that only it reads, and the dequantizer off every such output.

    Before: float input -> QuantizeLinear. After: integer input of the same name. An output that no
    dequantizer writes stays float. Returns a new ModelProto and the scales by name.
    """
    onnx = require("onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    scales: dict[str, IOScale] = {}
    for info in graph.input:
        readers = [n for n in graph.node if info.name in n.input]
        if len(readers) != 1 or readers[0].op_type != "QuantizeLinear":
            continue
        quantizer = readers[0]
        for node in graph.node:
            _rename(node.input, quantizer.output[0], info.name)
        _make_integer(info, quantizer, constants, scales, onnx)
        graph.node.remove(quantizer)
    for info in graph.output:
        writer = next((n for n in graph.node if info.name in n.output), None)
        if writer is None or writer.op_type != "DequantizeLinear":
            continue
        codes = writer.input[0]
        readers = [n for n in graph.node if codes in n.input or info.name in n.input]
        if len(readers) != 1:
            continue
        for node in graph.node:
            _rename(node.output, codes, info.name)
        _make_integer(info, writer, constants, scales, onnx)
        graph.node.remove(writer)
    return changed, scales


def _rename(names: Any, old: str, new: str) -> None:
    for position, name in enumerate(names):
        if name == old:
            names[position] = new


def _make_integer(
    info: Any, node: Any, constants: Mapping[str, Any], scales: dict[str, IOScale], onnx: Any
) -> None:
    scale, zero_point = constants[node.input[1]], constants[node.input[2]]
    info.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(zero_point.dtype)
    scales[info.name] = IOScale(scale=float(scale), zero_point=int(zero_point))


def float16_weights(model: Any) -> tuple[Any, list[str]]:
    """Store float32 weights in half precision behind a Cast; computation stays in float32.

    Weights that leave the range of half precision (65504) stay float32; returns the new ModelProto and their
    names. Only tensors of 16 elements or more are worth the Cast.
    """
    onnx = require("onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    casts, kept = [], []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 16:
            continue
        if np.abs(values).max() > np.finfo(np.float16).max:
            kept.append(tensor.name)
            continue
        name = tensor.name
        half = onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16")
        tensor.CopyFrom(half)
        to = onnx.TensorProto.FLOAT
        casts.append(onnx.helper.make_node("Cast", [half.name], [name], name=f"{name}_float32", to=to))
    nodes = [*casts, *(onnx.NodeProto.FromString(n.SerializeToString()) for n in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
    return changed, kept


def nothing_stored(model: Any, precision: Precision) -> list[Reason]:
    """Why a graph has nothing that `precision`, one of those that code weights alone, could store smaller."""
    kinds = _stored_kinds(model)
    if precision == "weight-int4" and "INT4" not in kinds:
        hint = "use weight-int8" if kinds else ""
        return [Reason(why="no matrix product with constant weights: nothing can have 4 bits", hint=hint)]
    return [] if kinds else [Reason(why="no convolution or matrix product with constant weights")]


def stored_notes(model: Any) -> tuple[str, ...]:
    """What the manifest says of the bits in which weights are stored."""
    kinds = _stored_kinds(model)
    if "INT4" not in kinds or "INT8" not in kinds:
        return ()
    return (f"weights in 4 bits: {kinds.count('INT4')}, in 8 bits: {kinds.count('INT8')}",)


def _stored_kinds(model: Any) -> list[str]:
    """The types of the codes that DequantizeLinear nodes unpack from constants."""
    onnx = require("onnx")
    kinds = {i.name: onnx.TensorProto.DataType.Name(i.data_type) for i in model.graph.initializer}
    read = [n.input[0] for n in model.graph.node if n.op_type == "DequantizeLinear"]
    return [kinds[name] for name in read if name in kinds]
