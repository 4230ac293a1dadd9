"""What the weights of a layer multiply: patches of its input, and their second moments over samples.

A convolution or matrix product is linear in its weights, so the mean squared error that new weights make at
its output is a quadratic form in the change, with the Gram matrix of its input patches. That matrix is
gathered in a streaming pass, and its size does not depend on the number of samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.graph_index import attribute

__all__ = ["InputMoments", "patches"]

_LARGEST_BLOCK = 1280  # columns of one Gram matrix: 6.5 MB


def patches(
    values: NDArray[np.float32], node: Any, weight_shape: tuple[int, ...], *, rows: int, seed: int
) -> NDArray[np.float32]:
    """At most `rows` rows of what a Conv, Gemm or MatMul sums over, shape (groups, rows, summands).

    `values` is the node's data input; `weight_shape` that of its ONNX weight. The summands of a convolution
    lie as in weight.reshape(outputs, -1). Rows are drawn by `seed` where there are more.
    """
    random = np.random.default_rng(seed)
    if node.op_type != "Conv":
        flat = values.reshape(-1, values.shape[-1])
        return flat[_drawn(len(flat), rows, random)][None]
    grid = _Grid(node, values.shape[2:], weight_shape[2:])
    chosen = _drawn(len(values) * prod(grid.outputs), rows, random)
    sample, *places = np.unravel_index(chosen, (len(values), *grid.outputs))
    read, inside = grid.taps(places)
    channels = values.reshape(len(values), values.shape[1], -1)
    if len(values) == 1:
        found = np.take(channels[0], read, axis=1)  # (channels, rows, taps)
    else:
        found = channels[sample[:, None], :, read].transpose(2, 0, 1)
    groups = attribute(node, "group", 1)
    grouped = (found * inside).reshape(groups, -1, *read.shape).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(grouped.reshape(groups, len(chosen), -1))


def _drawn(count: int, rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    if count <= rows:
        return np.arange(count)
    return np.sort(random.choice(count, rows, replace=False))


class _Grid:
    """The places of a convolution's output over an input of `sides`."""

    def __init__(self, node: Any, sides: tuple[int, ...], kernel: tuple[int, ...]) -> None:
        rank = len(kernel)
        self.sides, self.kernel = sides, kernel
        self.strides = attribute(node, "strides", [1] * rank)
        self.dilations = attribute(node, "dilations", [1] * rank)
        spans = [(k - 1) * d + 1 for k, d in zip(kernel, self.dilations, strict=True)]
        self.before, after = _padding(node, sides, spans, self.strides)
        covered = zip(sides, self.before, after, spans, self.strides, strict=True)
        self.outputs = tuple((side + b + a - span) // step + 1 for side, b, a, span, step in covered)

    def taps(self, places: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Flat positions (rows, taps) that places, an array of rows for each axis, read of one channel.

        And 1.0 where a position lies inside the input, 0.0 in the padding.
        """
        read, inside = np.zeros((len(places[0]), 1), np.int64), np.ones((len(places[0]), 1), bool)
        for axis, side in enumerate(self.sides):
            first = places[axis] * self.strides[axis] - self.before[axis]
            at = first[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis]
            valid = (at >= 0) & (at < side)
            read = (read[:, :, None] * side + np.where(valid, at, 0)[:, None]).reshape(len(at), -1)
            inside = (inside[:, :, None] & valid[:, None]).reshape(len(at), -1)
        return read, inside.astype(np.float32)


def _padding(
    node: Any, sides: tuple[int, ...], spans: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    rank = len(spans)
    automatic = attribute(node, "auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER"):
        outputs = [-(-side // s) for side, s in zip(sides, strides, strict=True)]
        totals = [
            max(0, (o - 1) * s + span - side)
            for o, s, span, side in zip(outputs, strides, spans, sides, strict=True)
        ]
        small = [t // 2 for t in totals]
        large = [t - t // 2 for t in totals]
        return (small, large) if automatic == b"SAME_UPPER" else (large, small)
    if automatic == b"VALID":
        return [0] * rank, [0] * rank
    pads = list(attribute(node, "pads", [0] * 2 * rank))
    return pads[:rank], pads[rank:]


class InputMoments:
    """Means and Gram matrices of patches, added up in float32 around the mean of the first batch.

    A fan-in above 1280 is cut into blocks of whole channel pairs that are taken to be uncorrelated: memory is
    then linear in the fan-in.
    """

    def __init__(self, summands: int, taps: int) -> None:
        """`summands`: of one output; `taps`: kernel positions of one input channel."""
        pairs = max(1, _LARGEST_BLOCK // (2 * taps))
        width = 2 * taps * pairs
        self.blocks = [slice(a, min(a + width, summands)) for a in range(0, summands, width)]
        self._rows = 0
        self._grams: list[NDArray[np.float32] | None] = [None] * len(self.blocks)
        self._sum: NDArray[np.float64] | None = None
        self._centre: NDArray[np.float32] | None = None  # (groups, 1, summands)
        self._waiting: list[NDArray[np.float32]] = []
        self._held = 0

    @property
    def rows(self) -> int:
        """How many patches were taken in."""
        return self._rows + self._held

    def add(self, rows: NDArray[np.float32]) -> None:
        """Take in patches (groups, rows, summands)."""
        self._waiting.append(rows)
        self._held += rows.shape[1]
        if self._held * 2 >= rows.shape[2]:  # so that the sums cost less than the products
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        rows = np.concatenate(self._waiting, axis=1)
        self._waiting, self._held = [], 0
        if self._centre is None:  # so that a large mean does not drown a small variance in float32
            self._centre = rows.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        rows = rows - self._centre
        total = np.matmul(np.ones((1, rows.shape[1]), np.float32), rows)[:, 0].astype(np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self._rows += rows.shape[1]
        for number, block in enumerate(self.blocks):
            part = rows[:, :, block]
            with np.errstate(over="ignore", invalid="ignore"):
                product = np.matmul(part.transpose(0, 2, 1), part)
            held = self._grams[number]
            self._grams[number] = product if held is None else np.add(held, product, out=held)

    def _deviation(self) -> NDArray[np.float64]:
        """The mean, from the centre, shape (groups, summands)."""
        self._flush()
        assert self._sum is not None
        return np.asarray(self._sum / self._rows)

    def mean(self) -> NDArray[np.float64]:
        """E[x], shape (groups, summands)."""
        deviation = self._deviation()
        assert self._centre is not None
        return np.asarray(self._centre[:, 0].astype(np.float64) + deviation)

    def gram(self, number: int, *, centred: bool) -> NDArray[np.float64]:
        """E[x x^T] of one of `blocks`, shape (groups, n, n); the covariance when `centred`.

        Not finite where the values are too large for float32 to hold their squares.
        """
        deviation = self._deviation()[:, self.blocks[number]]
        mean = self.mean()[:, self.blocks[number]]
        gram = self._grams[number]
        assert gram is not None
        covariance = gram.astype(np.float64) / self._rows - deviation[:, :, None] * deviation[:, None, :]
        return covariance if centred else covariance + mean[:, :, None] * mean[:, None, :]

    def gram_about(self, number: int, centre: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """E[(x - c)(x - c)^T] of one of `blocks`; c, (groups, summands), is zero where `centre` is None."""
        mean = self.mean()[:, self.blocks[number]]
        away = mean if centre is None else mean - centre[:, self.blocks[number]]
        return self.gram(number, centred=True) + away[:, :, None] * away[:, None, :]
