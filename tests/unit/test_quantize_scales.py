"""Scales, zero points and codes."""

import numpy as np
import pytest

from edgekit.quantize.scales import (
    SMALLEST_SCALE,
    Affine,
    activation_affine,
    bias_codes,
    quantize_array,
    smallest_weight_scale,
    weight_codes,
)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.5, 2.0), (-4.0, -1.0), (0.0, 6.0), (-1e-3, 1e3)])
def test_zero_is_represented_exactly_and_the_range_is_covered(dtype, low, high):
    affine = activation_affine(low, high, dtype=dtype, symmetric=False)
    values = np.linspace(min(low, 0), max(high, 0), 1001)
    codes = quantize_array(values, affine)
    real = affine.scale * (codes.astype(np.float64) - affine.zero_point)
    assert quantize_array(np.zeros(1), affine)[0] == affine.zero_point
    assert np.abs(real - values).max() <= affine.scale  # half a step, and half for the rounded zero point


def test_a_relu_output_has_its_zero_point_at_the_first_code():
    assert activation_affine(0.0, 5.0, dtype="uint8", symmetric=False).zero_point == 0
    assert activation_affine(0.0, 5.0, dtype="int8", symmetric=False).zero_point == -128


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_a_dead_tensor_gets_scale_one(dtype):
    assert activation_affine(0.0, 0.0, dtype=dtype, symmetric=False).scale == 1.0


@pytest.mark.parametrize("bound", [1e-38, 1e-30, 1e30, 3e38])
def test_scales_are_never_zero_denormal_or_infinite(bound):
    scale = activation_affine(-bound, bound, dtype="uint8", symmetric=False).scale
    assert np.isfinite(np.float32(scale))
    assert scale >= SMALLEST_SCALE * 0.999
    assert np.float32(scale) * np.float32(SMALLEST_SCALE) >= np.finfo(np.float32).tiny


def test_symmetric_activations_have_the_zero_point_in_the_middle():
    assert activation_affine(-1.0, 4.0, dtype="int8", symmetric=True).zero_point == 0
    assert activation_affine(-1.0, 4.0, dtype="uint8", symmetric=True).zero_point == 128


@pytest.mark.parametrize(("bits", "limit"), [(8, 127), (7, 63)])
def test_weight_codes_stay_within_their_bits_and_half_a_step(bits, limit):
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    codes, scales = weight_codes(weight, bits=bits, axis=0)
    assert np.abs(codes).max() == limit
    assert scales.shape == (4,)
    error = np.abs(codes * scales.reshape(4, 1, 1, 1) - weight)
    assert (error <= 0.5001 * scales.reshape(4, 1, 1, 1)).all()


def test_a_channel_of_zeros_gets_scale_one_and_codes_of_zero():
    weight = np.ones((2, 3), np.float32)
    weight[1] = 0
    codes, scales = weight_codes(weight, bits=8, axis=0)
    assert scales[1] == 1.0
    assert (codes[1] == 0).all()


def test_a_bias_that_would_leave_int32_widens_its_weight_scale():
    bias, input_scale = np.array([1e6, 0.1]), 1e-4
    floor = smallest_weight_scale(bias, input_scale)
    _, scales = weight_codes(np.full((2, 4), 1e-6, np.float32), bits=8, axis=0, smallest=floor)
    codes, bias_scales = bias_codes(bias, input_scale, scales)
    assert np.abs(codes.astype(np.float64) * bias_scales - bias).max() <= np.abs(bias).max() * 1e-6
    assert np.abs(codes).max() < 2**31 - 1


def test_codes_saturate_instead_of_wrapping():
    affine = Affine(scale=1.0, zero_point=0, dtype="int8")
    assert quantize_array(np.array([1e9, -1e9]), affine).tolist() == [127, -128]
