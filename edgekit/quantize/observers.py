"""How ranges are observed: running minimum and maximum, histograms of floats, means per channel.

The minimum, the maximum and the means are reductions that run inside the engine, added to the graph; only a
few numbers a sample come out. Percentiles need the values: their histogram counts the top 16 bits of each
float32 (sign, exponent, 7 bits of mantissa: bins 0.8 % wide), which needs no range beforehand and 512 KiB a
tensor however many samples there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import UsageError

__all__ = ["FloatHistogram", "RunningMean", "RunningRange", "add_reductions"]

_BINS = 1 << 16


@dataclass(slots=True, kw_only=True)
class RunningRange:
    """The smallest and the largest value seen, of a tensor (shape ()) or of each channel (channels,)."""

    low: NDArray[np.float32] = field(default_factory=lambda: np.array(np.inf, np.float32))
    high: NDArray[np.float32] = field(default_factory=lambda: np.array(-np.inf, np.float32))

    def update(self, low: NDArray[Any], high: NDArray[Any], *, tensor: str, sample: int) -> None:
        """Take in one batch's minimum and maximum. Raises `UsageError` when they are not finite."""
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise UsageError(
                f"the activation {tensor!r} holds NaN or infinity at calibration sample {sample}",
                hint="check the preprocessing of that sample and that the float model is sound on it",
            )
        self.low = np.minimum(self.low, low)
        self.high = np.maximum(self.high, high)

    def whole(self) -> tuple[float, float]:
        """The range of the tensor."""
        return float(self.low.min()), float(self.high.max())

    def channels(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and the highest value of each channel."""
        return tuple(self.low.reshape(-1).tolist()), tuple(self.high.reshape(-1).tolist())


@dataclass(slots=True, kw_only=True)
class RunningMean:
    """The mean per channel over samples, in float64, shape (channels,)."""

    total: NDArray[np.float64] | None = None
    count: int = 0

    def update(self, mean: NDArray[Any], samples: int) -> None:
        """Take in the mean of a batch of `samples` samples."""
        addition = mean.astype(np.float64) * samples
        self.total = addition if self.total is None else self.total + addition
        self.count += samples

    def value(self) -> NDArray[np.float64]:
        """The mean so far."""
        if self.total is None:
            raise UsageError("no sample was seen")
        return self.total / self.count


@dataclass(slots=True, kw_only=True)
class FloatHistogram:
    """Counts of float32 values by their top 16 bits."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def update(self, values: NDArray[np.float32]) -> None:
        """Count every value of an array of any shape."""
        top = np.ascontiguousarray(values).reshape(-1).view(np.uint16)[1::2]  # little endian: the high half
        self.counts += np.bincount(top, minlength=_BINS)

    def percentile_range(self, percentile: float) -> tuple[float, float]:
        """The range that leaves (100 - percentile) % of the values outside, half of them on each side.

        A side on which nothing lies beyond zero is not clipped below zero: a ReLU's range starts at 0.
        """
        centres, counts = _sorted_bins(self.counts)
        cumulative = np.cumsum(counts)
        outside = (100.0 - percentile) / 100.0 * cumulative[-1] / 2.0
        low = centres[np.searchsorted(cumulative, outside, side="right").clip(0, centres.size - 1)]
        high = centres[np.searchsorted(cumulative, cumulative[-1] - outside, side="left")]
        return float(low), float(high)


def _sorted_bins(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Bin centres in ascending order of value, with their counts; empty bins are left out."""
    used = np.flatnonzero(counts).astype(np.uint32)
    centre_bits = (used << np.uint32(16)) | np.uint32(0x8000)
    centre_bits[(used & 0x7FFF) == 0] &= np.uint32(0x80000000)  # +0 and -0 are exact, not denormals
    centres = centre_bits.view(np.float32).astype(np.float64)
    order = np.argsort(centres, kind="stable")
    return centres[order], counts[used[order]]


def add_reductions(model: Any, ranged: list[str], averaged: dict[str, int]) -> Any:
    """A copy of `model` whose extra outputs are the reductions.

    For every tensor of `averaged`: the vectors `<t>/min`, `<t>/max` and `<t>/mean` over all axes but the
    channel axis given (from the front; the graph's shapes give the rank). For every other tensor of
    `ranged`: scalars `<t>/min` and `<t>/max`.
    """
    import onnx
    from onnx import TensorProto, helper

    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    graph = observed.graph
    ranks = {
        i.name: len(i.type.tensor_type.shape.dim) for i in [*graph.input, *graph.output, *graph.value_info]
    }

    def reduce(name: str, op: str, suffix: str, axes: str) -> None:
        result = f"{name}/{suffix}"
        inputs = [name, axes] if axes else [name]
        graph.node.append(helper.make_node(op, inputs, [result], name=result, keepdims=0))
        graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, [None] if axes else []))

    for name in dict.fromkeys([*ranged, *averaged]):
        axes = ""
        if name in averaged:
            axes = f"{name}/axes"
            kept = [a for a in range(ranks[name]) if a != averaged[name]]
            graph.initializer.append(helper.make_tensor(axes, TensorProto.INT64, [len(kept)], kept))
            reduce(name, "ReduceMean", "mean", axes)
        reduce(name, "ReduceMin", "min", axes)
        reduce(name, "ReduceMax", "max", axes)
    return observed
