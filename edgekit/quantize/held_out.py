"""Samples that teach nothing, by which a quantized network is judged: every fourth of the first 128."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.quantize.cut_graph import Cut

__all__ = ["HELD_OUT", "SAMPLES", "Batches", "Levels", "is_held_out", "is_lower", "levels_of", "teaching"]

SAMPLES = 128  # more of them changed nothing that was measured
HELD_OUT = 4  # every fourth sample judges what the others taught

Batches = Iterable[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """In dB, the mean of a network's float outputs: `signal` (samples), `noise` (graphs, samples)."""

    signal: NDArray[np.float64]
    noise: NDArray[np.float64]


def is_held_out(number: int) -> bool:
    """Whether sample `number` judges."""
    return number % HELD_OUT == HELD_OUT - 1


def teaching(batches: Batches) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The samples that do not judge."""
    return (inputs for number, inputs in enumerate(islice(batches, SAMPLES)) if not is_held_out(number))


def levels_of(model: Any, graphs: Sequence[Any], batches: Batches, *, most: int = SAMPLES) -> Levels:
    """What the float `model` answers to at most so many samples held out, and the noise of each graph."""
    from onnx import TensorProto

    names = [o.name for o in model.graph.output if o.type.tensor_type.elem_type == TensorProto.FLOAT]
    cuts = [Cut(graph, names) for graph in (model, *graphs)]
    judging = (i for number, i in enumerate(islice(batches, SAMPLES)) if is_held_out(number))
    powers = []
    for inputs in islice(judging, most):
        expected, *answers = (
            {n: values.astype(np.float64) for n, values in cut.run(inputs).items()} for cut in cuts
        )
        errors = [[np.square(got[n] - expected[n]).sum() for n in names] for got in answers]
        powers.append([[np.square(expected[n]).sum() for n in names], *errors])
    found = np.array(powers).reshape(len(powers), len(cuts), len(names))
    signal, *noise = 10 * np.log10(np.maximum(found, 1e-300)).mean(axis=2).T
    return Levels(signal=signal, noise=np.array(noise))


def is_lower(noise_db: NDArray[np.float64]) -> bool:
    """Whether the second row lies below the first by more than two standard errors of their difference."""
    difference = noise_db[1] - noise_db[0]
    certain = 2 * difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return bool(difference.mean() < -certain)
