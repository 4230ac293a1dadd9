"""How near answers are to the float network's: the figures by which mixtures are compared."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from edgekit.core.recipe import Budgets, Metric
from edgekit.core.sensitivity import Standing
from edgekit.measure.drift import Drift
from edgekit.measure.metrics import ERROR_METRICS, higher_is_better, score

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
    drop = None
    if metric is not None and (labels is not None or metric in ERROR_METRICS):
        truth = source if labels is None else labels
        worse = score(metric, source, truth) - score(metric, answer, truth)
        drop = float(f"{100.0 * worse if higher_is_better(metric) else -worse:.12g}")
    return Standing(sqnr_db=found.sqnr_db, top1_agreement=found.top1_agreement, drop=drop)


def bound(budgets: Budgets) -> bool:
    """Whether a budget on accuracy, SQNR or agreement is set."""
    limits = (budgets.max_accuracy_drop, budgets.min_sqnr_db, budgets.min_top1_agreement)
    return any(limit is not None for limit in limits)


def keeps(standing: Standing, budgets: Budgets) -> bool:
    """Whether a standing keeps the budgets on accuracy, SQNR and agreement; a missing figure breaks them."""
    if budgets.max_accuracy_drop is not None and not _at_most(standing.drop, budgets.max_accuracy_drop):
        return False
    if budgets.min_sqnr_db is not None and standing.sqnr_db < budgets.min_sqnr_db:
        return False
    return budgets.min_top1_agreement is None or (
        standing.top1_agreement is not None and standing.top1_agreement >= budgets.min_top1_agreement
    )


def _at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit
