"""Whether two runs of the same network answer alike. Knows arrays, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TOLERANCES", "Difference", "first_difference"]

# dtype -> largest difference allowed, as a share of the largest magnitude in the reference output.
# The share is of the whole output, not of each value: rounding errors of a sum grow with its terms, and a
# value near zero is the difference of large ones.
TOLERANCES: dict[str, float] = {
    # eps 1.2e-7; sums of 1e3 to 1e5 products in another order: 2e-5 at most over 12 real models.
    "float32": 1e-4,
    # The reference computes in float64 too; 1e-4 scaled by the ratio of the eps, with room.
    "float64": 1e-9,
    # eps 9.8e-4; engines differ in whether they sum in half or single precision.
    "float16": 1e-2,
    # Codes of a quantized tensor: a value on the border of two codes may take either: one code.
    "int8": 1.0,
    "uint8": 1.0,
}
_EXACT = 0.0  # indices, classes, masks
_FLOOR = 1e-6  # magnitude under which an output counts as zero, so that 1e-12 is not held to 1e-16


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first output that differs: by how much, and how much is allowed (both absolute)."""

    output: str
    what: str
    largest: float
    allowed: float

    def __str__(self) -> str:
        return f"output {self.output!r}: {self.what}"


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
    scale = max(float(np.abs(a[finite]).max()), _FLOOR) if expected.dtype.kind == "f" else 1.0
    allowed = tolerance * scale
    largest = float(np.abs(a[finite] - b[finite]).max())
    if largest <= allowed:
        return None
    return _differs(
        name, f"differs by up to {largest:.3g} where {allowed:.3g} is allowed (values reach {scale:.3g})",
        largest, allowed,
    )  # fmt: skip
