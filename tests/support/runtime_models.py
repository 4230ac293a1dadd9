"""Small artifacts for the tests of the runtime: real models of every engine, made on the spot."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.manifest import Manifest, TensorIO


def need(*packages: str) -> None:
    """Skip, or fail where everything has to be installed, when a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing and os.environ.get("EDGEKIT_REQUIRE_ALL") == "1":
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def put_artifact(
    folder: Path,
    engine: str,
    content: bytes,
    inputs: tuple[TensorIO, ...],
    outputs: tuple[TensorIO, ...],
    *,
    precision: str = "int8",
    options: dict[str, str] | None = None,
    requires: str = "",
) -> Path:
    """Write an artifact folder around the bytes of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    name = {"tflite": "model.tflite"}.get(engine, "model.onnx")
    (folder / name).write_bytes(content)
    manifest = Manifest(
        edgekit="0", target=engine, engine=engine, precision=precision, model=name,
        files={name: hashlib.sha256(content).hexdigest()}, inputs=inputs, outputs=outputs,
        options=options or {}, requires=requires,
    )  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return folder


def tensor(name: str, dtype: str, shape: tuple[int | str, ...], **more: object) -> TensorIO:
    """A tensor whose engine name is its own."""
    return TensorIO(**{"name": name, "engine_name": name, "dtype": dtype, "shape": shape, **more})


IMAGE = (tensor("image", "float32", (1, 3, 16, 16)),)
LOGITS = (tensor("logits", "float32", (1, 10)),)


def float_network() -> bytes:
    """Conv, Relu, depthwise Conv, Relu, pooling, Gemm: image [1,3,16,16] to logits [1,10]."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {
        "w1": random.normal(size=(8, 3, 3, 3)) * 0.3, "b1": random.normal(size=8),
        "w2": random.normal(size=(8, 1, 3, 3)) * 0.3, "b2": random.normal(size=8),
        "w3": random.normal(size=(10, 8)) * 0.3, "b3": random.normal(size=10),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv", pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="depthwise", pads=[1] * 4, group=8),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], name="classifier", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def quantized_network(folder: Path, *, unsigned_weights: bool = False) -> bytes:
    """`float_network` with QDQ: uint8 activations and int8 (or uint8) 7-bit weights per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            random = np.random.default_rng(1)
            self.left = [random.normal(size=(1, 3, 16, 16)).astype(np.float32) for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return {"image": self.left.pop()} if self.left else None

    source, quantized = folder / "float.onnx", folder / "qdq.onnx"
    source.write_bytes(float_network())
    quantize_static(
        source, quantized, Pictures(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8 if unsigned_weights else QuantType.QInt8, per_channel=True,
        reduce_range=True,
    )  # fmt: skip
    return quantized.read_bytes()


def sum_of_two(*, first: tuple[int | str, ...], second: tuple[int | str, ...]) -> bytes:
    """An ONNX model: total = a + b, float32."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["total"])],
        "sum",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, first),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, second),
        ],
        [helper.make_tensor_value_info("total", TensorProto.FLOAT, first)],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


SCALE_IN, ZERO_IN, SCALE_OUT, ZERO_OUT = 0.05, 3, 0.5, -7


def tflite_convolution(kind: str, *, batch: int | str = 1) -> bytes:
    """A 3x3 SAME convolution [b,8,8,2] to [b,8,8,4]: "float32", "int8" or "hybrid" (int8 weights)."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as fb

    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, size=(4, 3, 3, 2)).astype(np.int8)
    scales = np.array([0.01, 0.02, 0.03, 0.04], np.float32)
    bias = np.arange(4, dtype=np.int32) * 10
    model, graph = fb.ModelT(), fb.SubGraphT()
    model.version, model.buffers, graph.tensors = 3, [fb.BufferT()], []

    def add(name: str, shape: tuple[int, ...], dtype: str, data: np.ndarray | None, scale: object = None,
            zero: int = 0) -> int:  # fmt: skip
        made = fb.TensorT()
        made.name, made.shape, made.type = name.encode(), list(shape), getattr(fb.TensorType, dtype.upper())
        if data is not None:
            buffer = fb.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        elif isinstance(batch, str):
            made.shapeSignature = [-1, *shape[1:]]
        if scale is not None:
            made.quantization = fb.QuantizationParametersT()
            made.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32)).tolist()
            made.quantization.zeroPoint = [zero] * len(made.quantization.scale)
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    floats = kind != "int8"
    io, first, last = ("float32" if floats else "int8"), (1, 8, 8, 2), (1, 8, 8, 4)
    add("x", first, io, None, None if floats else SCALE_IN, ZERO_IN)
    if kind == "float32":
        add("w", weights.shape, "float32", (weights * scales[:, None, None, None]).astype(np.float32))
    else:
        add("w", weights.shape, "int8", weights, scales)
    real_bias = (bias * scales * np.float32(SCALE_IN)).astype(np.float32)
    if floats:
        add("b", (4,), "float32", real_bias)
    else:
        add("b", (4,), "int32", bias, scales * np.float32(SCALE_IN))
    add("y", last, io, None, None if floats else SCALE_OUT, ZERO_OUT)

    operator, options, code = fb.OperatorT(), fb.Conv2DOptionsT(), fb.OperatorCodeT()
    options.padding, options.strideH, options.strideW = fb.Padding.SAME, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType, operator.builtinOptions = fb.BuiltinOptions.Conv2DOptions, options
    code.builtinCode = code.deprecatedBuiltinCode = fb.BuiltinOperator.CONV_2D
    code.version = {"float32": 1, "int8": 3, "hybrid": 5}[kind]
    graph.inputs, graph.outputs, graph.operators = [0], [3], [operator]
    signature = fb.SignatureDefT()
    signature.signatureKey = b"serving_default"
    signature.inputs, signature.outputs = [fb.TensorMapT()], [fb.TensorMapT()]
    signature.inputs[0].name, signature.inputs[0].tensorIndex = b"image", 0
    signature.outputs[0].name, signature.outputs[0].tensorIndex = b"features", 3
    model.subgraphs, model.operatorCodes, model.signatureDefs = [graph], [code], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def tflite_artifact(folder: Path, kind: str = "int8", *, batch: int | str = 1, **more: object) -> Path:
    """`tflite_convolution` as an artifact whose source layout is NCHW."""
    quantized = kind == "int8"
    dtype = "int8" if quantized else "float32"
    image = tensor(
        "image", dtype, (batch, 8, 8, 2), axes=(0, 2, 3, 1),
        scale=SCALE_IN if quantized else 0.0, zero_point=ZERO_IN if quantized else 0,
    )  # fmt: skip
    features = tensor(
        "features", dtype, (batch, 8, 8, 4), axes=(0, 2, 3, 1),
        scale=SCALE_OUT if quantized else 0.0, zero_point=ZERO_OUT if quantized else 0,
    )  # fmt: skip
    content = tflite_convolution(kind, batch=batch)
    return put_artifact(folder, "tflite", content, (image,), (features,), precision=kind, **more)


def onnx_sum(
    folder: Path,
    engine: str = "onnxruntime",
    first: tuple[int | str, ...] = (2, 3),
    second: tuple[int | str, ...] = (2, 3),
    **more: Any,
) -> Path:
    """An artifact in `folder` that adds its inputs `a` and `b`."""
    need("onnx", engine)
    inputs = (tensor("a", "float32", first), tensor("b", "float32", second))
    outputs = (tensor("total", "float32", first),)
    content = sum_of_two(first=first, second=second)
    return put_artifact(folder, engine, content, inputs, outputs, precision="float32", **more)
