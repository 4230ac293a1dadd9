"""Lower a small ONNX graph, run it in LiteRT, and run the same graph in ONNX Runtime, optimizer off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekit.backends.request import Request
from edgekit.backends.tflite import lower
from edgekit.core.artifact import Artifact
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize

OPSET = 20
SCALE, ZERO_POINT = 0.05, -7


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What LiteRT answered (in the source's layout), and how."""

    outputs: dict[str, np.ndarray]
    kinds: list[str]
    details: list[dict[str, Any]]
    artifact: Artifact

    def count(self, kind: str) -> int:
        return self.kinds.count(kind)

    def dtypes_of(self, kind: str) -> set[str]:
        """The dtypes of the first outputs of the operators of this kind."""
        types = {d["index"]: np.dtype(d["dtype"]).name for d in self.details if "dtype" in d}
        return {types[d["outputs"][0]] for d in self.details if d.get("op_name") == kind}


def graph(
    nodes: Sequence[Any], inputs: Mapping[str, Any], outputs: Sequence[str], constants: Mapping[str, Any]
) -> Any:
    """A checked ModelProto; an input is a shape (float32) or (shape, numpy dtype name)."""

    def info(name: str, spec: Any) -> Any:
        shape, dtype = spec if spec and isinstance(spec[0], (tuple, list)) else (spec, "float32")
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape)
        )

    made = helper.make_graph(
        list(nodes),
        "test",
        [info(name, spec) for name, spec in inputs.items()],
        [helper.make_value_info(name, onnx.TypeProto()) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def single(op: str, *operands: Any, outputs: int = 1, **attributes: Any) -> Any:
    """A model of one node. A tuple is an input of that shape, an array a constant, None is left out."""
    names, inputs, constants = [], {}, {}
    for index, operand in enumerate(operands):
        name = f"x{index}"
        if operand is None:
            name = ""
        elif isinstance(operand, tuple):
            inputs[name] = operand
        else:
            constants[name] = operand
        names.append(name)
    ys = [f"y{i}" if outputs > 1 else "y" for i in range(outputs)]
    return graph([helper.make_node(op, names, ys, name="node", **attributes)], inputs, ys, constants)


def newer(node: Any, shape: tuple[int, ...], constants: Mapping[str, Any], opset: int) -> Any:
    """A model of one node from x to y, both float32 of this shape, in any opset."""
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y"))
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    inner = helper.make_graph([node], "test", [x], [y], tensors)
    return helper.make_model(inner, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def feeds(model: Any, seed: int = 0, *, scale: float = 1.0) -> dict[str, np.ndarray]:
    """Seeded values for every input."""
    random = np.random.default_rng(seed)
    result = {}
    for info in model.graph.input:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        if dtype == np.float32:
            result[info.name] = (random.standard_normal(shape) * scale).astype(np.float32)
        elif dtype == np.bool_:
            result[info.name] = random.random(shape) > 0.5
        else:
            result[info.name] = random.integers(0, 3, shape).astype(dtype)
    return result


def int16x8(model: Any, samples: Sequence[Mapping[str, np.ndarray]]) -> Any:
    """The int16x8 graph of a float one, calibrated on `samples`."""
    policy = load_target("tflite").int16x8
    assert policy is not None
    return quantize(model, calibration=calibrate(model, samples, policies=[policy]), policy=policy)[0]


def reference(model: Any, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ONNX Runtime's answer with the optimizer off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(values)), strict=True))


def lowered(model: Any, folder: Path, precision: str = "float32", **options: Any) -> Artifact:
    """The artifact of a ModelProto; `layout` replaces the target's."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "source.onnx"
    onnx.save(model, path)
    target = load_target("tflite")
    if layout := options.pop("layout", ""):
        target = replace(target, layout=layout)
    return lower(Request(
        model=path, target=target, precision=precision, out=folder / precision, source_digest="0" * 64,
        **options,
    ))  # fmt: skip


def invoke(artifact: Artifact, values: Mapping[str, np.ndarray]) -> Ran:
    """Run an artifact in LiteRT with its XNNPACK delegate, by its signature."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifact.folder / artifact.manifest.model), num_threads=1)
    runner = interpreter.get_signature_runner("serving_default")
    given = {}
    for io in artifact.manifest.inputs:
        value = values[io.name]
        value = value.transpose(io.axes) if io.axes else value
        if io.scale:
            value = np.clip(np.rint(value / io.scale) + io.zero_point, -128, 127).astype(io.dtype)
        given[io.engine_name] = np.ascontiguousarray(value)
    raw = runner(**given)
    outputs = {}
    for io in artifact.manifest.outputs:
        value = raw[io.engine_name]
        if io.scale:
            value = ((value.astype(np.float32) - io.zero_point) * io.scale).astype(np.float32)
        outputs[io.name] = value.transpose(np.argsort(io.axes)) if io.axes else value
    operators = interpreter._get_ops_details()
    kinds = [d["op_name"] for d in operators]
    details = [*interpreter.get_tensor_details(), *operators]
    return Ran(outputs=outputs, kinds=kinds, details=details, artifact=artifact)


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest magnitude (1 at least where everything is small)."""
    if got.shape != expected.shape:
        raise AssertionError(f"shapes {got.shape} and {expected.shape}")
    if got.dtype != expected.dtype:
        raise AssertionError(f"dtypes {got.dtype} and {expected.dtype}")
    if expected.dtype == np.bool_ or not expected.size:
        return float(np.any(got != expected))
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64)).max()
    return float(difference / max(float(np.abs(expected).max()), 1e-6))


def compare(
    model: Any, values: Mapping[str, np.ndarray], folder: Path, layout: str = "nhwc", tolerance: float = 1e-5
) -> None:
    """Assert that LiteRT answers like ONNX Runtime; what is no finite number must be the same."""
    ran = invoke(lowered(model, folder, layout=layout), values)
    expected = reference(model, values)
    assert ran.outputs.keys() == expected.keys()
    for name, wanted in expected.items():
        got = ran.outputs[name]
        odd = ~np.isfinite(wanted)
        np.testing.assert_array_equal(got[odd], wanted[odd])
        got, wanted = (np.where(odd, 0, side).astype(side.dtype) for side in (got, wanted))
        assert relative_error(got, wanted) <= tolerance, name


class Qdq:
    """Builds a QDQ graph by hand: activations int8 per tensor, weights int8 per channel, bias int32."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: dict[str, Any] = {}

    def input(
        self, name: str, shape: tuple[int, ...], scale: float = SCALE, zero_point: int = ZERO_POINT
    ) -> str:
        self.inputs[name] = shape
        return self.quantized(name, scale, zero_point)

    def quantized(self, value: str, scale: float = SCALE, zero_point: int = ZERO_POINT) -> str:
        """`value` through a quantizer; the name of the dequantized value."""
        self.constants[f"{value}.s"] = np.float32(scale)
        self.constants[f"{value}.z"] = np.int8(zero_point)
        parameters = [f"{value}.s", f"{value}.z"]
        self.nodes.append(helper.make_node("QuantizeLinear", [value, *parameters], [f"{value}.q"]))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{value}.q", *parameters], [f"{value}.dq"]))
        return f"{value}.dq"

    def weight(
        self, name: str, shape: tuple[int, ...], *, axis: int, seed: int = 1, scale: float = 0.01
    ) -> str:
        """Random codes in [-127, 127] with a scale for each index along `axis`."""
        random = np.random.default_rng(seed)
        self.constants[f"{name}.q"] = random.integers(-127, 128, shape).astype(np.int8)
        scales = (scale * (0.5 + random.random(shape[axis]))).astype(np.float32)
        self.constants[f"{name}.s"] = scales
        self.constants[f"{name}.z"] = np.zeros(shape[axis], np.int8)
        node = helper.make_node(
            "DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], [name], axis=axis
        )
        self.nodes.append(node)
        return name

    def bias(self, name: str, weight: str, x_scale: float = SCALE, seed: int = 2) -> str:
        scales = (np.float32(x_scale) * self.constants[f"{weight}.s"]).astype(np.float32)
        self.constants[f"{name}.q"] = (
            np.random.default_rng(seed).integers(-2000, 2000, scales.shape).astype(np.int32)
        )
        self.constants[f"{name}.s"] = scales
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s"], [name], axis=0))
        return name

    def code(self, name: str, codes: Any, scale: float = SCALE, zero_point: int = 0) -> str:
        """A constant operand with one scale."""
        self.constants |= {
            f"{name}.q": codes,
            f"{name}.s": np.float32(scale),
            f"{name}.z": np.int8(zero_point),
        }
        node = helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.s", f"{name}.z"], [name])
        self.nodes.append(node)
        return name

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def build(self, *outputs: str) -> Any:
        return graph(self.nodes, self.inputs, outputs, self.constants)


def steps_apart(got: np.ndarray, expected: np.ndarray, scale: float) -> np.ndarray:
    """How many codes lie between two dequantized answers."""
    return np.abs(np.rint((got - expected) / scale)).astype(int)
