"""Histograms of float32 values that need no range beforehand, and the distribution they stand for.

A bin is the top 16 bits of a float32: sign, exponent and 7 bits of mantissa. Bins are 0.4 to 0.8 % wide
wherever the values lie, from 1e-38 to 3e38, and a tensor takes 512 KiB however many samples there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

__all__ = ["Distribution", "FloatHistogram"]

_BINS = 1 << 16
_MAGNITUDE = 0x7FFF
_SIGN = 0x8000

Floats = NDArray[np.float64]


class FloatHistogram:
    """Counts of float32 values by their top 16 bits: `counts`, shape (65536,)."""

    __slots__ = ("counts",)

    def __init__(self, counts: NDArray[np.int64] | None = None) -> None:
        self.counts = np.zeros(_BINS, np.int64) if counts is None else counts

    def update(self, values: NDArray[np.float32]) -> None:
        """Count every value of an array of any shape."""
        top = np.ascontiguousarray(values).reshape(-1).view(np.uint16)[1::2]  # little endian: the high half
        # a third of `bincount`, which makes 65,536 counts to add; numpy 1.25 or later, else slow
        np.add.at(self.counts, top.astype(np.intp), 1)

    def distribution(self, low: float, high: float) -> Distribution:
        """The distribution of the values, whose smallest and largest are known to be `low` and `high`."""
        used = np.flatnonzero(self.counts != 0)  # of booleans: three times as fast
        negative = int(used.searchsorted(_SIGN))
        used = np.concatenate([used[negative:][::-1], used[:negative]])  # ascending
        zero = (used & _MAGNITUDE) == 0  # zeros, and denormals that no scale can tell from zero
        inner = (used << 16).astype(np.uint32)
        outer = inner | np.uint32(0xFFFF)
        inner[zero] = outer[zero] = 0
        first = inner.view(np.float32).astype(np.float64)
        last = outer.view(np.float32).astype(np.float64)
        return Distribution(
            lower=_between(np.minimum(first, last), low, high),
            upper=_between(np.maximum(first, last), low, high),
            counts=self.counts[used].astype(np.float64),
        )


def _between(values: Floats, low: Floats | float, high: Floats | float) -> Floats:
    """`np.clip`, whose checks cost more than some hundred values do."""
    return np.asarray(np.minimum(np.maximum(values, low), high))


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Values in ascending bins [lower, upper], `counts` of them spread evenly over each; shapes (bins,)."""

    lower: Floats
    upper: Floats
    counts: Floats

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.lower[0])

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.upper[-1])

    @property
    def total(self) -> float:
        """How many values there are."""
        return float(self.counts.sum())

    @property
    def moments(self) -> tuple[float, float, float]:
        """Number, sum and sum of squares of all values."""
        number, total, squares = (float(sums[-1]) for sums in self._sums)
        return number, total, squares

    @cached_property
    def _sums(self) -> list[Floats]:
        """Number, sum and sum of squares of the values below each bin and the end, shape (bins + 1,)."""
        a, b, n = self.lower, self.upper, self.counts
        moments = (n, n * (a + b) / 2, n * (a * a + a * b + b * b) / 3)
        return [np.concatenate([[0.0], np.cumsum(values)]) for values in moments]

    def moments_below(self, points: Floats) -> tuple[Floats, Floats, Floats]:
        """Number, sum and sum of squares of the values below each of `points` (any shape)."""
        a, b, n = self.lower, self.upper, self.counts
        sums = self._sums
        whole = b.searchsorted(points, side="left")
        at = np.minimum(whole, len(n) - 1)
        start, end = a[at], b[at]
        stop = _between(points, start, end)
        width = np.where(end > start, end - start, 1.0)
        part = np.where(whole < len(n), n[at] * (stop - start) / width, 0.0)
        return (
            sums[0][whole] + part,
            sums[1][whole] + part * (start + stop) / 2,
            sums[2][whole] + part * (start * start + start * stop + stop * stop) / 3,
        )

    def near_zero(self, points: Floats) -> tuple[Floats, Floats]:
        """Number and sum of squares of the values within `points` of zero, to the nearest bin's edge."""
        start = self.lower.searchsorted(-points, side="left")
        stop = np.maximum(self.upper.searchsorted(points, side="right"), start)
        return self._sums[0][stop] - self._sums[0][start], self._sums[2][stop] - self._sums[2][start]

    def percentile_range(self, percentile: float) -> tuple[float, float]:
        """The range that leaves (100 - percentile) % of the values outside, half of them on each side."""
        outside = (100.0 - percentile) / 100.0 * self.total / 2.0
        below = self._sums[0][1:]
        first = min(int(below.searchsorted(outside, side="right")), len(below) - 1)
        last = min(int(below.searchsorted(self.total - outside, side="left")), len(below) - 1)
        return self._within(first, outside), self._within(last, self.total - outside)

    def _within(self, at: int, below: float) -> float:
        """The value in bin `at` that `below` values in all lie under."""
        share = (below - float(self._sums[0][at])) / float(self.counts[at])
        low, high = float(self.lower[at]), float(self.upper[at])
        return low + (high - low) * min(max(share, 0.0), 1.0)

    def over_grid(self, low: float, high: float, bins: int) -> Floats:
        """Counts over `bins` equal bins of [low, high], shape (bins,); what lies outside is left out."""
        edges = np.linspace(low, high, bins + 1)
        number, _, _ = self.moments_below(edges)
        counts = np.diff(number)
        counts[-1] += self.counts[(self.lower == self.upper) & (self.lower == high)].sum()
        return np.asarray(counts)
