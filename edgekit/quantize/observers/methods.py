"""From what was seen of a tensor to its range, by method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.observers.codes import Codes
from edgekit.quantize.observers.entropy import entropy_range
from edgekit.quantize.observers.histogram import Distribution
from edgekit.quantize.observers.mse import expected_error, mse_range

__all__ = ["Method", "MethodName", "Range", "range_by"]

MethodName = Literal["auto", "minmax", "moving-average", "percentile", "mse", "entropy"]
Range = tuple[float, float]

_TAILS = (99.999, 99.99)  # percentiles that "auto" tries
_GAIN = 0.9  # a range that clips must leave at most this share of the error of the extremes


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How ranges are found. `percentile` (of 100) is used by "percentile" alone."""

    name: MethodName
    percentile: float = 99.99

    @property
    def counts_values(self) -> bool:
        """Whether it needs the values themselves, not extremes alone."""
        return self.name in ("auto", "percentile", "mse", "entropy")

    @property
    def holds_out(self) -> bool:
        """Whether it judges ranges on samples that did not set them."""
        return self.name == "auto"

    @property
    def by_codes(self) -> bool:
        """Whether the range depends on the number of codes."""
        return self.name in ("auto", "mse", "entropy")


def range_by(
    method: Method, codes: Codes, seen: Distribution, halves: tuple[Distribution, ...] = ()
) -> Range:
    """The range of a tensor by a method that counts values; within the extremes of `seen`, or 0.

    `halves`: what each half of the samples gave, for "auto". It takes the extremes, a percentile or the range
    of least squared error: whichever, set on one half, has the least expected squared error on the other, one
    way and the other added; the extremes unless that saves a tenth of the error.
    """
    if method.name == "percentile":
        return seen.percentile_range(method.percentile)
    if method.name == "entropy":
        return entropy_range(seen, codes)
    if method.name == "mse":
        return mse_range(seen, codes)
    rules: list[Callable[[Distribution], Range]] = [lambda d: (d.low, d.high), lambda d: mse_range(d, codes)]
    rules += [lambda d, p=p: d.percentile_range(p) for p in _TAILS]  # type: ignore[misc]
    parts = [h for h in halves if len(h.counts)]
    pairs = list(zip(parts, parts[::-1], strict=True)) if len(parts) > 1 else [(seen, seen)]
    judgements = [_errors([rule(fitted) for rule in rules], judged, codes) for fitted, judged in pairs]
    errors = np.sum(judgements, axis=0)
    best = int(np.argmin(errors))
    return rules[best](seen) if errors[best] <= _GAIN * errors[0] else (seen.low, seen.high)


def _errors(found: list[Range], seen: Distribution, codes: Codes) -> NDArray[np.float64]:
    """The expected squared error of each range, 0 where it holds nothing but 0."""
    low, high = np.minimum([r[0] for r in found], 0.0), np.maximum([r[1] for r in found], 0.0)
    if codes.symmetric:
        high = np.maximum(-low, high)
        low = -high
    errors, real = np.zeros(len(found)), high > low
    if real.any():
        errors[real] = expected_error(seen, low[real], high[real], codes)
    return errors
