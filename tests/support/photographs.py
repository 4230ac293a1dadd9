"""Crops of real photographs, and a network whose BatchNorm statistics are those of such crops."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image
from published import packaged

PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
SIDE = 48


@cache
def _pixels(name: str) -> np.ndarray:
    with Image.open(packaged("skimage", f"data/{name}")) as picture:
        return np.asarray(picture.convert("RGB"))


def crops(count: int, seed: int) -> np.ndarray:
    """[count, 3, 48, 48], float32, pixels of 0..255, red first."""
    random, found = np.random.default_rng(seed), []
    pictures = [_pixels(name) for name in PHOTOGRAPHS]
    for number in range(count):
        picture = pictures[number % len(pictures)]
        top, left = (int(random.integers(0, d - 4 * SIDE)) for d in picture.shape[:2])
        found.append(picture[top : top + 4 * SIDE : 4, left : left + 4 * SIDE : 4].transpose(2, 0, 1))
    return np.stack(found).astype(np.float32)


def network(training: np.ndarray, layout: str = "nchw") -> onnx.ModelProto:
    """Two times Conv, BatchNormalization, Relu, whose statistics are those of the training pictures."""
    random = np.random.default_rng(5)
    graph_input, nodes, weights = "image", [], {}
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", ["image"], ["t"], perm=[0, 3, 1, 2]))
        training, graph_input = training.transpose(0, 2, 3, 1), "t"
    data, shape = graph_input, [1, *training.shape[1:]]
    for number, (before, after) in enumerate(((3, 16), (16, 12))):
        weights[f"w{number}"] = random.standard_normal((after, before, 3, 3)).astype(np.float32)
        for name, value in (("s", 1.0), ("o", 0.2), ("m", 0.0), ("v", 1.0)):
            weights[f"{name}{number}"] = np.full(after, value, np.float32)
        parameters = [f"{name}{number}" for name in "somv"]
        nodes.append(helper.make_node("Conv", [data, f"w{number}"], [f"c{number}"], strides=[2, 2]))
        nodes.append(helper.make_node("BatchNormalization", [f"c{number}", *parameters], [f"b{number}"]))
        nodes.append(helper.make_node("Relu", [f"b{number}"], [data := f"r{number}"]))
        made = chain(nodes, weights, shape, f"c{number}")
        seen = np.concatenate([_run(made, row[None]) for row in training]).transpose(1, 0, 2, 3)
        weights[f"m{number}"] = seen.reshape(after, -1).mean(1)
        weights[f"v{number}"] = seen.reshape(after, -1).var(1)
    return chain(nodes, weights, shape, data)


def chain(
    nodes: list[Any], weights: dict[str, np.ndarray], shape: list[int], output: str
) -> onnx.ModelProto:
    """A model of one input, `image`, and one output."""
    values = [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)]
    answer = [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", values, answer, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _run(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]
