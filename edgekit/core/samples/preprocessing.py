"""Whether samples are prepared as in training, judged by what the network's BatchNorm layers remember.

A BatchNormalization keeps the mean and the variance that each channel of its input had in training. Samples
of another scale, offset or order of colours give its input other ones. The distance of a channel is the
Kullback-Leibler divergence of a normal distribution with the mean and variance seen now from that with those
of training; the distance of a set of samples is its mean over the channels of the first layers. Measured on
EfficientNet-Lite0 with 96 photographs: 0.008 as trained, 0.35 with values in 0..1, 0.45 with ImageNet's mean
and deviation, 4000 with 0..255; 0.031 with red and blue swapped, which the variance alone does not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.core.samples.spec import ImageOptions

__all__ = [
    "FEWEST_FOR_ORDER",
    "PREPARATIONS",
    "Fit",
    "Measure",
    "Moments",
    "Preparation",
    "fit",
    "guess",
    "is_picture",
    "prepared_by",
    "suspicion",
]

FEWEST_FOR_ORDER = 8  # with 4 photographs the wrong order of colours fitted 1.7 times better by chance
_ORDER = 1.5  # times better: right photographs reached 1.40 by chance in 700 draws of 8, two networks,
_ORDER_OF_MANY = 1.3  # and 0.94 in draws of 16, so that fewer wrong ones pass
_MANY = 16
_SCALE = 2.0
_SUSPICIOUS = 0.1  # distance: right photographs reached 0.17 in draws of 8, 0.07 in draws of 16
_FITTING = 0.2
_LEAST, _MOST = 1 / 3, 3.0  # other pictures than in training, rightly prepared, reached 0.38 and 1.9
_DRAWS = 200
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """What reaches one BatchNormalization: [samples, channels] each, in units of its running statistics.

    `first` is the mean of (x - running mean) / deviation over a sample, `second` that of its square, the
    deviation being sqrt(running variance + epsilon). On samples like those of training they are 0 and 1.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How samples fit the network: over `samples` of them, at `norms` layers.

    `distance`: mean divergence over the channels of these layers, and `distances` its values over
    bootstrap draws of the samples (the same draws for every fit of as many samples). `variance`: median over
    channels of variance seen over variance in training, at the first layer; `interval`: its 98 % bootstrap
    interval.
    """

    samples: int
    norms: int
    distance: float
    distances: NDArray[np.float64]
    variance: float
    interval: tuple[float, float]


def fit(moments: Sequence[Moments]) -> Fit:
    """How far the samples are from the statistics of the layers, first layer first."""
    count = len(moments[0].first)
    draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=_DRAWS) / count
    weights = np.concatenate([np.full((1, count), 1 / count), draws])  # the samples themselves, then draws
    total = np.zeros(len(weights))
    medians: NDArray[np.float64] | None = None
    for one in moments:
        mean = weights @ one.first
        square = weights @ one.second
        variance = np.maximum(square - mean**2, _SMALLEST)
        total += np.mean(0.5 * (square - 1 - np.log(variance)), axis=1)
        if medians is None:
            medians = np.median(variance, axis=1)
    assert medians is not None
    distances = total / len(moments)
    low, high = np.percentile(medians[1:], (1, 99))
    return Fit(
        samples=count,
        norms=len(moments),
        distance=float(distances[0]),
        distances=distances[1:],
        variance=float(medians[0]),
        interval=(float(low), float(high)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    """value = (pixel - mean) / std with pixel in 0..255, numbers or one a channel, red first; `swapped`: the
    channels come in the other order than they are."""

    name: str
    mean: float | tuple[float, ...]
    std: float | tuple[float, ...]
    swapped: bool = False

    def convert(self, values: NDArray[Any], to: Preparation, axis: int) -> NDArray[np.float32]:
        """Values prepared this way as if they had been prepared the way of `to`; channels lie on `axis`."""
        pixels = values * _along(self.std, values, axis) + _along(self.mean, values, axis)
        if to.swapped != self.swapped:
            pixels = np.flip(pixels, axis)
        converted = (pixels - _along(to.mean, values, axis)) / _along(to.std, values, axis)
        return np.ascontiguousarray(converted, dtype=np.float32)


PREPARATIONS = (
    Preparation(name="0..255, the pixels as they are", mean=0.0, std=1.0),
    Preparation(name="0..1, pixel / 255", mean=0.0, std=255.0),
    Preparation(name="-1..1, (pixel - 127.5) / 127.5", mean=127.5, std=127.5),
    Preparation(
        name="ImageNet's mean and deviation, (pixel - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]",
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
    Preparation(
        name="ImageNet's mean alone, pixel - [123.68, 116.779, 103.939]",
        mean=(123.68, 116.779, 103.939),
        std=1.0,
    ),
)


def is_picture(shape: Sequence[int | str]) -> int | None:
    """The channel axis of an input that takes pictures: [N, C, H, W] or [N, H, W, C], C 1 or 3; else None."""
    if len(shape) != 4:
        return None
    return next((axis for axis in (1, 3) if shape[axis] in (1, 3)), None)


def prepared_by(options: ImageOptions) -> Preparation:
    """How the pictures of a sample spec are prepared."""
    scale = options.scale

    def of_pixels(value: float | tuple[float, ...]) -> float | tuple[float, ...]:
        return tuple(v / scale for v in value) if isinstance(value, tuple) else value / scale

    mean, std = of_pixels(options.mean), of_pixels(options.std)
    shown = [list(v) if isinstance(v, tuple) else f"{v:g}" for v in (mean, std)]
    return Preparation(name=f"{options.color}, (pixel - {shown[0]}) / {shown[1]}", mean=mean, std=std)


def guess(values: NDArray[Any], axis: int) -> Preparation:
    """How pictures were prepared, by the range of their values: the way whose range they fill most of.

    Where none fits, the least value is taken for black and the greatest for white.
    """
    other = tuple(i for i in range(values.ndim) if i != axis)
    low, high = values.min(axis=other).astype(float), values.max(axis=other).astype(float)
    best: tuple[float, Preparation] | None = None
    for way in PREPARATIONS:
        mean, std = (np.broadcast_to(_channels(v, low.size), low.shape) for v in (way.mean, way.std))
        black, white = (0 - mean) / std, (255 - mean) / std
        slack = 0.02 * (white - black)
        if (low < black - slack).any() or (high > white + slack).any():
            continue
        filled = float(np.max((high - low) / (white - black)))
        if filled >= 0.6 and (best is None or filled > best[0]):
            best = (filled, way)
    if best is not None:
        return best[1]
    black_, white_ = float(low.min()), float(high.max())
    scale = 255 / (white_ - black_) if white_ > black_ else 1.0
    return Preparation(name=f"{black_:.4g}..{white_:.4g}", mean=-black_ * scale, std=scale)


def _channels(value: float | tuple[float, ...], count: int) -> NDArray[np.float64]:
    array = np.atleast_1d(np.asarray(value, np.float64))
    return array if array.size in (1, count) else array.mean(keepdims=True)


def _along(value: float | tuple[float, ...], values: NDArray[Any], axis: int) -> NDArray[np.float64]:
    array = _channels(value, values.shape[axis])
    return array.reshape([-1 if i == axis else 1 for i in range(values.ndim)])


class Measure(Protocol):
    """How the samples fit: as they are, or, prepared as `given`, after a conversion to `way`."""

    def __call__(self, given: Preparation | None = None, way: Preparation | None = None) -> Fit: ...


def suspicion(
    fits: Measure, values: NDArray[Any] | None, axis: int, known: Preparation | None = None
) -> tuple[Fit, str]:
    """How the samples fit, and what looks wrong with them in a sentence ("" for nothing).

    `values` are those of an input that takes pictures (None: there is none), channels on `axis`; `known` says
    how they were prepared, otherwise their range does. Two things are told: a way of preparing pictures fits
    clearly better (a distance of 1 / 1.5 or less for the order of colours alone, 1 / 1.3 from 16 samples on,
    of half or less for another scale or offset, beyond what chance does), or none does, but the variance at
    the first layer is not between a third and three times that of training.
    """
    found = fits()
    strange = found.interval[0] > _MOST or found.interval[1] < _LEAST
    seen = (
        f"at its first BatchNormalization their variance is {found.variance:.3g} times that of training "
        f"(a third to three times is usual; over {found.samples} samples)"
    )
    if values is not None:
        given = known or guess(values, axis)
        other = replace(given, swapped=True)
        colours = values.shape[axis] == 3 and found.samples >= FEWEST_FOR_ORDER
        ways = [other] if colours else []
        if strange or found.distance >= _SUSPICIOUS:
            plain = [way for way in PREPARATIONS if way.name != given.name]
            ways = [*plain, *ways, *(replace(way, swapped=True) for way in plain if colours)]
        best = _best([(way, fits(given, way)) for way in ways])
        if best is not None and _clearly_better(found, best[1], order_alone=best[0] == other):
            return found, _said(found, *best, given, seen, order_alone=best[0] == other)
    if strange:
        return found, f"the samples do not look like those of training: {seen}"
    return found, ""


def _said(
    found: Fit, way: Preparation, then: Fit, given: Preparation, seen: str, *, order_alone: bool
) -> str:
    figures = f"distance from the statistics of training {found.distance:.3g} now, {then.distance:.2g} then"
    if order_alone:
        return (
            "red and blue look swapped: with the channels in the other order the samples fit the network's "
            f"BatchNormalization {found.distance / then.distance:.1f} times better ({figures}; over "
            f"{found.samples} samples)"
        )
    order = ", and red and blue swapped" if way.swapped else ""
    return (
        f"the samples are not prepared as in training: {seen}. They are {given.name}; what fits is "
        f"{way.name}{order} ({figures})"
    )


def _best(tried: Sequence[tuple[Preparation, Fit]]) -> tuple[Preparation, Fit] | None:
    """The best fit; one with the colours as they come where the other order is not clearly better."""
    if not tried:
        return None
    ordered = sorted(tried, key=lambda pair: pair[1].distance)
    plain = next((pair for pair in ordered if not pair[0].swapped), ordered[0])
    return ordered[0] if plain[1].distance >= _order(plain[1]) * ordered[0][1].distance else plain


def _clearly_better(found: Fit, other: Fit, *, order_alone: bool) -> bool:
    if order_alone:
        return found.distance >= _order(found) * other.distance
    if found.distance < _SUSPICIOUS or other.distance > _FITTING:
        return False
    return bool(np.percentile(found.distances / other.distances, 1) >= _SCALE)


def _order(found: Fit) -> float:
    return _ORDER_OF_MANY if found.samples >= _MANY else _ORDER
