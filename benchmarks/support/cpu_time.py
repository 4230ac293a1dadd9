"""CPU time of artifacts of one engine, in one process, in interleaved rounds.

A script: `cpu_time.py SAMPLES.npz ROUNDS THREADS NAME=FOLDER ...` prints "times_ms", {name: [rounds][calls]},
and "errors", {name: why it does not run}. CPU time does not count what other processes take; that of the
engine's own threads is counted. Inputs are the first sample, in the layout and dtype of the engine: the call
alone is measured.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_TURN_MS = 30.0
_WARMUP = 10


def main(samples: Path, rounds: int, threads: int, artifacts: dict[str, Path]) -> dict[str, Any]:
    """Times of every artifact that loads, and the errors of those that do not."""
    from edgekit.errors import EdgekitError
    from edgekit.runtime import Session

    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files}
    calls: dict[str, tuple[Session, Any]] = {}
    errors = {}
    for name, folder in artifacts.items():
        try:
            session = Session(folder, threads=threads)
            calls[name] = session, session.prepare(_inputs(session, arrays))
            session.invoke(calls[name][1])
        except EdgekitError as err:
            calls.pop(name, None)
            errors[name] = str(err).splitlines()[0]
    counts = {}
    for name in calls:
        _timed(*calls[name], _WARMUP)
        counts[name] = int(np.clip(_TURN_MS / max(np.median(_timed(*calls[name], _WARMUP)), 1e-3), 1, 1000))
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for name in random.permutation(list(calls)).tolist():
            _timed(*calls[name], -(-counts[name] // 4))  # another has just used the caches
            times[name].append(_timed(*calls[name], counts[name]))
    return {"times_ms": times, "errors": errors}


def _timed(session: Any, prepared: Any, count: int) -> list[float]:
    taken = []
    for _ in range(count):
        start = time.process_time_ns()
        session.invoke(prepared)
        taken.append((time.process_time_ns() - start) / 1e6)
    return taken


def _inputs(session: Any, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for port in session.inputs:
        values = arrays[port.name]
        one = values[0] if len(port.shape) == values.ndim - 1 else values[:1]
        found[port.name] = np.ascontiguousarray(one.transpose(port.axes) if port.axes else one)
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    given, rounds, threads, *named = sys.argv[1:]
    folders = {name: Path(folder) for name, _, folder in (n.partition("=") for n in named)}
    print(json.dumps(main(Path(given), int(rounds), int(threads), folders)))
