"""Running statistics of all tensors at once, over the vectors that `reductions` joins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.quantize.observers.reductions import Layout

__all__ = ["Running"]

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Running:
    """Minimum, maximum and sum of means of every channel, and moving averages of the tensors' extremes.

    A moving average is the plain mean of the first 100 calls and an exponential average of constant 1/100
    after that: Jacob et al. (2018), section 3.1, without the weight that a constant from the start would give
    the first call. `lowered`: where the entries of the joined minima go. `names`: what a file keeps.
    """

    layout: Layout
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    total: Floats
    averages: Floats
    lowered: NDArray[np.intp]
    calls: int = 0

    names = ("low", "high", "total", "averages")

    @classmethod
    def over(cls, layout: Layout) -> Running:
        """Nothing seen yet."""
        low = np.full(layout.size, np.inf, np.float32)
        for name in layout.floored:
            low[layout.slices[name]] = 0.0
        high = np.full(layout.size, -np.inf, np.float32)
        parts = [np.arange(layout.slices[t].start, layout.slices[t].stop) for t in layout.lows]
        lowered = np.concatenate([np.zeros(0, np.intp), *parts])
        return cls(layout, low, high, np.zeros(layout.size), np.zeros((2, len(layout.slices))), lowered)

    def update(self, low: NDArray[Any], high: NDArray[Any], mean: NDArray[Any], *, sample: int) -> None:
        """Take in the vectors of one call. Raises `UsageError` for NaN or infinity."""
        bad = ~(np.isfinite(high) & np.isfinite(mean))
        lows = np.zeros_like(high)
        lows[self.lowered] = low
        bad |= ~np.isfinite(lows)
        if bad.any():
            raise self.refusal(int(np.argmax(bad)), sample)
        np.minimum(self.low, lows, out=self.low)
        np.maximum(self.high, high, out=self.high)
        self.total += mean
        self.calls += 1
        starts = [part.start for part in self.layout.slices.values()]
        if starts:
            now = np.stack([np.minimum.reduceat(lows, starts), np.maximum.reduceat(high, starts)])
            self.averages += (now - self.averages) * max(1.0 / self.calls, 0.01)

    def refusal(self, channel: int, sample: int) -> UsageError:
        """The error for NaN or infinity at this place of the vectors."""
        found = next(t for t, part in self.layout.slices.items() if part.start <= channel < part.stop)
        return UsageError(
            f"the activation {found!r} holds NaN or infinity at calibration sample {sample}",
            hint="check the preprocessing of that sample and that the float model is sound on it",
        )

    def extremes(self, tensor: str) -> tuple[float, float]:
        """The smallest and the largest value of a tensor."""
        part = self.layout.slices[tensor]
        return float(self.low[part].min()), float(self.high[part].max())

    def average(self, tensor: str) -> tuple[float, float]:
        """The moving averages of a tensor's minimum and maximum."""
        at = list(self.layout.slices).index(tensor)
        return float(self.averages[0, at]), float(self.averages[1, at])

    def channels(self, tensor: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and the highest value of each channel."""
        part = self.layout.slices[tensor]
        return tuple(self.low[part].tolist()), tuple(self.high[part].tolist())

    def means(self, tensor: str) -> tuple[float, ...]:
        """The mean of each channel."""
        return tuple((self.total[self.layout.slices[tensor]] / self.calls).tolist())
