"""Scales of weights by squared error: where a few weights are far larger than the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quantize_models import GraphBuilder, pictures
from saturation import answers, offending

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.algorithms.pair_aware import saturation_free_codes
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import code_weights


def heavy_tailed(*shape: int) -> np.ndarray:
    """Many small weights and a few far larger ones."""
    return np.random.default_rng(0).standard_t(3, shape).astype(np.float32)


def network():
    """Long sums of small weights with one that is 2.5 times as large: there clipping pays even in 8 bits."""
    b = GraphBuilder()
    weight = np.random.default_rng(0).uniform(-0.4, 0.4, (200_000, 2)).astype(np.float32)
    weight[7] = 1.0
    b.constant("w", weight)
    b.add("MatMul", ["image", "w"], "out")
    return b.build({"image": [1, 200_000]}, ["out"])


@pytest.mark.parametrize("target", ["tflite", "onnxruntime"])
def test_clipping_errs_less_where_few_weights_are_far_larger(target):
    model, policy = network(), load_target(target).int8
    found = calibrate(model, pictures(1, (1, 200_000)), policies=[policy])
    error = {}
    for clipping in ("max", "mse"):
        options = QuantizationOptions(weight_clipping=clipping)
        coded = code_weights(model, calibration=found, policy=policy, options=options)["out"]
        error[clipping] = np.square(coded.error()).sum(axis=0)
        assert np.abs(coded.codes.astype(int)).max() <= 127
    assert (error["mse"] < 0.9 * error["max"]).all()


@pytest.mark.parametrize("target", ["tflite", "onnxruntime"])
@pytest.mark.parametrize("clipping", ["max", "mse"])
@pytest.mark.parametrize(("bits", "largest"), [(4, 7), (7, 63)])
def test_fewer_bits_stay_so_many_bits(bits, largest, clipping, target):
    model, policy = network(), replace(load_target(target).int8, weight_bits=bits)
    found = calibrate(model, pictures(1, (1, 200_000)), policies=[policy])
    options = QuantizationOptions(weight_clipping=clipping)
    coded = code_weights(model, calibration=found, policy=policy, options=options)["out"]
    assert np.abs(coded.codes.astype(int)).max() == largest


@pytest.mark.parametrize(("channels", "group"), [(16, 1), (5, 1), (16, 16)])
def test_clipped_codes_cannot_saturate_either(channels, group):
    weight = heavy_tailed(16, channels // group, 3, 3)
    codes, scales = saturation_free_codes(weight, op_type="Conv", group=group, axis=0, clip=True)
    fast, exact = answers(weight, codes, scales, group)
    np.testing.assert_array_equal(fast, exact)
    if channels == 16 and group == 1:
        assert offending(codes) == 0
