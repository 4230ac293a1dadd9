"""Analytic bias correction.

Rounding weights shifts the mean of every output channel by (W_q - W) E[x]; subtracting that from the bias
needs no further inference: E[x] per input channel came out of the calibration pass. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction" (2019), section 4.2, with the mean observed
rather than derived from BatchNorm. Values that padding adds are taken to have the mean of the channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["output_shift"]


def output_shift(
    error: NDArray[np.float64], mean: NDArray[np.float64], *, op_type: str, group: int = 1
) -> NDArray[Any]:
    """How far a weight error moves the mean of each output channel, shape (output channels,).

    `error` is W_q - W in the layout of the ONNX operator (Conv [O, I/g, ...], ConvTranspose [I, O/g, ...],
    Gemm with transB [O, I], MatMul [I, O]); `mean` is E[x] per input channel, shape (I,).
    """
    if op_type == "Gemm":
        return np.asarray(error @ mean)
    if op_type == "MatMul":
        return np.asarray(mean @ error)
    taps = error.reshape(error.shape[0], error.shape[1], -1).sum(axis=2)
    if op_type == "Conv":
        outputs, inputs = taps.shape
        grouped = taps.reshape(group, outputs // group, inputs)
        return np.asarray(np.einsum("goi,gi->go", grouped, mean.reshape(group, inputs)).reshape(-1))
    inputs, outputs = taps.shape
    grouped = taps.reshape(group, inputs // group, outputs)
    return np.asarray(np.einsum("gio,gi->go", grouped, mean.reshape(group, -1)).reshape(-1))
