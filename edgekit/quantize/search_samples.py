"""The samples on which mixtures are compared, held in memory: some, evenly spread over what is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.model import Signature
from edgekit.core.recipe import DataSource
from edgekit.core.samples import open_samples

__all__ = ["SearchSamples", "read_search_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSamples:
    """Inputs of single calls, and the labels [n, ...] of all of them together, or None."""

    inputs: tuple[dict[str, NDArray[Any]], ...]
    labels: NDArray[Any] | None
    count: int


def read_search_samples(
    data: DataSource, signature: Signature, *, need_labels: bool, most: int, wanted: Callable[[int], bool]
) -> SearchSamples:
    """The calls of `data` whose number is `wanted`, at most `most` samples, evenly spread.

    Raises `UsageError` as `open_samples` does.
    """
    samples = open_samples(data, signature, need_labels=need_labels)
    size = samples.model_batch
    numbers = [n for n in range(samples.count // size) if wanted(n)]
    step = max(1.0, len(numbers) * size / most)
    chosen = {numbers[int(i * step)] for i in range(int(len(numbers) / step))} or set(numbers[:1])
    inputs, labels = [], []
    for number, batch in enumerate(samples.calls()):
        if number in chosen:
            inputs.append(dict(batch.inputs))
            if batch.labels is not None:
                labels.append(batch.labels)
    return SearchSamples(
        inputs=tuple(inputs),
        labels=np.concatenate(labels) if labels else None,
        count=len(inputs) * size,
    )
