"""The bootstrap: how sure a figure is, given the samples it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap_interval"]

_CHUNK = 2_000_000  # resampled indices held at a time: 16 MB


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], NDArray[Any]],
    n: int,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic of `n` observations (Efron & Tibshirani 1993, ch. 13).

    `statistic` takes an index matrix [b, n] into the observations and returns b values, one a resample. For a
    paired comparison it indexes both sides with the same indices: what the pair has in common then cancels.
    The same seed gives the same interval. With observations that are all alike the interval is a point, which
    says that no difference was seen, not that there is none.
    """
    if n < 1:
        raise ValueError("bootstrap_interval: no observations")
    random = np.random.default_rng(seed)
    values = []
    rows = max(1, min(resamples, _CHUNK // n))
    for start in range(0, resamples, rows):
        indices = random.integers(0, n, size=(min(rows, resamples - start), n))
        values.append(np.asarray(statistic(indices), np.float64))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(values), [tail, 1.0 - tail])
    return float(low), float(high)
