"""Whether an answer is the expected one. Knows nothing of engines."""

from __future__ import annotations

import json
from collections import Counter
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
    got: dict[str, Any],
    expected: list[Any],
    *,
    rtol: float,
    atol: float,
    steps: int = 0,
    bound: float | None = None,
) -> str:
    """What differs first, or "".

    A float passes within the suite's own bound on single values (`rtol`, `atol`) or within `TOLERANCE`;
    integers must be equal, 8-bit codes within `steps`. With `bound`, no float may differ by more than it.
    """
    for (name, array), wanted in zip(got.items(), expected, strict=True):
        found = _difference(np.asarray(array), wanted, rtol=rtol, atol=atol, steps=steps, bound=bound)
        if found:
            return f"{name}: {found}"
    return ""


def step_counts(got: dict[str, Any], expected: list[Any], step: float) -> str:
    """How many values are 0, 1, 2 … steps apart, as JSON."""
    counts: Counter[int] = Counter()
    for array, wanted in zip(got.values(), expected, strict=True):
        counts.update(np.rint(np.abs(array - wanted) / step).astype(int).ravel().tolist())
    return json.dumps(dict(sorted(counts.items())))


def _difference(got: Any, expected: Any, *, rtol: float, atol: float, steps: int, bound: float | None) -> str:
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
    if bound is None:
        largest = float(np.abs(b[np.isfinite(b)]).max(initial=0.0))
        near = np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=True)
        near |= np.isclose(a, b, rtol=0.0, atol=TOLERANCE[expected.dtype.name] * largest, equal_nan=True)
    else:
        near = np.isclose(a, b, rtol=0.0, atol=bound, equal_nan=True)
    if near.all():
        return ""
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)[~near].max()
    return f"{np.count_nonzero(~near)} of {near.size} values differ, by up to {apart:.3g}"
