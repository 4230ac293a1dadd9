"""Learned rounding: what layers read, the codes, and a network on samples it has not seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from quantize_models import GraphBuilder, classifier, pictures, run
from saturation import answers, offending

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.errors import UsageError
from edgekit.quantize import layer_inputs, rounding
from edgekit.quantize.algorithms.learned_rounding import learned_codes, output_errors
from edgekit.quantize.algorithms.pair_aware import saturation_free_codes
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.layer_inputs import InputMoments, patches
from edgekit.quantize.qdq import code_weights, quantize
from edgekit.quantize.scales import weight_codes
from edgekit.quantize.tuning import tune

LEARNED = QuantizationOptions(rounding="learned")
NEAREST = QuantizationOptions(rounding="nearest")
AUTO = QuantizationOptions(rounding="auto")


@pytest.mark.parametrize(
    ("shape", "side", "attributes"),
    [
        ((6, 4, 1, 1), [9, 9], {}),
        ((6, 4, 3, 3), [9, 8], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
        ((6, 4, 3, 2), [9, 9], {"dilations": [2, 1]}),
        ((6, 2, 3, 3), [9, 9], {"group": 2, "pads": [1, 1, 1, 1]}),
        ((8, 1, 3, 3), [9, 9], {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((6, 4, 4, 4), [9, 7], {"auto_pad": "SAME_LOWER"}),
        ((6, 4, 3, 3), [9, 9], {"auto_pad": "VALID"}),
        ((6, 4, 5), [17], {"pads": [2, 2]}),
        ((2, 4, 2, 2, 2), [4, 5, 6], {}),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_patches_times_weights_are_the_convolution(shape, side, attributes, batch):
    b = GraphBuilder()
    group = attributes.get("group", 1)
    weight = b.weight("w", *shape)
    b.add("Conv", ["image", weight], "y", kernel_shape=list(shape[2:]), **attributes)
    dims = [batch, shape[1] * group, *side]
    model = b.build({"image": dims}, ["y"])
    image = np.random.default_rng(2).standard_normal(dims).astype(np.float32)
    rows = patches(image, model.graph.node[0], shape, rows=10**6, seed=0)
    values = onnx.numpy_helper.to_array(model.graph.initializer[0]).reshape(group, shape[0] // group, -1)
    got = np.einsum("gri,goi->gor", rows, values).reshape(shape[0], -1)
    expected = np.moveaxis(run(model, {"image": image})["y"], 1, 0).reshape(shape[0], -1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def correlated(count: int, width: int, seed: int) -> np.ndarray:
    """Rows (count, width) of few directions and a little noise, as activations of a network are."""
    mixing = np.random.default_rng(7).standard_normal((width // 8, width))
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, width // 8)) @ mixing + 0.1 * random.standard_normal((count, width))
    return np.maximum(rows, 0)


def learned(weight: np.ndarray, gram: np.ndarray, *, limit: int = 127, paired: bool = False, taps: int = 1):
    """The change of weights that nearest and learned codes make, and the learned codes."""
    shape = (len(weight), -1)
    if paired:
        codes, scales = saturation_free_codes(weight, op_type="Conv", group=1, axis=0)
    else:
        codes, scales = weight_codes(weight, bits=8 if limit == 127 else 7, axis=0)
    exact, steps = weight.reshape(shape)[None].astype(np.float64), scales.astype(np.float64)[None]
    nearest = codes.reshape(shape)[None].astype(np.float64)
    found = learned_codes(exact, nearest, steps, gram[None], limit=limit, taps=taps, paired=paired)
    change = [c * steps[:, :, None] - exact for c in (nearest, found)]
    return change[0], change[1], found[0].reshape(weight.shape).astype(np.int8), scales


@pytest.mark.parametrize("paired", [False, True])
def test_learned_codes_err_less_on_inputs_they_have_not_seen(paired):
    weight = np.random.default_rng(0).standard_normal((24, 64)).astype(np.float32)
    seen, unseen = (r.T @ r / len(r) for r in (correlated(500, 64, 1), correlated(500, 64, 2)))
    nearest, found, codes, _ = learned(weight, seen, paired=paired)
    assert output_errors(found, unseen[None]).sum() < 0.5 * output_errors(nearest, unseen[None]).sum()
    assert np.abs(codes.astype(int)).max() <= 127
    if paired:
        assert offending(codes) == 0


def test_where_inputs_are_independent_nearest_codes_are_the_best():
    weight = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    nearest, found, _, _ = learned(weight, np.diag(np.linspace(0.5, 2.0, 32)))
    np.testing.assert_array_equal(found, nearest)


def test_inputs_that_are_always_zero_leave_the_nearest_codes():
    weight = np.random.default_rng(0).standard_normal((8, 32)).astype(np.float32)
    nearest, found, _, _ = learned(weight, np.zeros((32, 32)))
    np.testing.assert_array_equal(found, nearest)


def test_seven_bits_stay_seven_bits():
    weight = np.random.default_rng(0).standard_normal((8, 33)).astype(np.float32)
    rows = correlated(300, 33, 1)
    *_, codes, _ = learned(weight, rows.T @ rows, limit=63)
    assert np.abs(codes.astype(int)).max() <= 63


@pytest.mark.parametrize(("kernel", "channels"), [(1, 32), (3, 16), (3, 6)])
def test_learned_pairs_cannot_saturate_in_onnx_runtime(kernel, channels):
    weight = np.random.default_rng(3).uniform(-1, 1, (16, channels, kernel, kernel)).astype(np.float32)
    rows = correlated(800, channels * kernel**2, 1)
    *_, codes, scales = learned(weight, rows.T @ rows, paired=True, taps=kernel**2)
    assert np.abs(codes.astype(int)).max() > 63
    fast, exact = answers(weight, codes, scales, 1)
    np.testing.assert_array_equal(fast, exact)


def test_moments_are_the_same_however_the_rows_arrive():
    rows = correlated(700, 40, 1).astype(np.float32)[None]
    whole, parts = InputMoments(40, 1), InputMoments(40, 1)
    whole.add(rows)
    for start in range(0, 700, 7):
        parts.add(rows[:, start : start + 7])
    np.testing.assert_allclose(
        parts.gram(0, centred=True)[0], np.cov(rows[0].T, ddof=0), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(parts.gram(0, centred=False), whole.gram(0, centred=False), rtol=1e-4)
    np.testing.assert_allclose(parts.mean()[0], rows[0].mean(axis=0), rtol=1e-5)


def test_a_mean_far_above_the_variance_does_not_drown_it():
    rows = correlated(600, 24, 1)
    moments = InputMoments(24, 1)
    for start in range(0, 600, 50):
        moments.add((rows[None, start : start + 50] * 0.1 + 1000).astype(np.float32))
    np.testing.assert_allclose(moments.mean()[0], (rows * 0.1 + 1000).mean(axis=0), rtol=1e-6)
    expected = np.cov((rows * 0.1).T, ddof=0)
    np.testing.assert_allclose(moments.gram(0, centred=True)[0], expected, atol=1e-3 * expected.max())
    outer = np.square((rows * 0.1 + 1000).mean())
    np.testing.assert_allclose(moments.gram(0, centred=False)[0], outer, rtol=0.01)


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e30])
def test_activations_of_any_size_give_codes(factor):
    weight = np.random.default_rng(0).standard_normal((8, 24)).astype(np.float32)
    moments = InputMoments(24, 1)
    with np.errstate(over="ignore"):
        moments.add((correlated(300, 24, 1)[None] * factor).astype(np.float32))
        nearest, found, codes, _ = learned(weight, moments.gram(0, centred=True)[0])
    assert np.abs(codes.astype(int)).max() <= 127
    assert np.isfinite(found).all()
    if factor in (1e-15, 1e15):
        assert (found != nearest).any()


def tuned(model, samples, target="tflite", options=LEARNED, bits=8):
    policy = replace(load_target(target).int8, weight_bits=bits)
    found = calibrate(model, samples, policies=[policy])
    result = tune(model, samples, calibration=found, policy=policy, options=options)
    graph, _ = quantize(
        model, calibration=result.calibration, policy=policy, options=options, coded=result.coded
    )
    onnx.checker.check_model(graph, full_check=True)
    return graph


def error(model, graph, samples):
    expected, got = (np.concatenate([run(m, s)["logits"] for s in samples]) for m in (model, graph))
    return float(np.square(expected - got).sum())


def deep(seed: int = 0) -> onnx.ModelProto:
    """Convolutions whose inputs are correlated: each reads a few channels blown up to many."""
    b = GraphBuilder(seed)
    x = "image"
    for number, (cin, cout) in enumerate([(3, 32), (32, 32), (32, 32)]):
        x = b.add("Relu", [b.conv(x, f"conv{number}", cin, cout)], f"y{number}")
    pooled = b.add("GlobalAveragePool", [x], "pooled")
    b.add("MatMul", [b.add("Flatten", [pooled], "flat"), b.weight("head", 32, 5)], "logits")
    return b.build({"image": [1, 3, 8, 8]}, ["logits"])


@pytest.mark.parametrize("target", ["tflite", "onnxruntime"])
def test_a_network_answers_closer_to_float_on_samples_held_out(target):
    model, samples, unseen = deep(), pictures(32), pictures(64, seed=9)
    plain = error(model, tuned(model, samples, target, NEAREST), unseen)
    assert error(model, tuned(model, samples, target), unseen) < 0.8 * plain


@pytest.mark.parametrize("target", ["tflite", "onnxruntime"])
def test_four_bits_stay_four_bits_and_answer_closer_to_float_on_samples_held_out(target):
    model, samples, unseen = deep(), pictures(32), pictures(64, seed=9)
    nearest, best = (tuned(model, samples, target, o, bits=4) for o in (NEAREST, LEARNED))
    assert error(model, best, unseen) < 0.8 * error(model, nearest, unseen)
    constants = [numpy_helper.to_array(t) for t in best.graph.initializer]
    codes = [c.astype(int) for c in constants if c.dtype == np.int8 and c.ndim > 1]
    assert max(int(np.abs(c).max()) for c in codes) == 7


@pytest.mark.parametrize("target", ["tflite", "onnxruntime"])
def test_auto_learns_where_samples_held_out_agree(target):
    model, samples, unseen = deep(), pictures(128), pictures(64, seed=9)
    plain = error(model, tuned(model, samples, target, NEAREST), unseen)
    assert error(model, tuned(model, samples, target, AUTO), unseen) < 0.8 * plain


def stripes(count: int, sign: float, seed: int) -> list[dict[str, np.ndarray]]:
    """Even pictures whose second channel is the first, times `sign`."""
    found = pictures(count, seed=seed)
    for sample in found:
        level = sample["image"][0, 0, 0, 0]
        sample["image"] = 0.01 * sample["image"] + level * np.array([1, sign, 0], np.float32)[:, None, None]
    return found


def test_auto_errs_less_than_nearest_where_the_samples_held_out_contradict_the_others():
    b = GraphBuilder()
    b.conv("image", "conv", 3, 64)
    model, unseen = b.build({"image": [1, 3, 8, 8]}, ["conv"]), stripes(64, -1.0, seed=9)
    samples = stripes(64, 1.0, seed=1)
    samples[3::4] = stripes(16, -1.0, seed=2)
    policy = load_target("tflite").int8
    found = calibrate(model, samples, policies=[policy])
    rows = np.concatenate(
        [patches(u["image"], model.graph.node[0], (64, 3, 3, 3), rows=64, seed=0)[0] for u in unseen]
    ).astype(np.float64)

    def cost(options, seen=samples):
        coded = tune(model, seen, calibration=found, policy=policy, options=options).coded
        coded = coded or code_weights(model, calibration=found, policy=policy)
        return output_errors(coded["conv"].error().reshape(1, 64, -1), (rows.T @ rows)[None]).sum()

    assert cost(AUTO) < cost(NEAREST) < cost(LEARNED, stripes(64, 1.0, seed=1))


def test_auto_takes_what_is_nearest_of_few_samples():
    model, policy = deep(), load_target("tflite").int8
    for count, learns in ((31, False), (32, True)):
        samples = pictures(count)
        found = calibrate(model, samples, policies=[policy])
        coded = tune(model, samples, calibration=found, policy=policy, options=AUTO).coded
        assert (coded is not None) is learns
    assert tuned(model, pictures(31), options=AUTO) == tuned(model, pictures(31), options=NEAREST)


def test_every_kind_of_layer_is_answered_and_the_same_bytes_come_twice():
    model, samples = classifier(), pictures(16)
    first, second = (tuned(model, samples).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert first != tuned(model, samples, options=NEAREST).SerializeToString(deterministic=True)


def test_several_passes_and_blocks_of_a_long_sum_still_beat_nearest(monkeypatch):
    model, samples, unseen = deep(), pictures(32), pictures(64, seed=9)
    plain = error(model, tuned(model, samples, options=NEAREST), unseen)
    monkeypatch.setattr(layer_inputs, "_LARGEST_BLOCK", 100)
    monkeypatch.setattr(rounding, "_PASS_BYTES", 1)
    assert error(model, tuned(model, samples), unseen) < plain


def test_a_layer_without_a_bias_gets_one_only_where_it_may_be_corrected():
    model, samples = classifier(), pictures(8)
    policy = load_target("tflite").int8
    found = calibrate(model, samples, policies=[policy])
    for correction in ("none", "analytic"):
        options = QuantizationOptions(rounding="learned", bias_correction=correction)
        coded = tune(model, samples, calibration=found, policy=policy, options=options).coded
        assert (coded["project"].bias is None) is (correction == "none")
        assert set(coded) == set(code_weights(model, calibration=found, policy=policy))


def test_no_samples_are_an_error():
    model = classifier()
    policy = load_target("tflite").int8
    found = calibrate(model, pictures(2), policies=[policy])
    with pytest.raises(UsageError, match="no samples"):
        tune(model, [], calibration=found, policy=policy, options=LEARNED)
