"""Latency by interleaved rounds, and what may be claimed from it.

A machine drifts (clock, heat, neighbours), so artifacts that are timed one after the other are timed on
different machines. Here every round times every artifact for a few calls, in an order shuffled anew, and a
speed-up is judged round by round: what a round has in common cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.core.report import Latency, Speedup
from edgekit.errors import EdgekitError, UsageError
from edgekit.measure.statistics import bootstrap_interval

__all__ = ["TimedWorker", "measure_latency", "paired_speedup", "summarize"]

_ROUND_MS = 30.0  # the timed part of one artifact's turn
_MOST_CALLS = 1000
# With fewer rounds even a sign test in which all rounds agree does not reach 5 %: 2 * 0.5**5 > 0.05.
_FEWEST_ROUNDS = 6


class TimedWorker(Protocol):
    """What can time an artifact (see `edgekit.devices.local.Worker`)."""

    def time(self, inputs: Mapping[str, NDArray[Any]], *, runs: int, warmup: int) -> NDArray[np.int64]:
        """Durations in nanoseconds of `runs` calls after `warmup` untimed ones."""
        ...


def measure_latency(
    workers: Mapping[str, TimedWorker],
    inputs: Mapping[str, Mapping[str, NDArray[Any]]],
    *,
    rounds: int,
    warmup: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, EdgekitError]]:
    """Time loaded workers against each other; `inputs` and the results go by the workers' names.

    After `warmup` calls of each, every round gives every worker one turn of about 30 ms: one untimed call in
    four (another process has just used the caches), then its calls, their number chosen once from the warm-up
    (1 to 1000). The order of the turns is shuffled by a fixed seed. `on_progress(done, total)` counts rounds.

    Returns the durations in ms, shape [rounds, calls], of the workers that lived, and the errors of those
    that did not; a failure ends the turns of that worker alone.
    """
    if rounds < 1 or warmup < 0:
        raise UsageError(f"rounds: {rounds!r}, warmup: {warmup!r}; at least 1 round and 0 warm-up calls")
    failures: dict[str, EdgekitError] = {}
    times: dict[str, NDArray[np.float64]] = {}
    for name, worker in workers.items():
        try:
            probe = worker.time(inputs[name], runs=max(1, warmup), warmup=0)
        except EdgekitError as err:
            failures[name] = err
        else:
            times[name] = np.zeros((rounds, _calls_per_round(probe)), dtype=np.float64)
    random = np.random.default_rng(0)
    for turn in range(rounds):
        names = list(times)
        for name in (names[i] for i in random.permutation(len(names))):
            calls = times[name].shape[1]
            try:
                taken = workers[name].time(inputs[name], runs=calls, warmup=-(-calls // 4))
            except EdgekitError as err:
                failures[name] = err
                del times[name]
            else:
                times[name][turn] = taken / 1e6
        on_progress(turn + 1, rounds)
    return times, failures


def summarize(times_ms: NDArray[np.float64], *, warmup: int, threads: int) -> Latency:
    """Median, 90th and 99th percentile over all timed calls [rounds, calls], in ms."""
    if times_ms.size == 0:
        raise UsageError("no timed calls to summarize", hint="measure at least one round")
    median, p90, p99 = (float(q) for q in np.percentile(times_ms, [50, 90, 99]))
    return Latency(median=median, p90=p90, p99=p99, n=times_ms.size, warmup=warmup, threads=threads)


def paired_speedup(
    baseline_ms: NDArray[np.float64], artifact_ms: NDArray[np.float64], *, seed: int = 0
) -> Speedup:
    """How many times faster the artifact is than the baseline, both [rounds, calls] of the same rounds.

    The ratio is the median over rounds of (median baseline / median artifact); its 95 % interval is the
    percentile bootstrap over rounds. "faster" or "slower" is claimed when the interval leaves out 1 and there
    are at least 6 rounds. Raises `UsageError` when the rounds are not the same.
    """
    shapes = (baseline_ms.shape, artifact_ms.shape)
    if any(len(s) != 2 or 0 in s for s in shapes) or shapes[0][0] != shapes[1][0]:
        raise UsageError(
            f"timings of shapes {shapes[0]} and {shapes[1]} are not paired",
            hint="measure both in one call of measure_latency",
        )
    ratios = np.median(baseline_ms, axis=1) / np.median(artifact_ms, axis=1)
    interval = bootstrap_interval(lambda rows: np.median(ratios[rows], axis=1), len(ratios), seed=seed)
    return Speedup(ratio=float(np.median(ratios)), interval=interval, claim=_claim(interval, len(ratios)))


def _claim(interval: tuple[float, float], rounds: int) -> Literal["faster", "slower", "inconclusive"]:
    low, high = interval
    if rounds < _FEWEST_ROUNDS or low <= 1.0 <= high:
        return "inconclusive"
    return "faster" if low > 1.0 else "slower"


def _calls_per_round(probe_ns: NDArray[np.int64]) -> int:
    """Calls that fill a turn; the first half of the warm-up, where caches fill, is left out."""
    typical_ms = float(np.median(probe_ns[len(probe_ns) // 2 :])) / 1e6
    return int(np.clip(round(_ROUND_MS / max(typical_ms, 1e-6)), 1, _MOST_CALLS))
