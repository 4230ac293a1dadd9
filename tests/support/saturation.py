"""Integer convolutions that would show saturation: by default, and in ONNX Runtime's exact mode."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from quantize_models import GraphBuilder

from edgekit.quantize.algorithms.pair_aware import PAIR_LIMIT

STEP = 0.5  # the scale of the convolution's output


def offending(codes: np.ndarray) -> int:
    even, odd = codes[:, 0::2].astype(int), codes[:, 1::2].astype(int)
    return int(((np.sign(even) == np.sign(odd)) & (np.abs(even + odd) > PAIR_LIMIT)).sum())


def heavy(*shape: int) -> np.ndarray:
    """Weights with many large neighbours of one sign."""
    return np.random.default_rng(3).uniform(-1, 1, shape).astype(np.float32)


def integer_convolution(
    weight: np.ndarray, codes: np.ndarray, scales: np.ndarray, group: int
) -> tuple[bytes, np.ndarray]:
    """A QDQ graph of one convolution as a serialized model, and a bright image for it."""
    kernel, channels = weight.shape[2], weight.shape[1] * group
    image = np.full((1, channels, 9, 9), 1.0, np.float32)
    image[0, :, ::2] = 0.9
    b = GraphBuilder()
    for name, value in (("s", np.float32(1 / 255)), ("z", np.uint8(0)), ("o", np.float32(STEP))):
        b.constant(name, value)
    b.constant("codes", codes)
    b.constant("scales", scales)
    b.constant("zeros", np.zeros(len(codes), np.int8))
    b.constant("half", np.uint8(128))
    b.add("QuantizeLinear", ["image", "s", "z"], "q")
    b.add("DequantizeLinear", ["q", "s", "z"], "x")
    b.add("DequantizeLinear", ["codes", "scales", "zeros"], "w", axis=0)
    b.add("Conv", ["x", "w"], "y", group=group, kernel_shape=[kernel, kernel])
    b.add("QuantizeLinear", ["y", "o", "half"], "yq")
    b.add("DequantizeLinear", ["yq", "o", "half"], "out")
    return b.build({"image": list(image.shape)}, ["out"]).SerializeToString(), image


def answers(weight: np.ndarray, codes: np.ndarray, scales: np.ndarray, group: int) -> list[np.ndarray]:
    """An integer convolution of a bright image in ONNX Runtime: by default, and in its exact mode."""
    graph, image = integer_convolution(weight, codes, scales, group)
    results = []
    for exact in ("0", "1"):
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        settings.add_session_config_entry("session.x64quantprecision", exact)
        session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"image": image})[0])
    return results
