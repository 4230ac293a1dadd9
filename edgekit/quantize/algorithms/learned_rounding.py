"""Codes of weights by the error they make at a layer's output, on inputs of the quantized network.

Sources: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers"
(2022), section 3 (one column after another, its error fed back into the columns that are still free, by the
Cholesky factor of the inverse Gram matrix, columns of large inputs first); the objective is that of Nagel et
al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020), section 3.2. Where the bias can
take up a shift of the mean, the Gram matrix is the covariance: only what the bias cannot mend counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.algorithms.pair_aware import PAIR_LIMIT, cap_pairs

__all__ = ["learned_codes", "output_errors"]

_DAMPING = 0.01  # of the mean diagonal: what the samples do not show is rounded to nearest
_COLUMNS = 128  # that share one update of those behind them


def output_errors(change: NDArray[np.float64], gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean squared error (groups, outputs) that a weight change (groups, outputs, summands) makes."""
    return np.asarray((np.matmul(change, gram) * change).sum(axis=2))


def learned_codes(
    weight: NDArray[np.float64],
    nearest: NDArray[np.float64],
    scales: NDArray[np.float64],
    gram: NDArray[np.float64],
    *,
    limit: int,
    taps: int,
    paired: bool,
) -> NDArray[np.float64]:
    """Codes (groups, outputs, summands) in [-limit, limit], never worse on `gram` than `nearest`.

    `nearest` itself where `gram` is zero, not finite, or not positive even with damping: values so small that
    their squares vanish in float32.

    `weight` and `nearest` have that shape, `scales` (groups, outputs), `gram` (groups, summands, summands).
    `taps` is the number of kernel positions of an input channel. With `paired`, no two neighbouring input
    channels of one sign sum above `PAIR_LIMIT` in magnitude; the number of channels must be even.
    """
    width = gram.shape[-1]
    if not np.isfinite(gram).all() or not gram.any():
        return nearest
    gram = gram / np.abs(gram).max()
    power = np.trace(gram, axis1=1, axis2=2) / width
    floor = np.maximum(power, power.max() * 1e-6)  # groups that never see a value
    damped = gram + (_DAMPING * floor)[:, None, None] * np.eye(width)
    order = _order(damped, taps=taps, paired=paired)
    ordered = damped[:, order][:, :, order]
    try:
        upper = np.linalg.cholesky(np.linalg.inv(ordered)).transpose(0, 2, 1).astype(np.float32)
    except np.linalg.LinAlgError:
        return nearest
    codes = np.empty_like(nearest)
    codes[:, :, order] = _sequential(weight[:, :, order], scales, upper, limit=limit, paired=paired)
    steps = scales[:, :, None]
    learned, plain = (output_errors(c * steps - weight, gram) for c in (codes, nearest))
    return np.where((learned < plain)[:, :, None], codes, nearest)


def _order(gram: NDArray[np.float64], *, taps: int, paired: bool) -> NDArray[np.int64]:
    """Columns by falling power of their inputs; the two of a pair stay side by side."""
    power = np.diagonal(gram, axis1=1, axis2=2).sum(axis=0)
    columns = np.arange(len(power))
    if not paired:
        return np.asarray(columns[np.argsort(-power, kind="stable")])
    pairs = columns.reshape(-1, 2, taps).transpose(0, 2, 1).reshape(-1, 2)
    return np.asarray(pairs[np.argsort(-power[pairs].sum(axis=1), kind="stable")].reshape(-1))


def _sequential(
    weight: NDArray[np.float64],
    scales: NDArray[np.float64],
    upper: NDArray[np.float32],
    *,
    limit: int,
    paired: bool,
) -> NDArray[np.float32]:
    free, steps = weight.astype(np.float32), scales.astype(np.float32)
    codes = np.zeros(weight.shape, np.float32)
    columns = weight.shape[2]
    for start in range(0, columns, _COLUMNS):
        end = min(start + _COLUMNS, columns)
        errors = np.zeros((*scales.shape, end - start), np.float32)
        for j in range(start, end):
            code = np.clip(np.rint(free[:, :, j] / steps), -limit, limit)
            if paired and j % 2 == 0:
                other = np.clip(np.rint(free[:, :, j + 1] / steps), -limit, limit)
                code = cap_pairs(np.stack([code, other], axis=-1).reshape(-1, 2))[:, 0].reshape(code.shape)
            elif paired:
                code = _beside(code, codes[:, :, j - 1])
            codes[:, :, j] = code
            error = (free[:, :, j] - code * steps) / upper[:, None, j, j]
            errors[:, :, j - start] = error
            free[:, :, j + 1 : end] -= error[:, :, None] * upper[:, None, j, j + 1 : end]
        free[:, :, end:] -= np.matmul(errors, upper[:, start:end, end:])
    return codes


def _beside(code: NDArray[np.float32], neighbour: NDArray[np.float32]) -> NDArray[np.float32]:
    """`code` brought to where it and its neighbour, if of one sign, sum to at most `PAIR_LIMIT`."""
    highest = np.where(neighbour > 0, PAIR_LIMIT - neighbour, np.inf)
    lowest = np.where(neighbour < 0, -PAIR_LIMIT - neighbour, -np.inf)
    return np.asarray(np.clip(code, lowest, highest), np.float32)
