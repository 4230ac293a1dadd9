"""What breaks calibration elsewhere: not a number, nothing at all, very small, very large, one sample."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantize_models import GraphBuilder, classifier, pictures, run

from edgekit.core.target import load_target
from edgekit.errors import UsageError
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.observers import Method
from edgekit.quantize.qdq import quantize

POLICIES = {
    "uint8": load_target("onnxruntime").int8,
    "int8": load_target("tflite").int8,
    "int16": load_target("tflite").policy("int16x8"),
}
METHODS = ["auto", "minmax", "moving-average", "percentile", "mse", "entropy"]
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def quantized(model, samples, policy, method):
    found = calibrate(model, samples, policies=list(POLICIES.values()), method=Method(name=method))
    assert all(np.isfinite(r).all() and r[0] <= r[1] for r in found.ranges.values())
    return quantize(model, calibration=found, policy=POLICIES[policy])[0]


def scales(model):
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    return {n.input[1]: arrays[n.input[1]] for n in model.graph.node if "Quantize" in n.op_type}


def assert_sound(model):
    found = scales(model)
    assert found
    for name, value in found.items():
        assert np.isfinite(value).all(), name
        assert (value >= SMALLEST_NORMAL).all(), (name, value.min())


def conv_and_gemm():
    b = GraphBuilder()
    b.conv("image", "first", 3, 8)
    b.add("Relu", ["first"], "kept")
    b.add("GlobalAveragePool", ["kept"], "pooled")
    b.add("Flatten", ["pooled"], "flat")
    b.add("Gemm", ["flat", b.weight("w", 8, 4), b.weight("bias", 4)], "logits")
    return b.build({"image": [1, 3, 8, 8]}, ["logits"])


def small_pictures(count, magnitude=1.0):
    random = np.random.default_rng(0)
    return [
        {"image": (random.standard_normal((1, 3, 8, 8)) * magnitude).astype(np.float32)} for _ in range(count)
    ]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("magnitude", [1e-38, 1e-30, 1e-6, 1e6, 1e30, 1e36])
def test_activations_of_any_magnitude_get_sound_scales(magnitude, method, policy):
    model, samples = conv_and_gemm(), small_pictures(3, magnitude)
    result = quantized(model, samples, policy, method)
    assert_sound(result)
    reference, answer = run(model, samples[0])["logits"], run(result, samples[0])["logits"]
    assert np.isfinite(answer).all()
    if 1e-6 <= magnitude <= 1e30:
        np.testing.assert_allclose(answer, reference, atol=0.1 * np.abs(reference).max())


@pytest.mark.parametrize("magnitude", [1e-38, 1e-30, 1e30])
def test_weights_of_any_magnitude_get_sound_scales(magnitude):
    model = conv_and_gemm()
    for weight in model.graph.initializer:
        if weight.name in ("first.w", "first.b"):
            values = numpy_helper.to_array(weight) * np.float32(magnitude)
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    result = quantized(model, small_pictures(3), "int8", "auto")
    assert_sound(result)
    assert np.isfinite(run(result, small_pictures(1)[0])["logits"]).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, -0.0, 3.0, -2.0])
def test_constant_samples_get_sound_scales(value, method):
    model = conv_and_gemm()
    samples = [{"image": np.full((1, 3, 8, 8), value, np.float32)}] * 2
    result = quantized(model, samples, "int8", method)
    assert_sound(result)
    reference, answer = run(model, samples[0])["logits"], run(result, samples[0])["logits"]
    np.testing.assert_allclose(answer, reference, atol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_channels_of_zeros_get_sound_scales(method):
    model = conv_and_gemm()
    for weight in model.graph.initializer:
        if weight.name in ("first.w", "first.b"):
            values = numpy_helper.to_array(weight).copy()
            values[::2] = 0
            weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    samples = small_pictures(3)
    for sample in samples:
        sample["image"][:, 1] = 0
    found = calibrate(model, samples, policies=list(POLICIES.values()), method=Method(name=method))
    assert [c[1] for c in found.channels["image"]] == [0, 0]
    result = quantized(model, samples, "int8", method)
    assert_sound(result)
    reference, answer = run(model, samples[0])["logits"], run(result, samples[0])["logits"]
    np.testing.assert_allclose(answer, reference, atol=0.1 * np.abs(reference).max())


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_is_enough_for_every_method(method):
    result = quantized(classifier(), pictures(1), "int8", method)
    assert_sound(result)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_the_sample(bad, method):
    samples = pictures(4)
    samples[2]["image"][0, 1, 2, 3] = bad
    with pytest.raises(UsageError, match=r"holds NaN or infinity at calibration sample 2"):
        calibrate(classifier(), samples, policies=[POLICIES["int8"]], method=Method(name=method))


def test_a_nan_that_an_operator_makes_is_refused_by_its_tensor():
    b = GraphBuilder()
    b.add("Sqrt", ["image"], "rooted")
    b.conv("rooted", "first", 3, 8)
    samples = [{"image": np.abs(s["image"])} for s in small_pictures(3)]
    samples[1]["image"][0, 0, 0, 0] = -1
    model = b.build({"image": [1, 3, 8, 8]}, ["first"])
    with pytest.raises(UsageError, match=r"'rooted' holds NaN or infinity at calibration sample 1"):
        calibrate(model, samples, policies=[POLICIES["int8"]])


def test_samples_of_different_sizes_are_refused_by_number():
    samples = small_pictures(3)
    samples[2] = {"image": np.zeros((1, 3, 9, 8), np.float32)}
    with pytest.raises(UsageError, match=r"sample 2 of 'image' has shape \[1, 3, 9, 8\].*\[1, 3, 8, 8\]"):
        calibrate(conv_and_gemm(), samples, policies=[POLICIES["int8"]])


def test_a_tensor_thinned_by_rows_gives_the_range_of_all_its_values():
    """Rows in turn: what a row stands for is known, so is the error of the range they choose."""
    b = GraphBuilder()
    b.conv("image", "wide", 3, 24)
    model = b.build({"image": [1, 3, 96, 96]}, ["wide"])
    random = np.random.default_rng(0)
    samples = [{"image": random.laplace(size=(1, 3, 96, 96)).astype(np.float32)} for _ in range(16)]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    values = np.concatenate([run(watched, s)["wide"].ravel() for s in samples])
    for method in (Method(name="percentile", percentile=99.9), Method(name="mse")):
        found = calibrate(model, samples, policies=[POLICIES["uint8"]], method=method).ranges["wide"]
        if method.name == "percentile":
            np.testing.assert_allclose(found, np.percentile(values, [0.05, 99.95]), rtol=0.03)
            continue
        errors = []
        for low, high in (found, (values.min(), values.max())):
            step = (high - low) / 255
            codes = np.clip(np.rint(values / step), np.rint(low / step), np.rint(high / step))
            errors.append(np.mean((codes * step - values) ** 2))
        assert errors[0] < errors[1]
    extremes = calibrate(model, samples, policies=[POLICIES["uint8"]]).ranges["wide"]
    np.testing.assert_allclose(extremes, (values.min(), values.max()), rtol=1e-5)
