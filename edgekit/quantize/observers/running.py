"""Running statistics over samples: extremes, moving averages of them, means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError

__all__ = ["MovingAverage", "RunningMean", "RunningRange", "refuse_not_finite"]


def refuse_not_finite(tensor: str, sample: int) -> UsageError:
    """The error for NaN or infinity in an activation."""
    return UsageError(
        f"the activation {tensor!r} holds NaN or infinity at calibration sample {sample}",
        hint="check the preprocessing of that sample and that the float model is sound on it",
    )


@dataclass(slots=True, kw_only=True)
class RunningRange:
    """The smallest and the largest value seen, of a tensor (shape ()) or of each channel (channels,)."""

    low: NDArray[np.float32] = field(default_factory=lambda: np.array(np.inf, np.float32))
    high: NDArray[np.float32] = field(default_factory=lambda: np.array(-np.inf, np.float32))

    def update(self, low: NDArray[Any], high: NDArray[Any]) -> None:
        """Take in one batch's minimum and maximum."""
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)

    def whole(self) -> tuple[float, float]:
        """The range of the tensor."""
        return float(self.low.min()), float(self.high.max())

    def channels(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and the highest value of each channel."""
        return tuple(self.low.reshape(-1).tolist()), tuple(self.high.reshape(-1).tolist())


@dataclass(slots=True, kw_only=True)
class MovingAverage:
    """The moving average of a tensor's minimum and of its maximum, one batch after the other.

    The plain mean of the first 100, an exponential average of constant 1/100 after that: Jacob et al. (2018),
    section 3.1, without the weight that a constant from the start would give the first batch.
    """

    low: float = 0.0
    high: float = 0.0
    count: int = 0

    def update(self, low: float, high: float) -> None:
        """Take in one batch's minimum and maximum."""
        self.count += 1
        share = max(1.0 / self.count, 0.01)
        self.low += (low - self.low) * share
        self.high += (high - self.high) * share


@dataclass(slots=True, kw_only=True)
class RunningMean:
    """The mean per channel over samples, in float64, shape (channels,)."""

    total: NDArray[np.float64] | None = None
    count: int = 0

    def update(self, mean: NDArray[Any], samples: int) -> None:
        """Take in the mean of a batch of `samples` samples."""
        addition = mean.astype(np.float64).reshape(-1) * samples
        self.total = addition if self.total is None else self.total + addition
        self.count += samples

    def value(self) -> NDArray[np.float64]:
        """The mean so far."""
        if self.total is None:
            raise UsageError("no sample was seen")
        return self.total / self.count
