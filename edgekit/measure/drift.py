"""How far an artifact's output is from the source model's, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import InternalError, StepError

__all__ = ["MAX_SQNR_DB", "Drift", "DriftResult", "check_outputs", "class_scores"]

MAX_SQNR_DB = 200.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftResult:
    """Drift of one output over `n` samples.

    `top1_agreement`: share (0..1) of samples whose largest score is at the same class; None when the output
    is not a row of class scores. `sqnr_db`: 10 log10(sum s^2 / sum (s - a)^2), cut off at +-200 dB so that it
    stays a number: 200 means identical. `cosine`: mean cosine similarity a sample (two zero vectors count 1,
    one zero vector 0). `max_abs`: the largest absolute difference of any value.
    """

    top1_agreement: float | None
    sqnr_db: float
    cosine: float
    max_abs: float
    n: int


@dataclass(slots=True, kw_only=True)
class Drift:
    """Accumulates drift of the output `name` batch by batch, in float64.

    The largest score is the first one among equals (quantized scores often tie).
    """

    name: str = "output"
    n: int = 0
    _signal: float = 0.0
    _noise: float = 0.0
    _cosine: float = 0.0
    _max_abs: float = 0.0
    _agreed: int = 0
    _is_scores: bool = field(default=True)

    def update(self, source: NDArray[Any], artifact: NDArray[Any]) -> None:
        """Add a batch: both [n, ...] of one shape, in the source model's layout, real (dequantized) values.

        Raises `StepError` when an output is not finite or the shapes differ: the artifact is then broken.
        """
        check_outputs(source, "the source model", self.name)
        check_outputs(artifact, "the artifact", self.name)
        if source.shape != artifact.shape:
            raise StepError(
                f"output {self.name!r}: the artifact gave shape {list(artifact.shape)}, the source model "
                f"{list(source.shape)}"
            )
        if len(source) == 0:
            return
        s = source.reshape(len(source), -1).astype(np.float64)
        a = artifact.reshape(len(artifact), -1).astype(np.float64)
        difference = s - a
        self._signal += float(np.vdot(s, s))
        self._noise += float(np.vdot(difference, difference))
        self._max_abs = max(self._max_abs, float(np.abs(difference).max(initial=0.0)))
        self._cosine += float(_cosine(s, a).sum())
        scores = class_scores(source)
        if scores is None:
            self._is_scores = False
        else:
            other = artifact.reshape(scores.shape)
            self._agreed += int(np.count_nonzero(scores.argmax(axis=1) == other.argmax(axis=1)))
        self.n += len(source)

    def result(self) -> DriftResult:
        """The drift of everything added so far."""
        if self.n == 0:
            raise InternalError("drift was asked for before any sample was compared")
        return DriftResult(
            top1_agreement=self._agreed / self.n if self._is_scores else None,
            sqnr_db=_sqnr_db(self._signal, self._noise),
            cosine=self._cosine / self.n,
            max_abs=self._max_abs,
            n=self.n,
        )


def class_scores(output: NDArray[Any]) -> NDArray[Any] | None:
    """The output as [n, classes] when it is a row of at least two scores a sample, else None.

    [n, C] is, and [n, C, 1, 1] and [n, 1, 1, C] are. Maps ([n, C, H, W]) and sequences ([n, T, C]) are not:
    which axis holds the classes cannot be known.
    """
    wide = [d for d in output.shape[1:] if d != 1]
    return output.reshape(len(output), wide[0]) if len(wide) == 1 else None


def check_outputs(values: NDArray[Any], whose: str, name: str) -> None:
    """Refuse outputs that hold NaN or infinity: a typed failure (`StepError`), never a figure."""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise StepError(
            f"{whose} gave NaN or infinity in output {name!r} ({bad} of {values.size} values of the batch)"
        )


def _cosine(s: NDArray[np.float64], a: NDArray[np.float64]) -> NDArray[np.float64]:
    norm_s, norm_a = np.linalg.norm(s, axis=1), np.linalg.norm(a, axis=1)
    both = norm_s * norm_a
    dots = np.einsum("ij,ij->i", s, a)
    same = ((norm_s == 0) & (norm_a == 0)).astype(np.float64)
    cosine: NDArray[np.float64] = np.divide(dots, both, out=same, where=both > 0)
    return np.clip(cosine, -1.0, 1.0)


def _sqnr_db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return MAX_SQNR_DB
    if signal == 0.0:
        return -MAX_SQNR_DB
    return float(np.clip(10.0 * np.log10(signal / noise), -MAX_SQNR_DB, MAX_SQNR_DB))
