"""Metrics against definitions worked out by hand or the slow way."""

from __future__ import annotations

import time
from typing import get_args

import numpy as np
import pytest

from edgekit.core.recipe import Metric
from edgekit.errors import StepError, UsageError
from edgekit.measure.metrics import (
    ERROR_METRICS,
    RATE_METRICS,
    Evaluation,
    check_metric,
    compare_accuracy,
    compare_evaluations,
    higher_is_better,
    per_sample,
    score,
)

# Four classes; predictions 0 1 1 3 2 0, labels below; class 3 is claimed once and never true.
SCORES = np.eye(4, dtype=np.float32)[[0, 1, 1, 3, 2, 0]]
LABELS = np.array([0, 1, 2, 2, 2, 1])


def test_every_metric_of_a_recipe_is_a_rate_or_an_error() -> None:
    assert set(RATE_METRICS) | set(ERROR_METRICS) == set(get_args(Metric))
    assert not set(RATE_METRICS) & set(ERROR_METRICS)
    assert [m for m in get_args(Metric) if not higher_is_better(m)] == ["mse", "mae", "rmse"]


def test_an_unknown_metric_names_its_neighbour() -> None:
    assert check_metric("top5") == "top5"
    with pytest.raises(UsageError, match="did you mean 'accuracy'"):
        check_metric("acuracy")


def test_accuracy_is_the_share_of_first_places() -> None:
    assert per_sample("accuracy", SCORES, LABELS).tolist() == [1, 1, 0, 0, 1, 0]
    assert score("accuracy", SCORES, LABELS) == pytest.approx(0.5)


def test_macro_averages_are_over_the_classes_that_occur() -> None:
    # precision: 0: 1/2, 1: 1/2, 2: 1/1, 3: 0/1; recall: 1/1, 1/2, 1/3, 3 never true: 0
    assert score("precision", SCORES, LABELS) == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)
    assert score("recall", SCORES, LABELS) == pytest.approx((1 + 0.5 + 1 / 3 + 0) / 4)
    assert score("f1", SCORES, LABELS) == pytest.approx((2 / 3 + 0.5 + 0.5 + 0) / 4)


def test_a_class_that_nowhere_occurs_does_not_count() -> None:
    wider = np.pad(SCORES, ((0, 0), (0, 3)), constant_values=-1)
    assert score("recall", wider, LABELS) == score("recall", SCORES, LABELS)


def test_top5_agrees_with_sorting() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.normal(size=(200, 9)), random.integers(0, 9, 200)
    slow = [label in np.argsort(-row)[:5] for row, label in zip(scores, labels, strict=True)]
    assert per_sample("top5", scores, labels).tolist() == slow


def test_ties_go_to_the_lower_class_number() -> None:
    scores = np.array([[0.5, 0.5, 0.0]])
    assert score("accuracy", scores, np.array([0])) == 1.0
    assert score("accuracy", scores, np.array([1])) == 0.0
    flat = np.zeros((1, 7))
    assert [score("top5", flat, np.array([i])) for i in range(7)] == [1, 1, 1, 1, 1, 0, 0]


def test_a_single_probability_is_judged_at_one_half() -> None:
    outputs, labels = np.array([[0.9], [0.5], [0.4], [0.1]]), np.array([1, 0, 1, 0])
    assert score("accuracy", outputs, labels) == 0.5
    assert score("precision", outputs, labels) == 0.5
    assert score("recall", outputs, labels) == 0.5
    assert score("f1", outputs[:1], labels[:1]) == 1.0


def test_a_single_logit_is_refused() -> None:
    with pytest.raises(UsageError, match="it looks like a logit"):
        score("accuracy", np.array([[3.0], [-2.0]]), np.array([1, 0]))


def test_errors_are_means_over_samples_of_means_over_values() -> None:
    outputs = np.array([[1.0, 2.0], [3.0, 4.0]])
    labels = np.array([[1.0, 4.0], [3.0, 0.0]])
    assert score("mse", outputs, labels) == 5.0
    assert score("mae", outputs, labels) == 1.5
    assert score("rmse", outputs, labels) == pytest.approx(np.sqrt(5))
    assert score("mse", outputs[:, :1], labels[:, 0]) == 0.0


@pytest.mark.parametrize(
    ("metric", "outputs", "labels", "said"),
    [
        ("accuracy", SCORES, np.array([0, 1, 2, 3, 4, 0]), "label 4 is out of range"),
        ("accuracy", SCORES, np.array([1, 2, 3, 4, 1, 2]), "do the labels count from 1"),
        ("accuracy", SCORES, np.array([0, 1, 2, 3, -1, 0]), "label -1 is out of range"),
        ("accuracy", SCORES, LABELS[:5], "5 labels for 6 outputs"),
        ("accuracy", SCORES, SCORES, "one-hot: take argmax"),
        ("accuracy", SCORES, LABELS + 0.5, "not whole"),
        ("accuracy", np.zeros((6, 4, 8, 8)), LABELS, "one row of class scores"),
        ("top5", SCORES, LABELS, "at least 6 classes, the output has 4"),
        ("top5", np.zeros((6, 1)), np.zeros(6, int), "at least 6 classes"),
        ("accuracy", np.zeros((6, 1)), np.full(6, 2), "label 2 is out of range"),
        ("mse", SCORES, LABELS, "labels of the output's shape"),
    ],
)
def test_labels_that_do_not_go_with_the_output_are_refused(
    metric: Metric, outputs: np.ndarray, labels: np.ndarray, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        score(metric, outputs, labels)
    assert said in str(caught.value)


def test_nan_outputs_are_a_failure_and_no_score() -> None:
    with pytest.raises(StepError, match="the artifact gave NaN or infinity"):
        compare_accuracy("accuracy", SCORES, np.full_like(SCORES, np.nan), LABELS)


@pytest.mark.parametrize("metric", get_args(Metric))
def test_batches_add_up_to_the_whole(metric: Metric) -> None:
    random = np.random.default_rng(1)
    outputs, labels = random.normal(size=(50, 8)), random.integers(0, 8, 50)
    truth = random.normal(size=(50, 8)) if metric in ERROR_METRICS else labels
    evaluation = Evaluation(metric=metric)
    for start in range(0, 50, 7):
        evaluation.update(outputs[start : start + 7], truth[start : start + 7])
    assert evaluation.score() == pytest.approx(score(metric, outputs, truth), rel=1e-12)


def test_the_drop_of_a_rate_is_in_points_and_positive_when_worse() -> None:
    labels = np.arange(200) % 4
    source = np.eye(4, dtype=np.float32)[labels]
    worse = source.copy()
    worse[:10] = worse[:10, ::-1]
    found = compare_accuracy("accuracy", source, worse, labels)
    assert (found.source, found.artifact, found.drop, found.n) == (1.0, 0.95, 5.0, 200)
    assert found.interval[0] < 5.0 < found.interval[1]
    assert compare_accuracy("accuracy", worse, source, labels).drop == -5.0


def test_a_drop_of_one_sample_in_two_hundred_is_exactly_half_a_point() -> None:
    labels = np.zeros(200, np.int64)
    source = np.tile(np.array([[1.0, 0.0]], np.float32), (200, 1))
    source[:31] = [0, 1]
    worse = source.copy()
    worse[100] = [0, 1]
    assert compare_accuracy("accuracy", source, worse, labels).drop == 0.5


def test_the_drop_of_an_error_is_in_its_own_unit_and_positive_when_worse() -> None:
    labels = np.zeros((20, 3))
    found = compare_accuracy("mae", labels + 1.0, labels + 1.5, labels)
    assert (found.source, found.artifact, found.drop, found.interval) == (1.0, 1.5, 0.5, (0.5, 0.5))


def test_without_labels_an_error_is_the_deviation_from_the_source() -> None:
    source = np.random.default_rng(0).normal(size=(20, 3))
    found = compare_accuracy("rmse", source, source + 0.25, None)
    assert found.source == 0.0
    assert found.artifact == pytest.approx(0.25)
    with pytest.raises(UsageError, match="accuracy needs labels"):
        compare_accuracy("accuracy", source, source, None)


def test_the_interval_of_accuracy_matches_the_paired_normal_approximation() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 2000)
    source = np.eye(10)[np.where(random.random(2000) < 0.9, labels, 0)]
    artifact = np.eye(10)[np.where(random.random(2000) < 0.85, labels, 0)]
    found = compare_accuracy("accuracy", source, artifact, labels)
    change = 100.0 * (per_sample("accuracy", source, labels) - per_sample("accuracy", artifact, labels))
    half = 1.96 * change.std() / np.sqrt(2000)
    np.testing.assert_allclose(found.interval, (change.mean() - half, change.mean() + half), atol=0.15)


def test_the_interval_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    random = np.random.default_rng(2)
    labels, source = random.integers(0, 8, 100), random.normal(size=(100, 8))
    artifact = source + random.normal(size=source.shape)
    for metric in ("accuracy", "f1"):
        first = compare_accuracy(metric, source, artifact, labels)  # type: ignore[arg-type]
        assert compare_accuracy(metric, source, artifact, labels) == first  # type: ignore[arg-type]
    for_errors = [compare_accuracy("mse", source, artifact, None, seed=s).interval for s in (0, 0, 1)]
    assert for_errors[0] == for_errors[1] != for_errors[2]


def test_streamed_evaluations_compare_like_whole_arrays() -> None:
    random = np.random.default_rng(3)
    labels, a = random.integers(0, 8, 60), random.normal(size=(60, 8))
    b = a + random.normal(size=a.shape)
    source, artifact = Evaluation(metric="f1"), Evaluation(metric="f1")
    for i in range(60):
        source.update(a[i : i + 1], labels[i : i + 1])
        artifact.update(b[i : i + 1], labels[i : i + 1])
    assert compare_evaluations(source, artifact) == compare_accuracy("f1", a, b, labels)


def test_ten_thousand_samples_of_a_thousand_classes_are_compared_in_seconds() -> None:
    random = np.random.default_rng(4)
    labels = random.integers(0, 1000, 10_000)
    outputs = random.normal(size=(10_000, 1000)).astype(np.float32)
    started = time.perf_counter()
    compare_accuracy("accuracy", outputs, outputs, labels)
    assert time.perf_counter() - started < 10.0
