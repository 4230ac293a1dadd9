"""What a `.tflite` file of any maker says of itself, read from its flatbuffer: nothing is run.

Source of the fields: the TensorFlow Lite schema, through the generated classes of the LiteRT package.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core.packages import require
from edgekit.core.target import Precision
from edgekit.errors import UsageError
from edgekit.runtime.engine_tflite import MATRIX, compute_of

__all__ = ["describe"]

_IDENTIFIER = b"TFL3"
_DAMAGED = "copy or download it again"
_NO_WEIGHTS = ("int32", "int64", "bool", "uint32", "uint64", "")  # shapes, axes, indices
_HALF_BYTE = {"int4": 2, "uint4": 2, "int2": 4}  # elements a byte


def describe(path: str) -> dict[str, Any]:
    """The step: facts of a `.tflite` file as JSON values.

    "inputs" and "outputs" (name, dtype, shape with "" for a dynamic dimension, scale and zero_point of a
    quantized one; the names of its signature when it has exactly one, else of its tensors), "signatures",
    "operators" (kind -> count, all subgraphs), "parameters" (elements of constants to compute with), "stored"
    (dtype -> parameters), "macs" (multiply-adds of convolutions and matrix products for one call as the file
    stands), "computed" (number type -> matrix operators), "precision", "labels", "description", "size_bytes".
    Raises `UsageError` for a file that is no `.tflite` or is damaged.
    """
    place = Path(path)
    data = place.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise UsageError("not a .tflite file: it has no TFL3 mark", where=path, hint=_DAMAGED)
    schema = require("ai_edge_litert.schema_py_generated", needed_for="reading a .tflite file")
    try:
        return _File(schema, schema.ModelT.InitFromPackedBuf(data)).facts(data)
    except UsageError:
        raise
    except Exception as err:  # flatbuffers checks nothing: a damaged file raises whatever it runs into
        raise UsageError(
            f"the .tflite file is damaged: {type(err).__name__}: {err}", where=path, hint=_DAMAGED
        ) from err


class _File:
    """The tables of one file, with names in place of numbers."""

    def __init__(self, schema: Any, model: Any) -> None:
        self.model = model
        self.kinds = _names(schema.BuiltinOperator)
        self.dtypes = {number: _dtype(name) for number, name in _names(schema.TensorType).items()}
        self.main = model.subgraphs[0]

    def facts(self, data: bytes) -> dict[str, Any]:
        signatures = [_text(s.signatureKey) for s in self.model.signatureDefs or ()]
        stored = self._stored()
        computed = Counter(compute_of(op, True) for op in self._operators() if op["op_name"] in MATRIX)
        return {
            "inputs": self._ports("inputs"),
            "outputs": self._ports("outputs"),
            "signatures": signatures,
            "subgraphs": len(self.model.subgraphs),
            "operators": dict(sorted(
                Counter(op["op_name"] for op in self._operators()).items(), key=lambda i: (-i[1], i[0])
            )),
            "parameters": sum(stored.values()),
            "stored": dict(sorted(stored.items())),
            "macs": sum(self._macs(g, op) for g in self.model.subgraphs for op in _listed(g.operators)),
            "computed": dict(sorted(computed.items())),
            "precision": self._precision(stored),
            "labels": list(_labels(data)),
            "description": _text(self.model.description),
            "size_bytes": len(data),
        }  # fmt: skip

    def _kind(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        kind = self.kinds.get(number, str(number))
        return f"{kind} {_text(code.customCode)}" if kind == "CUSTOM" else kind

    def _operators(self) -> Iterator[dict[str, Any]]:
        """Every operator as the interpreter would tell it: name, dtypes of operands and results."""
        for graph in self.model.subgraphs:
            for operator in _listed(graph.operators):
                sides = [
                    [np.dtype(known) for i in _listed(indexes)
                     if i >= 0 and (known := _numpy(self.dtypes[graph.tensors[i].type]))]
                    for indexes in (operator.inputs, operator.outputs)
                ]  # fmt: skip
                yield {
                    "op_name": self._kind(operator), "operand_types": sides[0], "result_types": sides[1]
                }  # fmt: skip

    def _ports(self, side: str) -> list[dict[str, Any]]:
        if len(self.model.signatureDefs or ()) == 1:
            mapped = getattr(self.model.signatureDefs[0], side)
            named = [(_text(m.name), self.main.tensors[m.tensorIndex]) for m in mapped or ()]
        else:
            tensors = [self.main.tensors[i] for i in _listed(getattr(self.main, side))]
            named = [(_text(t.name), t) for t in tensors]
        return [self._port(name, tensor) for name, tensor in named]

    def _port(self, name: str, tensor: Any) -> dict[str, Any]:
        open_shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
        quantization = tensor.quantization
        scales = _listed(quantization.scale) if quantization is not None else []
        zeros = _listed(quantization.zeroPoint) if quantization is not None else []
        return {
            "name": name,
            "dtype": self.dtypes[tensor.type],
            "shape": [int(d) if d >= 0 else "" for d in _listed(open_shape)],
            "scale": float(scales[0]) if len(scales) == 1 else 0.0,
            "zero_point": int(zeros[0]) if len(scales) == 1 and zeros else 0,
        }

    def _stored(self) -> Counter[str]:
        stored: Counter[str] = Counter()
        seen = set()  # a buffer that several tensors share is there once
        for graph in self.model.subgraphs:
            for tensor in graph.tensors:
                dtype = self.dtypes[tensor.type]
                if dtype in _NO_WEIGHTS or tensor.buffer in seen or not self._bytes(tensor.buffer):
                    continue
                seen.add(tensor.buffer)
                stored[dtype] += prod(_listed(tensor.shape))
        return stored

    def _bytes(self, index: int) -> int:
        buffer = self.model.buffers[index]
        return len(_listed(buffer.data)) or int(buffer.size)

    def _macs(self, graph: Any, operator: Any) -> int:
        kind = self._kind(operator)
        if kind not in MATRIX:
            return 0
        shapes: list[list[int]] = [
            _listed(graph.tensors[i].shape) if i >= 0 else [] for i in _listed(operator.inputs)
        ]
        out: int = prod(_listed(graph.tensors[operator.outputs[0]].shape))
        if kind in ("CONV_2D", "CONV_3D"):  # weights (O, H, W, I) and (D, H, W, I, O)
            return out * prod(shapes[1][1:] if kind == "CONV_2D" else shapes[1][:4])
        if kind == "DEPTHWISE_CONV_2D":  # (1, H, W, O)
            return out * prod(shapes[1][1:3])
        if kind in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"):  # shape, weights, input
            weights = shapes[1]
            return prod(shapes[2]) * prod(weights[:3] if kind == "TRANSPOSE_CONV" else weights[:4])
        if kind == "FULLY_CONNECTED":
            return out * shapes[1][-1]
        return out * shapes[0][-2 if operator.builtinOptions.adjX else -1]

    def _precision(self, stored: Counter[str]) -> Precision:
        """What edgekit would call it: by its matrix operators, else by its weights."""
        data, weights = Counter[str](), Counter[str]()
        for op in self._operators():
            if op["op_name"] in MATRIX and len(op["operand_types"]) > 1:
                first = 1 if op["op_name"] in ("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE") else 0
                names = [t.name for t in op["operand_types"]]
                data[names[2] if first and len(names) > 2 else names[0]] += 1
                weights[names[1]] += 1
        if data["int16"]:
            return "int16x8"
        if data["int8"] or data["uint8"]:
            return "int8"
        if weights["int8"] or weights["uint8"]:
            return "dynamic-int8"
        most = stored.most_common(1)[0][0] if stored else "float32"
        stored_as: dict[str, Precision] = {
            "float16": "float16", "int8": "weight-int8", "uint8": "weight-int8", "int4": "weight-int4"
        }  # fmt: skip
        return stored_as.get(most, "float32")


def _names(table: Any) -> dict[int, str]:
    return {value: name for name, value in vars(table).items() if isinstance(value, int)}


def _dtype(name: str) -> str:
    return "complex64" if name == "COMPLEX64" else name.lower()


def _numpy(name: str) -> str:
    """The numpy dtype that stands for a TFLite type; "" for one that is no number."""
    if name in _HALF_BYTE:
        return "uint8" if name.startswith("u") else "int8"
    return {"string": "", "resource": "", "variant": "", "bfloat16": "float32"}.get(name, name)


def _listed(values: Any) -> list[Any]:
    return [] if values is None else list(values) if not hasattr(values, "tolist") else values.tolist()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _labels(data: bytes) -> Sequence[str]:
    """The lines of the label file that TFLite Metadata puts into a zip archive behind the flatbuffer."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return ()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        texts = [name for name in archive.namelist() if name.endswith(".txt")]
        chosen = next((name for name in texts if "label" in name.lower()), texts[0] if texts else "")
        return archive.read(chosen).decode("utf-8", "replace").splitlines() if chosen else ()
