"""What the weights of a layer multiply: patches of its input, and their second moments over samples.

A convolution or matrix product is linear in its weights, so the mean squared error that new weights make at
its output is a quadratic form in the change, with the Gram matrix of its input patches. That matrix is
gathered in a streaming pass, and its size does not depend on the number of samples.
"""

from __future__ import annotations

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
    kernel = weight_shape[2:]
    windows = _windows(values, node, kernel)
    places = (windows.shape[0], *windows.shape[2 : 2 + len(kernel)])
    at: tuple[Any, ...] = np.unravel_index(_drawn(int(np.prod(places)), rows, random), places)
    chosen = windows[(at[0], slice(None), *at[1:])]  # (rows, channels, *kernel)
    grouped = chosen.reshape(len(chosen), attribute(node, "group", 1), -1)
    return np.ascontiguousarray(grouped.transpose(1, 0, 2))


def _drawn(count: int, rows: int, random: np.random.Generator) -> NDArray[np.int64]:
    if count <= rows:
        return np.arange(count)
    return np.sort(random.choice(count, rows, replace=False))


def _windows(values: NDArray[np.float32], node: Any, kernel: tuple[int, ...]) -> NDArray[np.float32]:
    """A view (batch, channels, *places, *kernel) of the padded input."""
    rank = len(kernel)
    strides = attribute(node, "strides", [1] * rank)
    dilations = attribute(node, "dilations", [1] * rank)
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    before, after = _padding(node, values.shape[2:], spans, strides)
    padded = np.pad(values, [(0, 0), (0, 0), *zip(before, after, strict=True)])
    view = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    steps: list[Any] = [slice(None, None, s) for s in strides]
    taps: list[Any] = [slice(None, None, d) for d in dilations]
    return np.asarray(view[(slice(None), slice(None), *steps, *taps)])


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
        self.rows = 0
        self._grams: list[NDArray[np.float32] | None] = [None] * len(self.blocks)
        self._sum: NDArray[np.float64] | None = None
        self._centre: NDArray[np.float32] | None = None  # (groups, 1, summands)
        self._waiting: list[NDArray[np.float32]] = []
        self._held = 0

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
        total = rows.sum(axis=1, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        self.rows += rows.shape[1]
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
        return np.asarray(self._sum / self.rows)

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
        covariance = gram.astype(np.float64) / self.rows - deviation[:, :, None] * deviation[:, None, :]
        return covariance if centred else covariance + mean[:, :, None] * mean[:, None, :]
