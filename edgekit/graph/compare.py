"""Whether two runs of the same network answer alike. Knows arrays, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCES", "Difference", "Tolerance", "first_difference"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Allowed: `share` of the largest magnitude in the reference output, plus `absolute`.

    The share is of the whole output, not of each value: rounding errors of a sum grow with its terms, and a
    value near zero is the difference of large ones.
    """

    share: float
    absolute: float


_EXACT = Tolerance(share=0.0, absolute=0.0)  # indices, classes, masks

TOLERANCES: dict[str, Tolerance] = {
    # eps 1.2e-7; sums of 1e3 to 1e5 products in another order: 2e-5 at most over 12 real models. 1e-6 is for
    # saturated outputs: a sigmoid of -10 is 5e-5, and the rounding error of its argument is a relative one.
    "float32": Tolerance(share=1e-4, absolute=1e-6),
    # eps 2.2e-16; the reference computes in float64 too. Constants that an exporter rounded to float32 show.
    "float64": Tolerance(share=1e-9, absolute=1e-12),
    # eps 9.8e-4; engines differ in whether they sum in half or single precision.
    "float16": Tolerance(share=1e-2, absolute=1e-4),
    # Codes of a quantized tensor: a value on the border of two codes may take either.
    "int8": Tolerance(share=0.0, absolute=1.0),
    "uint8": Tolerance(share=0.0, absolute=1.0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first output that differs: by how much, and how much is allowed (both absolute).

    `first` names what inside the network differs first; "" when nobody looked, or nothing was found.
    """

    output: str
    what: str
    largest: float
    allowed: float
    first: str = ""

    def __str__(self) -> str:
        where = f"; the first to differ is {self.first}" if self.first else ""
        return f"output {self.output!r}: {self.what}{where}"


def first_difference(
    reference: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]
) -> Difference | None:
    """The first output of `reference` (in its order) that `got` answers otherwise; None when all agree.

    Outputs are paired by name. Names, shapes and dtypes must be equal; NaN and infinities must stand in the
    same places.
    """
    for name, expected in reference.items():
        if name not in got:
            return _differs(name, f"is missing; there are {', '.join(map(repr, got))}")
        problem = _compare(name, np.asarray(expected), np.asarray(got[name]))
        if problem is not None:
            return problem
    if extra := sorted(set(got) - set(reference)):
        return _differs(extra[0], "is no output of the reference")
    return None


def _differs(output: str, what: str, largest: float = float("inf"), allowed: float = 0.0) -> Difference:
    return Difference(output=output, what=what, largest=largest, allowed=allowed)


def _compare(name: str, expected: NDArray[Any], got: NDArray[Any]) -> Difference | None:
    if expected.shape != got.shape:
        return _differs(name, f"has the shape {got.shape}, {expected.shape} is expected")
    if expected.dtype != got.dtype:
        return _differs(name, f"is {got.dtype}, {expected.dtype} is expected")
    if not expected.size:
        return None
    if expected.dtype.kind not in "fiu":
        wrong = int(np.count_nonzero(expected != got))
        return _differs(name, f"{wrong} of {expected.size} values differ") if wrong else None
    a, b = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return _differs(name, "NaN or infinity stands in other places")
    if not finite.any():
        return None
    tolerance = TOLERANCES.get(expected.dtype.name, _EXACT)
    scale = float(np.abs(a[finite]).max())
    allowed = tolerance.share * scale + tolerance.absolute
    largest = float(np.abs(a[finite] - b[finite]).max())
    if largest <= allowed:
        return None
    return _differs(
        name, f"differs by up to {largest:.3g} where {allowed:.3g} is allowed (values reach {scale:.3g})",
        largest, allowed,
    )  # fmt: skip
