"""The range of least mean squared quantization error, and that error.

A value x inside the range is off by at most half a step D: x itself below D/2 from zero, which is a code, and
D^2/12 on average elsewhere (Widrow, "A Study of Rough Amplitude Quantization by Means of Nyquist Sampling
Theory", 1956); a value outside is off by its distance from the range. All three come from moments of the
distribution, so that every pair of bounds on a grid is judged in one go, for any number of codes. Choosing
the range so is the L2 calibration of Wu et al., "Integer Quantization for Deep Learning Inference" (2020),
section 3.2, done for the two bounds apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.observers.codes import Codes
from edgekit.quantize.observers.histogram import Distribution

__all__ = ["expected_error", "mse_range"]

Floats = NDArray[np.float64]

_COARSE = 0.5 ** (np.arange(33) / 4.0)  # from the bound to 1/256 of it, four candidates an octave
_FINE = 2.0 ** (np.arange(-8, 9) / 32.0)


def expected_error(seen: Distribution, low: Floats, high: Floats, codes: Codes) -> Floats:
    """The mean squared error of quantizing `seen` to each range [low, high]; the arrays broadcast.

    Ranges include 0. The number of codes and whether they lie symmetrically come from `codes`.
    """
    step = codes.step(low, high)
    number, total, squares = seen.moments
    bounds = seen.moments_below(np.concatenate([low.ravel(), high.ravel()]))
    below = [moment[: low.size].reshape(low.shape) for moment in bounds]
    above = [moment[low.size :].reshape(high.shape) for moment in bounds]
    under = below[2] - 2.0 * low * below[1] + low * low * below[0]
    over = (squares - above[2]) - 2.0 * high * (total - above[1]) + high * high * (number - above[0])
    rounded_away, near = seen.near_zero(step / 2)
    between = np.maximum(above[0] - below[0] - rounded_away, 0.0)
    error = np.maximum(under, 0.0) + np.maximum(over, 0.0) + np.maximum(near, 0.0) + between * step**2 / 12.0
    return np.asarray(error / number)


def mse_range(seen: Distribution, codes: Codes) -> tuple[float, float]:
    """The range of least `expected_error` for `codes`: never worse than the extremes, by that measure."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if codes.symmetric:
        bound = max(-low, high)
        for factors in (_COARSE, _FINE):
            bounds = np.minimum(bound * factors, max(-low, high))
            bound = float(bounds[np.argmin(expected_error(seen, -bounds, bounds, codes))])
        return max(-bound, low), min(bound, high)
    best_low, best_high = low, high
    for factors in (_COARSE, _FINE):
        lows = np.maximum(best_low * factors, low)[:, None] if low < 0.0 else np.zeros((1, 1))
        highs = np.minimum(best_high * factors, high)[None, :] if high > 0.0 else np.zeros((1, 1))
        errors = expected_error(seen, lows, highs, codes)
        row, column = np.unravel_index(int(np.argmin(errors)), errors.shape)
        best_low, best_high = float(lows[row, 0]), float(highs[0, column])
    return best_low, best_high
