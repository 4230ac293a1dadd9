"""Equalization and smoothing: the same function, channels that fit one scale, and what must be left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from quantize_models import GraphBuilder, pictures, run

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.algorithms.equalization import equalize, smooth
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize
from edgekit.quantize.tuning import even_out

POLICY = load_target("tflite").int8


def uneven(count: int) -> np.ndarray:
    """Scales of channels from 1 to 300; most are small."""
    scales = 300.0 ** np.linspace(0, 1, count) ** 4
    return np.random.default_rng(5).permutation(scales).astype(np.float32)


def found(model, samples):
    return calibrate(model, samples, policies=[POLICY])


def sqnr_db(model, graph, samples, output="out"):
    expected, got = (np.concatenate([run(m, s)[output] for s in samples]) for m in (model, graph))
    return 10 * np.log10(
        (expected**2).sum() / max(((expected - got) ** 2).sum(), (expected**2).sum() * 1e-30)
    )


def chain(*, between=("Relu",), second="Conv", extra_reader=False, pads=1) -> onnx.ModelProto:
    """Two layers, the channels between them 1 to 300 times as large as they need be."""
    b = GraphBuilder()
    scales = uneven(16)
    b.constant(
        "first.w", (b.random.standard_normal((16, 3, 3, 3)) * scales[:, None, None, None]).astype("f4")
    )
    b.constant("first.b", (b.random.standard_normal(16) * scales).astype(np.float32))
    x = b.add("Conv", ["image", "first.w", "first.b"], "first", pads=[1] * 4, kernel_shape=[3, 3])
    for number, op in enumerate(between):
        if op == "PRelu":
            x = b.add(op, [x, b.weight("slope", 16, 1, 1)], f"y{number}")
        elif op == "Clip":
            x = b.relu6(x, f"y{number}")
        elif op == "MaxPool":
            x = b.add(op, [x], f"y{number}", kernel_shape=[2, 2], strides=[2, 2])
        else:
            x = b.add(op, [x], f"y{number}")
    if second == "Conv":
        values = b.random.standard_normal((4, 16, 3, 3)) / scales[:, None, None]
        b.constant("second.w", values.astype(np.float32))
        x2 = b.add("Conv", [x, "second.w"], "out", pads=[pads] * 4, kernel_shape=[3, 3])
    elif second == "depthwise":
        values = b.random.standard_normal((32, 1, 3, 3)) / np.repeat(scales, 2)[:, None, None, None]
        b.constant("second.w", values.astype(np.float32))
        x2 = b.add("Conv", [x, "second.w"], "out", group=16, kernel_shape=[3, 3])
    else:
        flat = b.add("Flatten", [x], "flat")
        size = 4 * 4 if "MaxPool" in between else 8 * 8
        values = b.random.standard_normal((16 * size, 5)) / np.repeat(scales, size)[:, None]
        b.constant("second.w", values.astype(np.float32))
        x2 = b.add(second, [flat, "second.w"], "out")
    outputs = [x2]
    if extra_reader:
        outputs.append(b.add("Neg", [x], "negative"))
    return b.build({"image": [1, 3, 8, 8]}, outputs)


@pytest.mark.parametrize("second", ["Conv", "depthwise", "Gemm", "MatMul"])
@pytest.mark.parametrize("between", [(), ("Relu",), ("PRelu",), ("LeakyRelu", "MaxPool")])
def test_uneven_channels_are_evened_out_and_the_function_stays(second, between):
    model, samples, unseen = chain(between=between, second=second), pictures(16), pictures(16, seed=9)
    even = equalize(model, found(model, samples).channels)
    assert len(even.tensors) == 1
    onnx.checker.check_model(even.model, full_check=True)
    assert sqnr_db(model, even.model, unseen) > 110.0  # float32 itself
    plain, _ = quantize(model, calibration=found(model, samples), policy=POLICY)
    better, _ = quantize(even.model, calibration=found(even.model, samples), policy=POLICY)
    assert sqnr_db(model, better, unseen) > sqnr_db(model, plain, unseen) + 10.0


def test_only_powers_of_two_are_moved_so_no_weight_is_rounded():
    model = chain()
    even = equalize(model, found(model, pictures(8)).channels).model
    before, after = (
        {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, even)
    )
    ratio = after["first.w"] / before["first.w"]
    assert set(np.unique(np.frexp(ratio)[0])) == {0.5}
    assert (ratio == ratio[:, :1, :1, :1]).all()
    assert len(np.unique(ratio)) > 3


@pytest.mark.parametrize(
    "model",
    [
        chain(between=("Clip",)),
        chain(between=("HardSwish",)),
        chain(between=("Sigmoid",)),
        chain(extra_reader=True),
    ],
    ids=["relu6", "hardswish", "sigmoid", "another reader"],
)
def test_what_cannot_be_exact_is_left_alone(model):
    even = equalize(model, found(model, pictures(8)).channels)
    assert even.tensors == ()
    assert even.model.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_weights_that_two_layers_share_are_left_alone():
    b = GraphBuilder()
    shared = b.constant("w", (b.random.standard_normal((8, 8)) * uneven(8)).astype(np.float32))
    first = b.add("Relu", [b.add("MatMul", ["image", shared], "first")], "y")
    b.add("MatMul", [first, shared], "out")
    model = b.build({"image": [4, 8]}, ["out"])
    assert equalize(model, found(model, pictures(8, (4, 8))).channels).tensors == ()


def test_even_channels_are_left_alone():
    b = GraphBuilder()
    b.conv(b.add("Relu", [b.conv("image", "first", 3, 16)], "y"), "out", 16, 4)
    model = b.build({"image": [1, 3, 8, 8]}, ["out"])
    assert equalize(model, found(model, pictures(16)).channels).tensors == ()


def test_a_channel_that_samples_never_light_keeps_its_answer():
    model = chain()
    bias = next(t for t in model.graph.initializer if t.name == "first.b")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] = -1e4  # dead behind the Relu on every calibration sample
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "first.b"))
    even = equalize(model, found(model, pictures(8)).channels).model
    bright = [{"image": s["image"] * 1e5} for s in pictures(4, seed=3)]
    assert sqnr_db(model, even, bright) > 110.0


def attention_block() -> onnx.ModelProto:
    """A normalization with two outlying channels, read by three products and by a Gelu block."""
    b = GraphBuilder()
    scale, shift = np.ones(16, np.float32), np.zeros(16, np.float32)
    scale[[3, 11]] = 100.0
    b.constant("scale", scale)
    b.constant("shift", shift + 0.1)
    b.add("LayerNormalization", ["tokens", "scale", "shift"], "norm", axis=-1)
    parts = []
    for name in ("query", "key", "value"):
        weight = b.random.standard_normal((16, 8)) / scale[:, None]
        b.constant(f"{name}.w", weight.astype(np.float32))
        parts.append(b.add("MatMul", ["norm", f"{name}.w"], name))
    b.add("Concat", parts, "out", axis=-1)
    return b.build({"tokens": [1, 6, 16]}, ["out"])


def tokens(count, seed=1):
    return [{"tokens": s["image"]} for s in pictures(count, (1, 6, 16), seed=seed)]


def test_outliers_behind_a_normalization_move_into_all_products_that_read_it():
    model, samples, unseen = attention_block(), tokens(16), tokens(16, seed=9)
    even = smooth(model, found(model, samples).channels, largest_share=1.0)
    assert even.tensors == ("norm",)
    assert sqnr_db(model, even.model, unseen) > 110.0
    plain, _ = quantize(model, calibration=found(model, samples), policy=POLICY)
    better, _ = quantize(even.model, calibration=found(even.model, samples), policy=POLICY)
    assert sqnr_db(model, better, unseen) > sqnr_db(model, plain, unseen) + 10.0


def test_the_largest_share_bounds_what_moves():
    model, samples = attention_block(), tokens(16)
    channels = found(model, samples).channels
    full = smooth(model, channels, largest_share=1.0).model
    little = smooth(model, channels, largest_share=0.1)
    assert little.tensors == ()
    assert full.SerializeToString() != little.model.SerializeToString()


def test_options_choose_what_is_evened_out():
    model, samples = attention_block(), tokens(8)
    calibration = found(model, samples)
    for options, changed in (
        (QuantizationOptions(), ()),
        (QuantizationOptions(equalize=True), ()),
        (QuantizationOptions(smooth=1.0), ("norm",)),
        (QuantizationOptions(equalize=True, smooth=1.0), ("norm",)),
    ):
        assert even_out(model, calibration, options).tensors == changed


def in_different_units(*, convolution: bool = False):
    """Two layers on features whose units differ up to ten thousand times, and samples of them."""
    b = GraphBuilder()
    random = np.random.default_rng(6)
    units = (10.0 ** random.uniform(-2, 2, 24)).astype(np.float32)
    shape = (1, 24, 5, 5) if convolution else (1, 24)
    spread = units.reshape(-1, 1, 1) if convolution else units
    if convolution:
        weight = b.random.standard_normal((16, 24, 3, 3)) / units[:, None, None]
        y = b.add("Conv", ["x", b.constant("w", weight.astype(np.float32))], "first", kernel_shape=[3, 3])
        last = b.add("Flatten", [b.add("Relu", [y], "y")], "flat")
        b.add("Gemm", [last, b.weight("v", 144, 4)], "out")
    else:
        weight = b.random.standard_normal((24, 16)) / units[:, None]
        y = b.add("Gemm", ["x", b.constant("w", weight.astype(np.float32))], "first")
        b.add("Gemm", [b.add("Relu", [y], "y"), b.weight("v", 16, 4)], "out")
    samples = [{"x": (random.standard_normal(shape) * spread).astype(np.float32)} for _ in range(32)]
    return b.build({"x": list(shape)}, ["out"]), samples


@pytest.mark.parametrize("convolution", [False, True])
def test_an_input_whose_features_differ_in_unit_is_brought_to_one_and_answers_the_same(convolution):
    model, samples = in_different_units(convolution=convolution)
    even = equalize(model, found(model, samples).channels)
    assert "x" in even.tensors
    assert [n.op_type for n in even.model.graph.node].count("Mul") == 1
    onnx.checker.check_model(even.model, full_check=True)
    for sample in samples[:4]:
        assert np.allclose(run(model, sample)["out"], run(even.model, sample)["out"], rtol=1e-5, atol=1e-5)
    plain, mended = (
        quantize(m, calibration=found(m, samples), policy=POLICY)[0] for m in (model, even.model)
    )
    assert sqnr_db(model, mended, samples) > sqnr_db(model, plain, samples) + 10.0
    assert sqnr_db(model, mended, samples) > 25.0


def test_an_input_of_one_unit_gets_no_operator():
    model, samples = in_different_units()
    samples = [{"x": np.sign(s["x"]) * 3.0} for s in samples]
    assert "x" not in equalize(model, found(model, samples).channels).tensors
