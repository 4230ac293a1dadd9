"""Eight-bit codes that do not saturate, against the engine's own exact mode."""

from __future__ import annotations

import numpy as np
import pytest
from saturation import STEP, answers, heavy, integer_convolution, offending

from edgekit.core.cpu import int8_multiply_add_saturates
from edgekit.quantize.algorithms.pair_aware import (
    cap_pairs,
    pair_aware_codes,
    saturation_free_codes,
)
from edgekit.quantize.scales import weight_codes


@pytest.mark.parametrize("shape", [(8, 16), (8, 16, 3, 3), (4, 2, 1, 1)])
def test_no_pair_of_one_sign_sums_above_the_limit(shape):
    codes, scales = pair_aware_codes(heavy(*shape))
    assert offending(codes) == 0
    assert scales.shape == shape[:1]
    assert np.abs(codes.astype(int)).max() > 63


def test_pairs_of_opposite_signs_and_small_pairs_are_left_alone():
    codes = np.array([[127.0, -127.0, 64.0, 64.0, 127.0, 1.0]])
    assert cap_pairs(codes).tolist() == codes.tolist()


def test_both_of_an_offending_pair_give_up_half_of_the_excess():
    assert cap_pairs(np.array([[127.0, 127.0, -100.0, -31.0]])).tolist() == [[64.0, 64.0, -98.0, -30.0]]


def test_the_error_is_at_most_that_of_seven_bits():
    weight = np.random.default_rng(0).standard_normal((32, 64, 3, 3)).astype(np.float32)

    def error(codes, scales):
        real = codes * scales.astype(np.float64).reshape(-1, 1, 1, 1)
        return ((real - weight) ** 2).sum(axis=(1, 2, 3))

    ours, seven = error(*pair_aware_codes(weight)), error(*weight_codes(weight, bits=7, axis=0))
    assert (ours <= seven * (1 + 1e-9)).all()
    assert ours.sum() < 0.6 * seven.sum()


def test_a_channel_of_zeros_gets_scale_one():
    weight = np.zeros((2, 4), np.float32)
    weight[1] = 1.0
    codes, scales = pair_aware_codes(weight)
    assert scales[0] == 1.0
    assert not codes[0].any()


@pytest.mark.parametrize(
    ("kernel", "channels", "group"), [(1, 32, 1), (3, 16, 1), (3, 6, 1), (3, 32, 4), (5, 4, 2), (1, 2, 1)]
)
def test_onnx_runtime_answers_bit_for_bit_as_in_its_exact_mode(kernel, channels, group):
    weight = heavy(16, channels // group, kernel, kernel)
    fast, exact = answers(weight, *pair_aware_codes(weight), group)
    np.testing.assert_array_equal(fast, exact)


def test_plain_eight_bits_saturate_exactly_where_the_cpu_is_said_to_saturate():
    """The control: without it the comparison above could hold for lack of saturation."""
    weight = heavy(16, 32, 1, 1)
    fast, exact = answers(weight, *weight_codes(weight, bits=8, axis=0), 1)
    saturates = int8_multiply_add_saturates().saturates
    assert saturates is not None
    assert np.array_equal(fast, exact) is not saturates


@pytest.mark.parametrize(
    ("kernel", "channels", "group"), [(3, 16, 16), (5, 16, 16), (3, 3, 1), (3, 5, 1), (3, 8, 8), (1, 16, 1)]
)
def test_every_kind_of_convolution_gets_codes_that_do_not_saturate(kernel, channels, group):
    """Depthwise in 8 bits, odd channels in 7, a multiplier of 2 in 7, the rest pair-aware."""
    weight = heavy(16, channels // group, kernel, kernel)
    codes, scales = saturation_free_codes(weight, op_type="Conv", group=group, axis=0)
    fast, exact = answers(weight, codes, scales, group)
    np.testing.assert_array_equal(fast, exact)


def test_a_matrix_product_is_capped_along_the_values_it_sums():
    weight = heavy(32, 6)
    codes, scales = saturation_free_codes(weight, op_type="MatMul", group=1, axis=1)
    assert codes.shape == (32, 6)
    assert scales.shape == (6,)
    assert offending(codes.T) == 0


@pytest.mark.parametrize(("kernel", "channels", "group"), [(1, 32, 1), (3, 16, 1), (3, 16, 16), (3, 3, 1)])
def test_openvino_answers_within_a_step_of_exact_arithmetic(kernel, channels, group):
    import openvino

    weight = heavy(16, channels // group, kernel, kernel)
    codes, scales = saturation_free_codes(weight, op_type="Conv", group=group, axis=0)
    graph, image = integer_convolution(weight, codes, scales, group)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(graph), "CPU", options)
    got = next(iter(compiled({"image": image}).values()))
    exact = answers(weight, codes, scales, group)[1]
    assert np.abs(got - exact).max() <= STEP * 1.001
