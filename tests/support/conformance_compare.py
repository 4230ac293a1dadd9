"""Whether an answer is the expected one. Knows nothing of engines."""

from __future__ import annotations

from typing import Any

import numpy as np

# The largest difference over the largest magnitude of the expected tensor. A sum of terms that cancel (a DFT,
# say) leaves values near zero with the rounding error of the large terms, which no relative bound on single
# values allows for.
TOLERANCE = {
    "float16": 2e-3,  # two units in the last place
    "float32": 1e-5,
    "float64": 1e-5,  # the suite's float64 cases were computed from float32 values
}


def first_difference(
    got: dict[str, Any], expected: list[Any], *, rtol: float, atol: float, steps: int = 0
) -> str:
    """What differs first, or "".

    A float passes within the suite's own bound on single values (`rtol`, `atol`) or within `TOLERANCE`;
    integers must be equal, 8-bit codes within `steps`.
    """
    for (name, array), wanted in zip(got.items(), expected, strict=True):
        if found := _difference(np.asarray(array), wanted, rtol=rtol, atol=atol, steps=steps):
            return f"{name}: {found}"
    return ""


def _difference(got: Any, expected: Any, *, rtol: float, atol: float, steps: int) -> str:
    if not isinstance(expected, np.ndarray):
        return f"an array, expected a {type(expected).__name__}"
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{got.dtype}{list(got.shape)}, expected {expected.dtype}{list(expected.shape)}"
    if got.dtype.kind not in "fc":
        allowed = steps if got.dtype in (np.int8, np.uint8) else 0
        apart = np.abs(got.astype(np.int64) - expected.astype(np.int64)) if got.dtype.kind in "iu" else None
        wrong = got != expected if apart is None or not allowed else apart > allowed
        return f"{np.count_nonzero(wrong)} of {wrong.size} values differ" if wrong.any() else ""
    a, b = got.astype(np.float64), expected.astype(np.float64)
    finite = np.abs(b[np.isfinite(b)])
    bound = TOLERANCE[expected.dtype.name] * float(finite.max(initial=0.0))
    near = np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
    near |= np.isclose(a, b, rtol=0.0, atol=bound, equal_nan=True)
    if near.all():
        return ""
    with np.errstate(invalid="ignore"):
        largest = np.abs(a - b)[~near].max()
    return f"{np.count_nonzero(~near)} of {near.size} values differ, by up to {largest:.3g}"
