"""Seeded random graphs: the same seed gives the same model, weights and inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper
from tflite_models import graph

_ACTIVATIONS = ("Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish")
_ARITHMETIC = ("Add", "Sub", "Mul")


class _Graph:
    """A graph under construction; every value is a name with a shape."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.inputs: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def pick(self, *choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def input(self, shape: tuple[int, ...]) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.shapes[name] = shape
        return name

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(values)
        return name

    def floats(self, shape: tuple[int, ...], scale: float = 1.0) -> str:
        return self.constant((self.random.standard_normal(shape) * scale).astype(np.float32))

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"n{len(self.nodes)}", **attributes))
        self.shapes[name] = shape
        return name

    def split(self, x: str, axis: int) -> tuple[str, str]:
        shape = self.shapes[x]
        first = int(self.random.integers(1, shape[axis]))
        sizes = self.constant(np.array([first, shape[axis] - first], np.int64))
        names = [f"v{len(self.nodes)}a", f"v{len(self.nodes)}b"]
        self.nodes.append(helper.make_node("Split", [x, sizes], names, name=f"n{len(self.nodes)}", axis=axis))
        for name, size in zip(names, (first, shape[axis] - first), strict=True):
            self.shapes[name] = (*shape[:axis], size, *shape[axis + 1 :])
        return names[0], names[1]

    def build(self, *outputs: str) -> Any:
        return graph(self.nodes, self.inputs, outputs, self.constants)


def network(seed: int) -> Any:
    """A small convolutional network: a chain of random blocks, some of which branch, and maybe a head."""
    g = _Graph(seed)
    x = g.input((1, g.pick(1, 2, 3, 4), int(g.random.integers(6, 13)), int(g.random.integers(6, 13))))
    x = _conv(g, x, g.pick(4, 6, 8))
    blocks = (
        _block_conv,
        _residual,
        _branches,
        _split_and_join,
        _gate,
        _pool,
        _broadcast,
        _enlarge,
        _activate,
    )
    for _ in range(int(g.random.integers(2, 6))):
        x = g.pick(*blocks)(g, x)
    if g.random.random() < 0.5:
        batch, channels = g.shapes[x][:2]
        x = g.add("GlobalAveragePool", [x], (batch, channels, 1, 1))
        x = g.add("Flatten", [x], (batch, channels))
        x = g.add("Gemm", [x, g.floats((channels, 5), 0.5), g.floats((5,))], (batch, 5))
    else:
        x = _conv(g, x, g.pick(2, 3))
    return g.build(x)


def arithmetic(seed: int) -> Any:
    """Tensors of one to five dimensions that meet by broadcasting, are reduced, moved and joined."""
    g = _Graph(seed)
    rank = int(g.random.integers(1, 6))
    full = tuple(int(n) for n in g.random.integers(2, 5, rank))
    x = g.input(full)
    for _ in range(int(g.random.integers(2, 6))):
        other = g.input(_part_of(g, full)) if g.random.random() < 0.5 else g.floats(_part_of(g, full))
        pair = [x, other] if g.random.random() < 0.5 else [other, x]
        x = g.add(g.pick(*_ARITHMETIC, "Max", "Min"), pair, full)
        if g.random.random() < 0.3:
            x = g.add(g.pick("Tanh", "Abs", "Neg", "Relu"), [x], full)
        if g.random.random() < 0.3:
            axis = int(g.random.integers(rank))
            kept = (*full[:axis], 1, *full[axis + 1 :])
            axes = g.constant(np.array([axis], np.int64))
            mean = g.add(g.pick("ReduceMean", "ReduceMax", "ReduceSum"), [x, axes], kept, keepdims=1)
            x = g.add("Sub", [x, mean], full)
        if g.random.random() < 0.3 and rank > 1:
            first, second = g.split(x, g.random.integers(rank).item())
            axis = next(i for i in range(rank) if g.shapes[first][i] != full[i])
            x = g.add("Concat", [second, first], full, axis=axis)
        if g.random.random() < 0.3:
            order = tuple(int(i) for i in g.random.permutation(rank))
            full = tuple(full[i] for i in order)
            x = g.add("Transpose", [x], full, perm=order)
    return g.build(x)


def _part_of(g: _Graph, full: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts to `full`: fewer dimensions, some of them 1."""
    kept = full[int(g.random.integers(0, len(full) + 1)) :]
    return tuple(size if g.random.random() < 0.6 else 1 for size in kept)


def _conv(g: _Graph, x: str, channels: int, *, stride: int = 1, kernel: int = 3, group: int = 1) -> str:
    batch, inputs, height, width = g.shapes[x]
    weight = g.floats((channels, inputs // group, kernel, kernel), (inputs // group * kernel**2) ** -0.5)
    pad = kernel // 2
    size = [(n + 2 * pad - kernel) // stride + 1 for n in (height, width)]
    operands = [x, weight] + ([g.floats((channels,), 0.2)] if g.random.random() < 0.7 else [])
    return g.add(
        "Conv", operands, (batch, channels, *size), pads=[pad] * 4, strides=[stride] * 2, group=group,
        kernel_shape=[kernel] * 2,
    )  # fmt: skip


def _activate(g: _Graph, x: str) -> str:
    return g.add(g.pick(*_ACTIVATIONS), [x], g.shapes[x])


def _block_conv(g: _Graph, x: str) -> str:
    channels = g.shapes[x][1]
    big = min(g.shapes[x][2:]) >= 4
    depthwise = g.random.random() < 0.3
    y = _conv(
        g, x, channels if depthwise else g.pick(4, 6, 8), stride=g.pick(1, 2) if big else 1,
        kernel=g.pick(1, 3), group=channels if depthwise else 1,
    )  # fmt: skip
    return _activate(g, y) if g.random.random() < 0.7 else y


def _residual(g: _Graph, x: str) -> str:
    y = _activate(g, _conv(g, x, g.shapes[x][1]))
    return g.add("Add", [x, _conv(g, y, g.shapes[x][1])], g.shapes[x])


def _branches(g: _Graph, x: str) -> str:
    parts = [_conv(g, x, g.pick(2, 3, 4), kernel=g.pick(1, 3)) for _ in range(g.pick(2, 3))]
    if g.random.random() < 0.3:
        parts.append(x)
    channels = sum(g.shapes[part][1] for part in parts)
    shape = g.shapes[x]
    return g.add("Concat", parts, (shape[0], channels, *shape[2:]), axis=1)


def _split_and_join(g: _Graph, x: str) -> str:
    first, second = g.split(x, 1)
    return g.add("Concat", [_activate(g, second), first], g.shapes[x], axis=1)


def _gate(g: _Graph, x: str) -> str:
    """Squeeze and excitation: a factor for each channel."""
    batch, channels = g.shapes[x][:2]
    y = g.add("GlobalAveragePool", [x], (batch, channels, 1, 1))
    y = g.add("Sigmoid", [_conv(g, y, channels, kernel=1)], (batch, channels, 1, 1))
    return g.add("Mul", [x, y], g.shapes[x])


def _pool(g: _Graph, x: str) -> str:
    batch, channels, height, width = g.shapes[x]
    if min(height, width) < 4:
        return _activate(g, x)
    shape = (batch, channels, height // 2, width // 2)
    return g.add(g.pick("MaxPool", "AveragePool"), [x], shape, kernel_shape=[2, 2], strides=[2, 2])


def _broadcast(g: _Graph, x: str) -> str:
    """Arithmetic with a constant of any shape that broadcasts to the tensor."""
    other = g.floats(_part_of(g, g.shapes[x]), 0.5)
    pair = [x, other] if g.random.random() < 0.7 else [other, x]
    return g.add(g.pick(*_ARITHMETIC), pair, g.shapes[x])


def _enlarge(g: _Graph, x: str) -> str:
    batch, channels, height, width = g.shapes[x]
    if max(height, width) > 12:
        return _activate(g, x)
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    return g.add(
        "Resize", [x, "", scales], (batch, channels, 2 * height, 2 * width), mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
