"""Samples that cannot set ranges: all the same, or of one value."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgekit.core.samples.stream import Samples

__all__ = ["unchanging"]


def unchanging(samples: Samples) -> str:
    """What is wrong with float inputs that never change: "" for nothing.

    An input of one value in all samples, or of the same values in every one (of at least two). Reads samples
    until each float input was seen to change, of good samples two.
    """
    first: dict[str, NDArray[np.generic]] = {}
    one_value = {s.name for s in samples.specs if np.dtype(s.dtype).kind == "f"}
    same = set(one_value)
    for batch in samples.calls():
        for name in one_value | same:
            values = batch.inputs[name].reshape(len(batch), -1)
            start = first.setdefault(name, values[:1].copy())
            if not bool((values == start.flat[0]).all()):
                one_value.discard(name)
            if not bool((values == start).all()):
                same.discard(name)
        if not one_value | same:
            return ""
    if samples.count < 2:
        same = set()
    found = [f"{name!r} is {first[name].flat[0]:g} in all of them" for name in sorted(one_value)]
    found += [f"{name!r} is the same in all {samples.count}" for name in sorted(same - one_value)]
    return "; ".join(found)
