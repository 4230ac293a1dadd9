"""What files answer to judged samples, and how near that is to what the float network answered."""

from __future__ import annotations

from typing import Any

import numpy as np
from judged import Fold, Judged

__all__ = ["ask", "sqnr_db", "tied", "top1"]

WHOLE = 64  # samples of which every output is kept


def ask(worker: Any, judged: Judged, fold: Fold) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The judged output of every sample, and every output of the first ones. A stream carries its state."""
    count = len(next(iter(fold.judged.values())))
    starts = set(np.cumsum([0, *judged.streams]).tolist())
    name = judged.output or worker.outputs[0].name
    main: list[np.ndarray] = []
    first: list[dict[str, np.ndarray]] = []
    state = None
    for i in range(count):
        inputs = inputs_of(worker, fold.judged, i)
        if judged.streams:
            state = np.zeros_like(inputs["state"]) if i in starts else state
            inputs["state"] = state
        outputs = worker.run(inputs)
        state = outputs.get("stateN")
        main.append(outputs[name])
        if len(first) < WHOLE:
            first.append(outputs)
    return np.concatenate(main), {k: np.stack([o[k] for o in first]) for k in first[0]}


def inputs_of(worker: Any, samples: dict[str, np.ndarray], i: int) -> Any:
    """One sample as the artifact takes it; an input without a batch axis comes whole."""
    found = {}
    for port in worker.inputs:
        values = samples[port.name]
        one = values[i] if len(port.shape) == values.ndim - 1 else values[i : i + 1]
        found[port.name] = np.ascontiguousarray(one)
    return found


def top1(answers: np.ndarray) -> np.ndarray:
    """The largest class of every sample; of a single value whether it is above 0.5."""
    flat = answers.reshape(len(answers), -1)
    return flat.argmax(axis=1) if flat.shape[1] > 1 else flat[:, 0] > 0.5


def tied(answers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether the class that `answers` name has the largest score of `others`, too: integers tie."""
    if answers.shape[1] < 2:
        return np.zeros(len(answers), bool)
    named = np.take_along_axis(others, answers.argmax(axis=1)[:, None], axis=1)[:, 0]
    return named == others.max(axis=1)


def sqnr_db(expected: list[np.ndarray], got: list[np.ndarray]) -> float:
    """Signal over noise of all values of all folds."""
    signal = np.concatenate([e.ravel() for e in expected]).astype(np.float64)
    noise = signal - np.concatenate([g.ravel() for g in got])
    return float(10 * np.log10(max(np.sum(signal**2), 1e-30) / max(np.sum(noise**2), 1e-30)))
