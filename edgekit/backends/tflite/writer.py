"""The flatbuffer, through the schema classes of the LiteRT package.

Equal graphs give equal bytes: operator codes, buffers and tensors are numbered in order of first use, equal
constants share a buffer, buffers lie on 16 bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgekit import __version__
from edgekit.backends.tflite.ir import Array, Graph, Operator, OptionValue, Port, Tensor
from edgekit.backends.tflite.metadata import METADATA_NAME, archive, model_metadata
from edgekit.backends.tflite.runtime_version import minimum_runtime
from edgekit.backends.tflite.versions import operator_version
from edgekit.core.about import NOTHING, About
from edgekit.core.packages import require
from edgekit.errors import Unsupported

__all__ = ["SIGNATURE", "serialize"]

SIGNATURE = "serving_default"
_ALIGNMENT = 16
_LIMIT_BYTES = 2**31 - 1
_OPTION_TABLES = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SQUEEZE": "SqueezeOptions",
    "SPLIT": "SplitOptions",
    "CONCATENATION": "ConcatenationOptions",
    "RESHAPE": "ReshapeOptions",
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "REDUCE_ALL": "ReducerOptions",
    "CUMSUM": "CumsumOptions",
    "REVERSE_SEQUENCE": "ReverseSequenceOptions",
    "LOCAL_RESPONSE_NORMALIZATION": "LocalResponseNormalizationOptions",
    "CONV_3D": "Conv3DOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "GATHER": "GatherOptions",
    "ARG_MAX": "ArgMaxOptions",
    "ARG_MIN": "ArgMinOptions",
    "GELU": "GeluOptions",
    "CAST": "CastOptions",
    "SHAPE": "ShapeOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
}
_ENUMS = {
    "padding": "Padding",
    "fused_activation_function": "ActivationFunctionType",
    "mode": "MirrorPadMode",
    "output_type": "TensorType",
    "out_type": "TensorType",
    "in_data_type": "TensorType",
    "out_data_type": "TensorType",
}


def serialize(
    graph: Graph | Mapping[str, Graph], *, description: str = "", about: About = NOTHING
) -> bytes | memoryview:
    """The bytes of a .tflite file. Tensors are named after the ONNX values they hold.

    Several graphs become subgraphs of one file that share its constants, each with its key as the name of its
    signature. What `about` says is in the metadata; labels follow the model as a zip archive.
    """
    graphs = graph if isinstance(graph, Mapping) else {SIGNATURE: graph}
    written = _Writer(graphs, about).view(description or f"edgekit {__version__}")
    labels = archive(about)
    return b"".join((written, labels)) if labels else written


class _Writer:
    """What the whole file shares: buffers and operator codes; tensors belong to one subgraph at a time."""

    def __init__(self, graphs: Mapping[str, Graph], about: About) -> None:
        self.schema = require("ai_edge_litert.schema_py_generated", needed_for="writing a .tflite file")
        self.flatbuffers = require("flatbuffers", needed_for="writing a .tflite file")
        self.graphs = graphs
        self.about = about
        self.buffers: list[Array | None] = [None]
        self.buffer_index: dict[tuple[bytes, int], int] = {}
        self.codes: dict[tuple[str, int], int] = {}
        self._begin()

    def _begin(self) -> None:
        self.tensors: dict[Tensor, int] = {}
        self.names: set[str] = set()
        self.numbers: dict[tuple[str, str], int] = {}
        self.table: list[Any] = []

    def view(self, description: str) -> memoryview:
        """The finished flatbuffer in the builder's own memory: no copy of the weights beyond that one."""
        s = self.schema
        subgraphs, signatures = [], []
        for index, (key, graph) in enumerate(self.graphs.items()):
            self._begin()
            subgraphs.append(self._subgraph(graph, name=key if index else "main"))
            signatures.append(self._signature(graph, key, index))
        metadata = [self._minimum_runtime(), self._metadata()]
        model = s.ModelT(
            version=3,
            operatorCodes=[self._code(kind, version) for kind, version in self.codes],
            subgraphs=subgraphs,
            description=description,
            buffers=[_AlignedBuffer(s, data) for data in self.buffers],
            metadata=metadata,
            signatureDefs=signatures,
        )
        total = sum(data.nbytes for data in self.buffers if data is not None)
        if total > _LIMIT_BYTES:
            raise Unsupported(
                f"the constants take {total} bytes, a .tflite file holds at most {_LIMIT_BYTES}",
                hint="use precision float16 or int8",
            )
        builder = self.flatbuffers.Builder(total + self._tables_bytes())
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return memoryview(builder.Bytes)[builder.Head() :]

    def _tables_bytes(self) -> int:
        """An upper estimate of everything but the constants: a builder that must grow doubles, and copies."""
        tensors = [tensor for graph in self.graphs.values() for op in graph.operators
                   for tensor in (*op.inputs, *op.outputs) if tensor is not None]  # fmt: skip
        scales = sum(len(tensor.quant.scales) for tensor in tensors if tensor.quant is not None)
        names = sum(4 * len(tensor.name) for tensor in tensors)
        return (1 << 16) + 512 * len(tensors) + 12 * scales + names

    def _subgraph(self, graph: Graph, *, name: str) -> Any:
        for port in (*graph.inputs, *graph.outputs):
            self._tensor(port.tensor, name=port.name)
        operators = [self._operator(op) for op in graph.operators]
        return self.schema.SubGraphT(
            tensors=self.table,
            inputs=_int32([self.tensors[port.tensor] for port in graph.inputs]),
            outputs=_int32([self.tensors[port.tensor] for port in graph.outputs]),
            operators=operators,
            name=name,
        )

    def _minimum_runtime(self) -> Any:
        """Readers expect 16 bytes, the text and zeros."""
        content = minimum_runtime(self.codes).encode().ljust(16, b"\0")
        buffer = self._buffer(np.frombuffer(content, np.uint8))
        return self.schema.MetadataT(name="min_runtime_version", buffer=buffer)

    def _metadata(self) -> Any:
        content = model_metadata(list(self.graphs.values()), self.about, name="model")
        buffer = self._buffer(np.frombuffer(content, np.uint8))
        return self.schema.MetadataT(name=METADATA_NAME, buffer=buffer)

    def _signature(self, graph: Graph, key: str, index: int) -> Any:
        def maps(ports: list[Port]) -> list[Any]:
            return [self.schema.TensorMapT(name=p.name, tensorIndex=self.tensors[p.tensor]) for p in ports]

        return self.schema.SignatureDefT(
            inputs=maps(graph.inputs),
            outputs=maps(graph.outputs),
            signatureKey=key,
            subgraphIndex=index,
        )

    def _code(self, kind: str, version: int) -> Any:
        code = getattr(self.schema.BuiltinOperator, kind)
        legacy = min(code, 127)
        return self.schema.OperatorCodeT(deprecatedBuiltinCode=legacy, builtinCode=code, version=version)

    def _operator(self, op: Operator) -> Any:
        key = (op.kind, operator_version(op))
        table = _OPTION_TABLES.get(op.kind)
        options = self._options(table, op.options) if table else None
        return self.schema.OperatorT(
            opcodeIndex=self.codes.setdefault(key, len(self.codes)),
            inputs=_int32([-1 if t is None else self._tensor(t) for t in op.inputs]),
            outputs=_int32([self._tensor(t) for t in op.outputs]),
            builtinOptionsType=getattr(self.schema.BuiltinOptions, table) if table else 0,
            builtinOptions=options,
        )

    def _options(self, table: str, options: Any) -> Any:
        result = getattr(self.schema, f"{table}T")()
        for name, value in options.items():
            words = name.split("_")
            attribute = words[0] + "".join(word.capitalize() for word in words[1:])
            if not hasattr(result, attribute):
                raise AttributeError(f"{table} has no field {attribute!r}")
            setattr(result, attribute, self._option(name, value))
        return result

    def _option(self, name: str, value: OptionValue) -> Any:
        if isinstance(value, tuple):
            return _int32(value)
        if isinstance(value, str):
            member = value.upper() if _ENUMS[name] == "TensorType" else value
            return getattr(getattr(self.schema, _ENUMS[name]), member)
        return value

    def _tensor(self, tensor: Tensor, *, name: str = "") -> int:
        if tensor in self.tensors:
            return self.tensors[tensor]
        index = self.tensors[tensor] = len(self.table)
        self.table.append(
            self.schema.TensorT(
                shape=_int32(tensor.shape),
                type=getattr(self.schema.TensorType, tensor.dtype.upper()),
                buffer=0 if tensor.data is None else self._buffer(_stored_form(tensor)),
                name=self._name(name or tensor.name, tensor.dtype),
                quantization=self._quantization(tensor),
                hasRank=True,
                shapeSignature=_int32(tensor.signature) if tensor.signature else None,
            )
        )
        return index

    def _name(self, base: str, dtype: str) -> str:
        """The first free one of NAME, NAME:dtype, NAME:dtype:2, …"""
        name, number = base, self.numbers.get((base, dtype), 1)
        while name in self.names:
            name = f"{base}:{dtype}" + (f":{number}" if number > 1 else "")
            number += 1
        self.names.add(name)
        self.numbers[base, dtype] = number
        return name

    def _quantization(self, tensor: Tensor) -> Any:
        if tensor.quant is None:
            return None
        count = len(tensor.quant.scales)
        return self.schema.QuantizationParametersT(
            scale=np.asarray(tensor.quant.scales, np.float32),
            zeroPoint=np.full(count, tensor.quant.zero_point, np.int64),
            quantizedDimension=tensor.quant.axis,
        )

    def _buffer(self, data: Array) -> int:
        if data.size == 0:
            return 0
        key = (hashlib.sha256(_raw(data)).digest(), data.nbytes)
        if key not in self.buffer_index:
            self.buffer_index[key] = len(self.buffers)
            self.buffers.append(data)
        return self.buffer_index[key]


def _stored_form(tensor: Tensor) -> Array:
    """The constant as the file holds it: 4-bit codes two to a byte, the first in the low half."""
    assert tensor.data is not None
    if tensor.dtype != "int4":
        return tensor.data
    flat = tensor.data.ravel()
    even = np.append(flat, np.int8(0)) if flat.size % 2 else flat
    return np.asarray((even[0::2] & 15) | ((even[1::2] & 15) << 4), np.int8)


class _AlignedBuffer:
    """A Buffer table whose bytes lie on 16; the generated class packs them unaligned."""

    def __init__(self, schema: Any, data: Array | None) -> None:
        self.schema = schema
        self.data = data

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the name the generated classes call
        offset = None
        if self.data is not None:
            raw = _raw(self.data)
            builder.StartVector(1, len(raw), _ALIGNMENT)
            builder.head = builder.head - len(raw)
            builder.Bytes[builder.head : builder.head + len(raw)] = raw
            offset = builder.EndVector()
        self.schema.BufferStart(builder)
        if offset is not None:
            self.schema.BufferAddData(builder, offset)
        return self.schema.BufferEnd(builder)


def _raw(data: Array) -> memoryview:
    """The bytes of an array, not copied where it is contiguous."""
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data


def _int32(values: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.asarray(values, np.int32).ravel()
