"""How much of a channel's range moves from an activation into the weights that read it.

One scale serves a whole activation, one each output channel of a weight. Dividing channel i of the activation
by s_i and multiplying the weights that read it by s_i leaves the product as it is. With a_i the largest
magnitude of the channel and w_i the size of its weights (each output channel's over their own largest),

    s_i = a_i^t / w_i^(1-t)

(Xiao et al., "SmoothQuant" (2022), equation 4; at t = 1/2 it is equation 11 of Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction" (2019), with the activation's own range in place
of the weights that make it). The share t is the one whose predicted error is least, t = none among them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["channel_factors"]

_SHARES = (0.25, 0.5, 0.75, 1.0)
_SMALLEST_FACTOR = 2.0**-16
_GAIN = 0.25  # of the error predicted without. Sound networks gain nothing, one lost 6 dB: not a default


def channel_factors(
    reach: NDArray[np.float64], weights: Sequence[NDArray[np.float64]], *, largest_share: float = 1.0,
    power: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """s of each channel, shape (channels,): powers of two up to 1, so that no float is rounded; or all ones.

    `reach`: the largest magnitude of each channel of the activation. `weights`: of every layer that reads it,
    as (outputs, channels, taps); outputs whose sum takes in one channel alone have one channel: shape
    (channels, 1, taps), a depthwise convolution. `power`: the mean square of each channel, where it is known;
    left out, the square of its reach stands for it.
    """
    best = np.ones(len(reach))
    if not (reach > 0).any():
        return best
    reach = np.maximum(reach, reach[reach > 0].min())  # a channel the samples never lit may still light up
    power = np.square(reach) if power is None else power
    demand = np.max([_demand(w, len(reach)) for w in weights], axis=0)
    alive = demand > 0
    if alive.sum() < 2:
        return best
    least = _GAIN * _predicted_error(best, reach, weights, power)
    for share in (s for s in _SHARES if s <= largest_share):
        exact = np.ones(len(reach))
        exact[alive] = reach[alive] ** share / demand[alive] ** (1 - share)
        exact[alive] /= exact[alive].max()
        factors = np.where(alive, 2.0 ** np.rint(np.log2(np.maximum(exact, _SMALLEST_FACTOR))), 1.0)
        error = _predicted_error(factors, reach, weights, power)
        if error < least:
            best, least = factors, error
    return best


def _is_depthwise(weight: NDArray[np.float64], channels: int) -> bool:
    return weight.shape[1] == 1 and channels > 1


def _demand(weight: NDArray[np.float64], channels: int) -> NDArray[np.float64]:
    """The size of the weights that read each channel, in units of the size of their output's weights."""
    if _is_depthwise(weight, channels):
        return np.ones(channels)
    power = np.square(weight).sum(axis=2)  # (outputs, channels)
    shares = power / np.maximum(power.sum(axis=1, keepdims=True), 1e-300)
    return np.asarray(np.sqrt(shares.mean(axis=0)))


def _predicted_error(
    factors: NDArray[np.float64], reach: NDArray[np.float64], weights: Sequence[NDArray[np.float64]],
    power: NDArray[np.float64],
) -> float:
    """Squared error at the outputs, relative to their power, if every rounding were uniform noise.

    Rounding the activation makes (step of the tensor)^2 times the squared weights; rounding the weights makes
    (step of the output)^2 times the squared activations. Both steps are their range over 255.
    """
    scaled, scaled_power = reach / factors, power / np.square(factors)
    total = 0.0
    for weight in weights:
        if _is_depthwise(weight, len(reach)):
            per_channel = len(weight) // len(reach)
            taken = np.square(weight).sum(axis=(1, 2)).reshape(len(reach), per_channel)
            inputs = scaled.max() ** 2 * factors**2
            noise = (inputs[:, None] * taken).sum(axis=1)
            signal = (power[:, None] * taken).sum(axis=1)
            total += float((noise[signal > 0] / signal[signal > 0]).mean()) if signal.any() else 0.0
            continue
        rows = np.sqrt(np.square(weight).sum(axis=2)) * factors  # (outputs, channels)
        largest = (np.abs(weight).max(axis=2) * factors).max(axis=1)
        noise = scaled.max() ** 2 * np.square(rows).sum(axis=1)
        noise += weight.shape[2] * (2 * largest) ** 2 * scaled_power.sum()
        signal = (np.square(rows) * scaled_power).sum(axis=1)
        total += float((noise[signal > 0] / signal[signal > 0]).mean()) if signal.any() else 0.0
    return total
