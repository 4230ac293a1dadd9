"""The bootstrap: reproducible, of the right width, honest about little data."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.measure.statistics import bootstrap_interval


def test_the_interval_of_a_mean_matches_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    low, high = bootstrap_interval(lambda i: values[i].mean(axis=1), 2000)
    half = 1.96 * values.std() / np.sqrt(2000)
    np.testing.assert_allclose((low, high), (values.mean() - half, values.mean() + half), atol=0.02)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        values = random.normal(size=50)
        low, high = bootstrap_interval(lambda i, v=values: v[i].mean(axis=1), 50, resamples=400, seed=seed)
        held += low <= 0.0 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_pairing_narrows_the_interval() -> None:
    random = np.random.default_rng(2)
    shared = random.normal(10.0, 3.0, 100)
    a, b = shared + random.normal(0, 0.1, 100), shared + random.normal(0.5, 0.1, 100)
    paired = bootstrap_interval(lambda i: (b[i] - a[i]).mean(axis=1), 100)
    mixed = random.permutation(100)
    unpaired = bootstrap_interval(lambda i: b[i].mean(axis=1) - a[mixed[i]].mean(axis=1), 100)
    assert paired[1] - paired[0] < 0.1 * (unpaired[1] - unpaired[0])
    assert paired[0] > 0.0


def test_the_seed_decides_the_interval_when_resamples_come_in_chunks_too() -> None:
    values = np.random.default_rng(3).normal(size=3000)

    def mean(indices: np.ndarray) -> np.ndarray:
        return values[indices].mean(axis=1)

    assert bootstrap_interval(mean, 3000, seed=5) == bootstrap_interval(mean, 3000, seed=5)
    assert bootstrap_interval(mean, 3000, seed=5) != bootstrap_interval(mean, 3000, seed=6)


def test_a_wider_level_gives_a_wider_interval() -> None:
    values = np.random.default_rng(4).normal(size=80)
    narrow = bootstrap_interval(lambda i: np.median(values[i], axis=1), 80, level=0.5)
    wide = bootstrap_interval(lambda i: np.median(values[i], axis=1), 80, level=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_observations_that_are_all_alike_give_a_point() -> None:
    assert bootstrap_interval(lambda i: np.ones(len(i)), 20) == (1.0, 1.0)


def test_no_observations_are_a_defect() -> None:
    with pytest.raises(ValueError, match="no observations"):
        bootstrap_interval(lambda i: np.zeros(len(i)), 0)
