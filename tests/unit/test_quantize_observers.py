"""Methods that choose ranges, against straightforward implementations."""

import numpy as np
import pytest

from edgekit.quantize.observers import Codes, FloatHistogram, Method
from edgekit.quantize.observers.entropy import Divergences, entropy_range
from edgekit.quantize.observers.methods import range_by
from edgekit.quantize.observers.mse import expected_error, mse_range

UINT8 = Codes(dtype="uint8")
KINDS = [UINT8, Codes(dtype="int8", symmetric=True), Codes(dtype="int16", symmetric=True)]
RANDOM = np.random.default_rng(0)
SHAPES = {
    "normal": RANDOM.standard_normal(200_000),
    "relu": np.maximum(RANDOM.standard_normal(200_000), 0),
    "relu6": np.clip(4 * RANDOM.standard_normal(200_000), 0, 6),
    "laplace": RANDOM.laplace(size=200_000),
    "heavy tails": RANDOM.standard_t(3, size=200_000),
    "two humps": np.concatenate([RANDOM.normal(-9, 0.1, 100_000), RANDOM.normal(2, 1, 100_000)]),
    "uniform": RANDOM.uniform(-1, 3, 200_000),
}


def seen(values):
    values = np.asarray(values, np.float32)
    histogram = FloatHistogram()
    histogram.update(values)
    return histogram.distribution(float(values.min()), float(values.max()))


def covered(found, codes):
    low, high = min(found[0], 0.0), max(found[1], 0.0)
    return (-max(-low, high), max(-low, high)) if codes.symmetric else (low, high)


def squared_error(values, found, codes):
    """Quantize every value and look: the straightforward error of a range."""
    low, high = covered(found, codes)
    step = float(codes.step(np.array(low), np.array(high)))
    exact = np.asarray(values, np.float32).astype(np.float64)
    return float(np.mean((np.clip(np.rint(exact / step) * step, low, high) - exact) ** 2))


def migacz(counts, stop, levels):
    """D(P || Q) for the first `stop` bins, as the talk writes it, loop by loop."""
    p = counts[:stop].copy()
    p[-1] += counts[stop:].sum()
    q = np.zeros(stop)
    for level in range(levels):
        first, last = level * stop // levels, (level + 1) * stop // levels
        filled = [b for b in range(first, last) if counts[b] > 0]
        for b in filled:
            q[b] = counts[first:last].sum() / len(filled)
    p, q = p / p.sum(), q / q.sum()
    if any(p[b] > 0 and q[b] == 0 for b in range(stop)):
        return np.inf
    return float(sum(p[b] * np.log(p[b] / q[b]) for b in range(stop) if p[b] > 0))


@pytest.mark.parametrize("codes", KINDS, ids=lambda c: c.kind)
@pytest.mark.parametrize("name", SHAPES)
def test_the_expected_error_is_that_of_quantizing_every_value(name, codes):
    values = SHAPES[name]
    whole = seen(values)
    for factor in (1.0, 0.8, 0.3):
        found = covered((whole.low * factor, whole.high * factor), codes)
        expected = float(expected_error(whole, *map(np.array, found), codes))
        assert expected == pytest.approx(squared_error(values, found, codes), rel=0.06)


@pytest.mark.parametrize("codes", KINDS, ids=lambda c: c.kind)
@pytest.mark.parametrize("name", SHAPES)
def test_the_mse_range_is_as_good_as_an_exhaustive_search(name, codes):
    values = SHAPES[name][::10]
    whole = seen(values)
    found = squared_error(values, mse_range(whole, codes), codes)
    shares = [1.0] if codes.symmetric else np.linspace(0.1, 1.0, 19)
    tried = [
        squared_error(values, (whole.low * below, whole.high * above), codes)
        for above in np.linspace(0.1, 1.0, 37)
        for below in ([above] if codes.symmetric else shares)
    ]
    assert found <= min(tried) * 1.03
    assert found <= squared_error(values, (whole.low, whole.high), codes) * 1.01


def test_divergences_are_those_of_the_plain_algorithm():
    counts = np.random.default_rng(1).poisson(1000 * np.exp(-np.arange(2048) / 150)).astype(np.float64)
    stops = np.array([128, 129, 500, 1000, 2000, 2048])
    found = Divergences(counts, 128).of(np.zeros_like(stops), stops)
    plain = [migacz(counts, int(stop), 128) for stop in stops]
    np.testing.assert_allclose(found, plain, rtol=1e-9)


def test_entropy_finds_the_least_divergence_of_all_ranges():
    values = np.abs(SHAPES["heavy tails"])
    whole = seen(values)
    codes = Codes(dtype="int8", symmetric=True)
    counts = whole.over_grid(0.0, whole.high, 2048)
    plain = {stop: migacz(counts, stop, 128) for stop in range(128, 2049, 64)}
    stop = round(entropy_range(whole, codes)[1] / whole.high * 2048)
    assert migacz(counts, stop, 128) <= min(plain.values()) * (1 + 1e-9)


@pytest.mark.parametrize("name", SHAPES)
def test_entropy_keeps_the_extremes_where_there_are_more_codes_than_bins(name):
    whole = seen(SHAPES[name])
    found = entropy_range(whole, Codes(dtype="int16"))
    assert found == (min(whole.low, 0.0), max(whole.high, 0.0))


@pytest.mark.parametrize("codes", KINDS, ids=lambda c: c.kind)
@pytest.mark.parametrize("name", SHAPES)
def test_auto_is_never_worse_than_the_extremes_by_its_own_measure(name, codes):
    values = SHAPES[name]
    halves = seen(values[::2]), seen(values[1::2])
    found = range_by(Method(name="auto"), codes, seen(values), halves)
    extremes = (values.min(), values.max())
    assert squared_error(values, found, codes) <= squared_error(values, extremes, codes) * 1.01


def test_auto_keeps_an_outlier_that_both_halves_have_in_plenty_and_drops_a_lone_one():
    body = np.random.default_rng(0).standard_normal(100_000)
    humps = np.concatenate([body, np.full(1000, 40.0)])
    plenty = range_by(Method(name="auto"), UINT8, seen(humps), (seen(humps), seen(humps)))
    assert plenty[1] > 39
    lone = np.concatenate([body, [40.0]])
    dropped = range_by(Method(name="auto"), UINT8, seen(lone), (seen(body), seen(lone)))
    assert dropped[1] < 10


def any_floats(count):
    """Arrays of 1 to 40 finite floats of any exponent: zeros, denormals, one value alone, the largest."""
    random = np.random.default_rng(7)
    special = np.array([0, -0.0, 1e-45, -1e-40, 1.2e-38, 1e-30, 1, -1, 1e30, 3.4e38, -3.4e38], np.float32)
    for _ in range(count):
        size = int(random.integers(1, 41))
        drawn = random.integers(0, 2**32, size, dtype=np.uint32).view(np.float32)
        drawn = np.where(np.isfinite(drawn), drawn, np.float32(1))
        yield np.where(random.random(size) < 0.4, random.choice(special, size), drawn)


@pytest.mark.parametrize("codes", KINDS, ids=lambda c: c.kind)
@pytest.mark.parametrize("name", ["auto", "percentile", "mse", "entropy"])
def test_every_method_stays_within_the_extremes_of_any_values(name, codes):
    for values in any_floats(30):
        whole = seen(values)
        found = range_by(Method(name=name), codes, whole, (whole, whole))
        assert np.isfinite(found).all()
        assert min(float(values.min()), 0.0) <= found[0] <= found[1] <= max(float(values.max()), 0.0), values


def test_a_histogram_counts_every_value():
    for values in any_floats(100):
        whole = seen(values)
        assert whole.total == values.size
        number, _, _ = whole.moments_below(np.array([-np.inf, np.inf]))
        assert number.tolist() == [0, values.size]
