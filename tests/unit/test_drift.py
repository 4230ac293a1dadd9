"""Drift against figures worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import InternalError, StepError
from edgekit.measure.drift import MAX_SQNR_DB, Drift, DriftResult


def drift(source: np.ndarray, artifact: np.ndarray, batch: int = 1000) -> DriftResult:
    found = Drift()
    for start in range(0, len(source), batch):
        found.update(source[start : start + batch], artifact[start : start + batch])
    return found.result()


def test_identical_outputs_agree_fully_and_the_ratio_stays_a_number() -> None:
    outputs = np.random.default_rng(0).normal(size=(10, 5)).astype(np.float32)
    found = drift(outputs, outputs)
    assert (found.top1_agreement, found.sqnr_db, found.max_abs, found.n) == (1.0, MAX_SQNR_DB, 0.0, 10)
    assert found.cosine == pytest.approx(1.0)


def test_figures_are_those_worked_out_by_hand() -> None:
    source, artifact = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [1.0, 0.5]])
    found = drift(source, artifact)
    assert found.top1_agreement == 0.5
    assert found.sqnr_db == pytest.approx(10 * np.log10(26 / 2.25))
    assert found.cosine == pytest.approx((24 / 25 + 1 / np.sqrt(1.25)) / 2)
    assert found.max_abs == 1.0


def test_batches_add_up_to_the_whole() -> None:
    random = np.random.default_rng(1)
    source = random.normal(size=(37, 10)).astype(np.float32)
    artifact = source + random.normal(size=source.shape).astype(np.float32) * 0.3
    whole, parts = drift(source, artifact), drift(source, artifact, batch=1)
    assert (whole.top1_agreement, whole.max_abs, whole.n) == (parts.top1_agreement, parts.max_abs, parts.n)
    assert whole.sqnr_db == pytest.approx(parts.sqnr_db, rel=1e-12)
    assert whole.cosine == pytest.approx(parts.cosine, rel=1e-12)


def test_a_scale_of_five_percent_is_seen_though_every_class_agrees() -> None:
    source = np.random.default_rng(0).normal(size=(50, 10))
    found = drift(source, source * 1.05)
    assert found.top1_agreement == 1.0
    assert found.sqnr_db == pytest.approx(26.02, abs=0.01)


def test_swapped_classes_are_seen() -> None:
    source = np.random.default_rng(0).normal(size=(50, 10))
    assert drift(source, np.roll(source, 1, axis=1)).top1_agreement == 0.0


@pytest.mark.parametrize("shape", [(8, 10, 1, 1), (8, 1, 1, 10)])
def test_scores_with_axes_of_one_are_still_scores(shape: tuple[int, ...]) -> None:
    outputs = np.random.default_rng(0).normal(size=shape)
    assert drift(outputs, outputs).top1_agreement == 1.0


@pytest.mark.parametrize("shape", [(8, 1), (8,), (8, 3, 4, 4), (8, 16, 5)])
def test_outputs_that_are_no_row_of_scores_have_no_agreement(shape: tuple[int, ...]) -> None:
    outputs = np.random.default_rng(0).normal(size=shape)
    found = drift(outputs, outputs)
    assert found.top1_agreement is None
    assert found.sqnr_db == MAX_SQNR_DB


def test_zero_vectors_have_a_defined_cosine() -> None:
    zeros, ones = np.zeros((4, 3)), np.ones((4, 3))
    assert drift(zeros, zeros).cosine == 1.0
    assert drift(zeros, ones).cosine == 0.0
    assert drift(zeros, ones).sqnr_db == -MAX_SQNR_DB


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_a_typed_failure(bad: float) -> None:
    good, broken = np.ones((2, 3)), np.ones((2, 3))
    broken[1, 2] = bad
    with pytest.raises(StepError, match="the artifact gave NaN or infinity in output 'logits'"):
        Drift(name="logits").update(good, broken)
    with pytest.raises(StepError, match="the source model gave NaN or infinity"):
        Drift().update(broken, good)


def test_another_shape_is_a_typed_failure() -> None:
    with pytest.raises(StepError, match=r"gave shape \[2, 4\], the source model \[2, 3\]"):
        Drift().update(np.ones((2, 3)), np.ones((2, 4)))


def test_integer_outputs_do_not_overflow() -> None:
    found = drift(np.full((2, 2), 120, np.int8), np.full((2, 2), -120, np.int8))
    assert found.max_abs == 240.0


def test_no_samples_give_no_figures() -> None:
    with pytest.raises(InternalError, match="before any sample"):
        Drift().result()
