"""Networks of the usual families, small, with seeded weights: float graphs, BatchNorm folded."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper
from tflite_models import graph


class Net:
    """Adds layers one by one; weights keep the variance of what passes through."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {"zero": np.float32(0), "six": np.float32(6)}

    def add(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def const(self, values: Any) -> str:
        name = f"const_{len(self.constants)}"
        self.constants[name] = values
        return name

    def weight(self, *shape: int, fan_in: int) -> str:
        return self.const((self.random.standard_normal(shape) * np.sqrt(1.5 / fan_in)).astype(np.float32))

    def conv(
        self, x: str, cin: int, cout: int, k: int = 3, stride: int = 1, group: int = 1, act: str = ""
    ) -> str:
        fan_in = cin // group * k * k
        inputs = [x, self.weight(cout, cin // group, k, k, fan_in=fan_in), self.weight(cout, fan_in=20)]
        y = self.add(
            "Conv", inputs, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[stride] * 2, group=group
        )
        return self.activation(y, act)

    def activation(self, x: str, act: str) -> str:
        if act == "Relu6":
            return self.add("Clip", [x, "zero", "six"])
        return self.add(act, [x]) if act else x

    def gemm(self, x: str, cin: int, cout: int) -> str:
        inputs = [x, self.weight(cout, cin, fan_in=cin), self.weight(cout, fan_in=20)]
        return self.add("Gemm", inputs, transB=1)

    def gemm3(self, x: str, cin: int, cout: int) -> str:
        """A matrix product over the last axis, with a bias."""
        product = self.add("MatMul", [x, self.weight(cin, cout, fan_in=cin)])
        return self.add("Add", [product, self.weight(cout, fan_in=20)])

    def ints(self, *values: int) -> str:
        return self.const(np.asarray(values, np.int64))

    def build(self, inputs: dict[str, tuple[int, ...]], *outputs: str) -> Any:
        used = {name for node in self.nodes for name in node.input}
        constants = {name: value for name, value in self.constants.items() if name in used}
        return graph(self.nodes, inputs, outputs, constants)


def plain_cnn() -> Any:
    """conv-relu-maxpool twice, flatten, gemm."""
    n = Net(1)
    x = n.add("MaxPool", [n.conv("image", 3, 8, act="Relu")], kernel_shape=[2, 2], strides=[2, 2])
    x = n.add("MaxPool", [n.conv(x, 8, 16, act="Relu")], kernel_shape=[2, 2], strides=[2, 2])
    return n.build({"image": (1, 3, 16, 16)}, n.gemm(n.add("Flatten", [x]), 16 * 16, 10))


def mobilenet() -> Any:
    """Inverted residuals: depthwise convolutions, Relu6, HardSwish, squeeze-and-excite, a residual."""
    n = Net(2)
    x = n.conv("image", 3, 8, stride=2, act="HardSwish")
    for cin, cout, stride, act in ((8, 8, 1, "Relu6"), (8, 12, 2, "HardSwish"), (12, 12, 1, "Relu6")):
        y = n.conv(x, cin, cin * 3, k=1, act=act)
        y = n.conv(y, cin * 3, cin * 3, stride=stride, group=cin * 3, act=act)
        y = squeeze_excite(n, y, cin * 3)
        y = n.conv(y, cin * 3, cout, k=1)
        x = n.add("Add", [x, y]) if cin == cout and stride == 1 else y
    x = n.add("GlobalAveragePool", [n.conv(x, 12, 32, k=1, act="HardSwish")])
    return n.build({"image": (1, 3, 32, 32)}, n.gemm(n.add("Flatten", [x]), 32, 10))


def squeeze_excite(n: Net, x: str, channels: int) -> str:
    s = n.add("GlobalAveragePool", [x])
    s = n.conv(s, channels, 4, k=1, act="Relu")
    s = n.add("HardSigmoid", [n.conv(s, 4, channels, k=1)], alpha=1 / 6, beta=0.5)
    return n.add("Mul", [x, s])


def resnet() -> Any:
    """A 7x7 stem, a padded max-pool, basic blocks with and without a strided shortcut, a mean at the end."""
    n = Net(3)
    x = n.conv("image", 3, 8, k=7, stride=2, act="Relu")
    x = n.add("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for cin, cout, stride in ((8, 8, 1), (8, 16, 2), (16, 16, 1)):
        y = n.conv(n.conv(x, cin, cout, stride=stride, act="Relu"), cout, cout)
        shortcut = x if stride == 1 else n.conv(x, cin, cout, k=1, stride=stride)
        x = n.add("Relu", [n.add("Add", [y, shortcut])])
    x = n.add("ReduceMean", [x, n.const(np.asarray([2, 3], np.int64))], keepdims=0)
    return n.build({"image": (1, 3, 32, 32)}, n.gemm(x, 16, 10))


def unet() -> Any:
    """Two levels down and up: transposed convolutions, concatenation, a mask as large as the picture."""
    n = Net(4)
    first = n.conv(n.conv("image", 3, 8, act="Relu"), 8, 8, act="Relu")
    x = n.add("MaxPool", [first], kernel_shape=[2, 2], strides=[2, 2])
    second = n.conv(x, 8, 16, act="Relu")
    x = n.conv(n.add("MaxPool", [second], kernel_shape=[2, 2], strides=[2, 2]), 16, 32, act="Relu")
    for skip, cin, cout in ((second, 32, 16), (first, 16, 8)):
        w = n.weight(cin, cout, 2, 2, fan_in=cin)
        up = n.add("ConvTranspose", [x, w, n.weight(cout, fan_in=20)], strides=[2, 2], kernel_shape=[2, 2])
        x = n.conv(n.add("Concat", [up, skip], axis=1), 2 * cout, cout, act="Relu")
    return n.build({"image": (1, 3, 16, 16)}, n.add("Sigmoid", [n.conv(x, 8, 2, k=1)]))


def shuffle() -> Any:
    """Grouped convolutions, channel split and channel shuffle."""
    n = Net(5)
    x = n.conv("image", 3, 16, stride=2, act="Relu")
    halves = helper.make_node("Split", [x, n.const(np.asarray([8, 8], np.int64))], ["left", "right"], axis=1)
    n.nodes.append(halves)
    y = n.conv("right", 8, 8, group=2, act="Relu")
    x = n.add("Concat", ["left", y], axis=1)
    x = n.add("Reshape", [x, n.const(np.asarray([1, 2, 8, 8, 8], np.int64))])
    x = n.add(
        "Reshape",
        [n.add("Transpose", [x], perm=[0, 2, 1, 3, 4]), n.const(np.asarray([1, 16, 8, 8], np.int64))],
    )
    x = n.add("GlobalAveragePool", [n.conv(x, 16, 16, act="Relu")])
    return n.build({"image": (1, 3, 16, 16)}, n.gemm(n.add("Flatten", [x]), 16, 10))


NETWORKS = {"plain cnn": plain_cnn, "mobilenet": mobilenet, "resnet": resnet, "unet": unet}
