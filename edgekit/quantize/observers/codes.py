"""How many codes a range is divided among, which is what the best range depends on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.scales import CODE_RANGE

__all__ = ["Codes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Codes:
    """The codes of `dtype` (a key of `CODE_RANGE`); `symmetric`: zero point in the middle."""

    dtype: str
    symmetric: bool = False

    @property
    def count(self) -> int:
        """How many codes there are."""
        first, last = CODE_RANGE[self.dtype]
        return last - first + 1

    @property
    def kind(self) -> str:
        """What decides the best range: codes of one kind share theirs."""
        return f"{self.count}{'-symmetric' if self.symmetric else ''}"

    def step(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distance of two codes over [low, high], 0 inside, as `activation_affine` divides it."""
        if self.symmetric:
            return np.asarray(np.maximum(-low, high) / ((self.count - 1) // 2))
        return np.asarray((high - low) / (self.count - 1))
