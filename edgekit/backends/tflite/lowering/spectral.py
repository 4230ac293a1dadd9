"""Fourier transforms of fixed length: products with constant matrices of sines and cosines."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Array
from edgekit.backends.tflite.lowering.compose import linear
from edgekit.backends.tflite.op import Op, Refusal, inverse
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS"]


def _matrix(length: int, bins: int, terms: int, parts: int, *, backward: bool) -> Array:
    """(bins, 2, terms, parts): from `terms` numbers, real (1 part) or complex (2), to complex ones."""
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(terms)) / length * (1 if backward else -1)
    cos, sin = np.cos(angle), np.sin(angle)
    full = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], 1)
    full[:, :, length:] = 0  # a signal beyond the length is cut off
    return np.asarray(full[..., :parts] / (length if backward else 1))


def _real_again(length: int, terms: int) -> Array:
    """(length, 1, terms, 2): the real signal behind the first half of its spectrum."""
    full = _matrix(length, length, terms, 2, backward=True)[:, :1]
    twice = np.full(terms, 2.0)
    twice[0] = 1
    if length % 2 == 0 and terms > length // 2:
        twice[length // 2] = 1
    return np.asarray(full * twice[:, None])


def dft(op: Op) -> None:
    x, out, rank = op.input(), op.out_shape(), len(op.shape())
    (axis,) = op.ints(2, (op.attr("axis", 1 if op.has(2) or "axis" in op.node.attributes else rank - 2),))
    axis %= rank
    backward, half = bool(op.attr("inverse", 0)), bool(op.attr("onesided", 0))
    terms, parts = x.shape[axis], x.shape[-1]
    (length,) = op.ints(1, (2 * (terms - 1) if backward and half else terms,))
    if backward and half:
        matrix = _real_again(length, terms)
    else:
        matrix = _matrix(length, out[axis], terms, parts, backward=backward)
    perm = (*(i for i in range(rank - 1) if i != axis), axis, rank - 1)
    rows = op.transpose(x, perm)
    flat = op.reshape(rows, (*rows.shape[:-2], terms * parts))
    weight = matrix.reshape(matrix.shape[0] * matrix.shape[1], terms * parts)
    y = linear(op, flat, op.const(weight.astype(np.float32)))
    y = op.reshape(y, (*rows.shape[:-2], *matrix.shape[:2]))
    op.result(op.transpose(y, inverse(perm)))


def stft(op: Op) -> None:
    """One convolution: its kernels are the windowed sines and cosines, its stride the step between frames."""
    x, out, (step,) = op.input(), op.out_shape(), op.ints(1)
    window = op.constant(2)
    if op.has(2) and window is None:
        raise Refusal("STFT with a computed window", "make it constant")
    given = window.size if window is not None else 0
    (length,) = op.ints(3, (given,))
    bins = length // 2 + 1 if op.attr("onesided", 1) else length
    if out[2] != bins:  # the shape inference of onnx forgets the default of `onesided`
        raise Refusal(f"STFT of {bins} bins whose output has {out[2]}", "write onesided = 1 into the node")
    signal = x if len(x.shape) == 3 else op.reshape(x, (*x.shape, 1))
    batch, size, parts = signal.shape
    matrix = _matrix(length, out[2], length, parts, backward=False)
    if window is not None:
        matrix = matrix * window.astype(np.float64).ravel()[:, None]
    kernels = matrix.reshape(out[2] * 2, 1, length, parts).astype(np.float32)
    y = op.emit(
        "CONV_2D",
        [
            op.reshape(signal, (batch, 1, size, parts)),
            op.const(kernels),
            op.const(np.zeros(out[2] * 2, np.float32)),
        ],
        (batch, 1, out[1], out[2] * 2),
        padding="VALID",
        stride_h=1,
        stride_w=step,
        dilation_h_factor=1,
        dilation_w_factor=1,
        fused_activation_function="NONE",
    )
    op.result(op.reshape(y, out))


OPERATORS = {
    "DFT": Lowering(emit=dft),
    "STFT": Lowering(emit=stft),
}
