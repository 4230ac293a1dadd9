"""Small float graphs for the tests of quantization, made with onnx.helper from seeded weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class GraphBuilder:
    """Adds nodes one by one; every node is named after its output."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, *shape: int, scale: float = 0.3) -> str:
        values = (self.random.standard_normal(shape) * scale).astype(np.float32)
        return self.constant(name, values)

    def constant(self, name: str, values: Any) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def conv(self, x: str, output: str, cin: int, cout: int, *, group: int = 1, bias: bool = True) -> str:
        inputs = [x, self.weight(f"{output}.w", cout, cin // group, 3, 3)]
        if bias:
            inputs.append(self.weight(f"{output}.b", cout))
        return self.add("Conv", inputs, output, pads=[1, 1, 1, 1], group=group, kernel_shape=[3, 3])

    def relu6(self, x: str, output: str) -> str:
        if not any(w.name == "six" for w in self.weights):
            self.constant("zero", np.float32(0))
            self.constant("six", np.float32(6))
        return self.add("Clip", [x, "zero", "six"], output)

    def build(self, inputs: dict[str, list[int]], outputs: list[str]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        onnx.checker.check_model(model, full_check=True)
        return model


def classifier(seed: int = 0) -> onnx.ModelProto:
    """conv-relu, depthwise conv-relu6, conv, shortcut, max-pool, flatten, gemm (weights not transposed)."""
    b = GraphBuilder(seed)
    stem = b.add("Relu", [b.conv("image", "stem", 3, 8)], "stem.y")
    hidden = b.relu6(b.conv(stem, "depthwise", 8, 8, group=8), "depthwise.y")
    joined = b.add("Add", [stem, b.conv(hidden, "project", 8, 8, bias=False)], "joined")
    pooled = b.add("MaxPool", [joined], "pooled", kernel_shape=[2, 2], strides=[2, 2])
    flat = b.add("Flatten", [pooled], "flat")
    inputs = [flat, b.weight("head.w", 8 * 4 * 4, 5), b.weight("head.b", 5)]
    b.add("Gemm", inputs, "logits")
    return b.build({"image": [1, 3, 8, 8]}, ["logits"])


def pictures(count: int, shape: tuple[int, ...] = (1, 3, 8, 8), seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Standard normal inputs named `image`."""
    random = np.random.default_rng(seed)
    return [{"image": random.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def run(
    model: onnx.ModelProto, inputs: dict[str, np.ndarray], *, optimize: bool = False
) -> dict[str, np.ndarray]:
    """All outputs by name in ONNX Runtime."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    if not optimize:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def unequal_classifier(factor: float = 500.0) -> onnx.ModelProto:
    """The classifier with one channel between stem and depthwise convolution scaled: the same function."""
    model = classifier()
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).copy()
        if tensor.name in ("stem.w", "stem.b"):
            values[0] *= factor
        elif tensor.name == "depthwise.w":
            values[0] /= factor
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for node in model.graph.node:  # the shortcut would see the scaled channel: it starts behind the clip
        if node.name == "joined":
            node.input[0] = "depthwise.y"
    return model
