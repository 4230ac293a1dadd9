"""The range whose quantized distribution diverges least from the distribution seen.

Migacz, "8-bit Inference with TensorRT" (GTC 2017): over a histogram of 2048 equal bins, try every range that
ends at a bin. P is the histogram inside the range with the values outside added to the bins at its ends; Q is
the histogram inside, merged into as many groups as there are codes, each group's count spread evenly over its
bins that are not empty; the range of the least Kullback-Leibler divergence D(P || Q) wins. The talk treats
magnitudes and 128 codes. Here the codes are as many as there are, and a range with two bounds is found by
moving both together, then each alone. Zeros are left out: 0 is a code in every range, so they favour none.

P log P and the groups' counts come from cumulative sums, so a candidate costs one operation for each code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.observers.codes import Codes
from edgekit.quantize.observers.histogram import Distribution

__all__ = ["Divergences", "entropy_range"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BINS = 2048
_TINY = np.float32(1e-37)
_BLOCK = 64  # candidates whose groups stay in the cache
_STRIDE = 8  # candidates end at every eighth bin, then at every bin about the best


class Divergences:
    """D(P || Q) of ranges of one histogram: `counts`, shape (bins,), merged into at most `levels` groups."""

    __slots__ = ("counts", "filled", "levels", "number", "own")

    def __init__(self, counts: Floats, levels: int) -> None:
        self.counts, self.levels = counts, levels
        self.number = np.concatenate([[0.0], np.cumsum(counts)])
        self.filled = np.concatenate([[0.0], np.cumsum(counts > 0)])
        self.own = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])

    def of(self, starts: Ints, stops: Ints, precision: type = np.float64) -> Floats:
        """In nats, for the range of bins [starts[i], stops[i]) each; infinite where Q has no support.

        A range of no more bins than there are levels merges none. Logarithms of Q are taken in `precision`:
        float32 is three times as fast, and off by 1e-6 of a logarithm.
        """
        number = self.number
        filled: NDArray[Any] = self.filled.astype(precision)
        below, above = number[starts], number[-1] - number[stops]
        p_log_q = np.empty(len(starts))
        for at in range(0, len(starts), _BLOCK):
            block = slice(at, at + _BLOCK)
            inside, log_spread = _groups(number, filled, starts[block], stops[block], self.levels)
            p_log_q[block] = np.einsum("ij,ij->j", inside, log_spread)
            p_log_q[block] += below[block] * log_spread[0] + above[block] * log_spread[-1]
        first, last = self.counts[starts], self.counts[stops - 1]
        kept = number[stops] - number[starts]
        p_log_p = self.own[stops] - self.own[starts]
        p_log_p += _x_log_x(first + below) - _x_log_x(first) + _x_log_x(last + above) - _x_log_x(last)
        total = number[-1]
        with np.errstate(divide="ignore"):
            found = (p_log_p - p_log_q) / total - np.log(total) + np.log(kept)
        lost = ((below > 0) & (first == 0)) | ((above > 0) & (last == 0)) | (kept == 0)
        return np.where(lost, np.inf, found)


def _groups(
    number: Floats, filled: NDArray[Any], starts: Ints, stops: Ints, levels: int
) -> tuple[Floats, Floats]:
    """Each group's count, and the logarithm of Q in each of its filled bins: finite if it has none.

    Both of shape (groups, ranges); logarithms are taken in the dtype of `filled`.
    """
    widths = (stops - starts).astype(np.int32)  # products of groups and bins are far below 2**31
    groups = min(levels, int(widths.max(initial=1)))
    edges = np.arange(groups + 1, dtype=np.int32)[:, None] * widths
    if groups & (groups - 1):
        edges //= groups
    else:
        edges >>= groups.bit_length() - 1  # the same, and no division
    places = edges + starts
    ends, ends_filled = number.take(places), filled.take(places)
    inside, bins = ends[1:] - ends[:-1], ends_filled[1:] - ends_filled[:-1]
    with np.errstate(invalid="ignore"):  # 0 / 0 where a group is empty
        spread = np.divide(inside.astype(bins.dtype, copy=False), bins, out=bins)
    return inside, np.log(np.fmax(spread, _TINY, out=spread), out=spread).astype(np.float64, copy=False)


def entropy_range(seen: Distribution, codes: Codes) -> tuple[float, float]:
    """The range of least divergence for `codes`; the extremes when there are more codes than bins."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if high == low or codes.count >= _BINS:
        return low, high
    if codes.symmetric:
        bound = max(-low, high)
        magnitudes = _without_zeros(seen, 0.0, bound) + _without_zeros(seen, -bound, 0.0)[::-1]
        _, stop = _search(magnitudes, 0, (codes.count - 1) // 2 + 1)
        bound *= stop / _BINS
        return max(-bound, low), min(bound, high)
    zero = round(-low / (high - low) * _BINS)
    start, stop = _search(_without_zeros(seen, low, high), zero, codes.count)
    width = (high - low) / _BINS
    return (low + start * width if start else low), (high - (_BINS - stop) * width if stop < _BINS else high)


def _without_zeros(seen: Distribution, low: float, high: float) -> Floats:
    zero = (seen.lower == 0.0) & (seen.upper == 0.0)
    rest = Distribution(lower=seen.lower[~zero], upper=seen.upper[~zero], counts=seen.counts[~zero])
    return rest.over_grid(low, high, _BINS)


def _search(counts: Floats, zero: int, levels: int) -> tuple[int, int]:
    """The first bin and the one behind the last, about bin `zero`, that diverge least."""
    if counts.sum() == 0:
        return 0, len(counts)
    full, seen = len(counts), Divergences(counts, levels)
    shares = np.arange(full, levels - 1, -_STRIDE) / full
    starts, stops = np.rint(zero * (1 - shares)), np.rint(zero + (full - zero) * shares)
    start, stop = _least(seen, starts, stops, np.float32)
    for stride in (_STRIDE, 1) if 0 < zero < full else (1,):  # one bound alone is found already
        reach, precision = (full, np.float32) if stride > 1 else (2 * _STRIDE, np.float64)
        if zero < full:
            ends = _about(stop, reach, stride, max(zero + 1, start + levels), full)
            start, stop = _least(seen, np.full(len(ends), start), ends, precision)
        if zero > 0:
            begins = _about(start, reach, stride, 0, min(zero - 1, stop - levels))
            start, stop = _least(seen, begins, np.full(len(begins), stop), precision)
    return start, stop


def _about(centre: int, reach: int, stride: int, first: int, last: int) -> Floats:
    ends = np.arange(centre - reach // stride * stride, centre + reach + 1, stride)
    return np.append(ends[(ends >= first) & (ends <= last)], centre).astype(np.float64)


def _least(seen: Divergences, starts: Floats, stops: Floats, precision: type) -> tuple[int, int]:
    begin, end = starts.astype(np.int64), stops.astype(np.int64)
    at = int(np.argmin(seen.of(begin, end, precision)))
    return int(begin[at]), int(end[at])


def _x_log_x(values: Floats) -> Floats:
    return values * np.log(np.where(values > 0, values, 1.0))
