"""How near answers are to the float network's: the figures by which mixtures are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.recipe import Budgets, Metric
from edgekit.core.sensitivity import Standing
from edgekit.measure.drift import Drift
from edgekit.measure.metrics import ERROR_METRICS, higher_is_better, per_sample, score

__all__ = ["bound", "keeps", "standing_of"]


def standing_of(
    source: NDArray[Any],
    answer: NDArray[Any],
    *,
    metric: Metric | None = None,
    labels: NDArray[Any] | None = None,
) -> Standing:
    """The standing of `answer` beside `source`, both [n, ...], the outputs of the same samples.

    Without `metric` there is no drop; for errors (mse, mae, rmse) `labels` may be None, as in
    `edgekit.measure.metrics.compare_accuracy`. Raises `StepError` for an answer that is not finite.
    """
    drift = Drift()
    drift.update(source, answer)
    found = drift.result()
    drop, error = None, 0.0
    if metric is not None and (labels is not None or metric in ERROR_METRICS):
        truth = source if labels is None else labels
        worse = score(metric, source, truth) - score(metric, answer, truth)
        drop = float(f"{100.0 * worse if higher_is_better(metric) else -worse:.12g}")
        error = _drop_error(metric, source, answer, truth, found.top1_agreement)
    return Standing(
        sqnr_db=found.sqnr_db,
        top1_agreement=found.top1_agreement,
        drop=drop,
        drop_error=error,
        n=found.n,
    )


def _drop_error(
    metric: Metric, source: NDArray[Any], answer: NDArray[Any], labels: NDArray[Any], agreement: float | None
) -> float:
    """The paired standard error of a drop; for f1 and its parts that of as many flipped answers."""
    if metric in ("accuracy", "top5", "mse", "mae"):
        difference = per_sample(metric, source, labels) - per_sample(metric, answer, labels)
        error = float(difference.std()) / len(source) ** 0.5
        return float(100.0 * error if higher_is_better(metric) else error)
    if agreement is None or metric == "rmse":
        return 0.0
    return float(100.0 * np.sqrt((1.0 - agreement) / len(source)))


def bound(budgets: Budgets) -> bool:
    """Whether a budget on accuracy, SQNR or agreement is set."""
    limits = (budgets.max_accuracy_drop, budgets.min_sqnr_db, budgets.min_top1_agreement)
    return any(limit is not None for limit in limits)


def keeps(standing: Standing, budgets: Budgets, *, margin: float = 0.0) -> bool:
    """Whether a standing keeps the budgets on accuracy, SQNR and agreement; a missing figure breaks them.

    `margin`: standard errors by which drop and agreement must be within their limits, and half as many
    decibels by which the SQNR must be. With one, a lucky draw of few samples does not pass, and a drop below
    0 counts as 0: noise makes no network better, though few samples may look like it.
    """
    drop, agreement = standing.drop, standing.top1_agreement
    if margin and drop is not None:
        drop = max(drop, 0.0)
    if budgets.max_accuracy_drop is not None and (
        drop is None or drop + margin * standing.drop_error > budgets.max_accuracy_drop
    ):
        return False
    if budgets.min_sqnr_db is not None and standing.sqnr_db < budgets.min_sqnr_db + 0.5 * margin:
        return False
    if budgets.min_top1_agreement is None:
        return True
    if agreement is None:
        return False
    error = np.sqrt(agreement * (1.0 - agreement) / max(standing.n, 1))
    return bool(agreement - margin * error >= budgets.min_top1_agreement)
