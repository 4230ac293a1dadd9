"""Interleaved timing and what is claimed from it, on synthetic machines that drift, jitter and stall."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.errors import StepError, UsageError
from edgekit.measure.latency import measure_latency, paired_speedup, summarize


class Machine:
    """A clock that several workers share; `slowness(t_ms)` is what the machine does to all of them."""

    def __init__(self, slowness=lambda now_ms: 1.0):
        self.now_ms = 0.0
        self.slowness = slowness
        self.turns = []


class Timed:
    """A worker of known latency on a shared machine."""

    def __init__(self, machine, name, ms, *, noise=0.0, seed=0, dies_at=None):
        self.machine, self.name, self.ms, self.noise = machine, name, ms, noise
        self.random = np.random.default_rng(seed)
        self.dies_at = dies_at
        self.calls = []

    def time(self, inputs, *, runs, warmup):
        self.calls.append((runs, warmup))
        self.machine.turns.append(self.name)
        if self.dies_at is not None and len(self.calls) > self.dies_at:
            raise StepError("crashed with SIGSEGV", kind="crashed")
        taken = []
        for _ in range(warmup + runs):
            ms = self.ms * self.machine.slowness(self.machine.now_ms)
            ms *= float(np.exp(self.random.normal(scale=self.noise)))
            self.machine.now_ms += ms
            taken.append(ms * 1e6)
        return np.array(taken[warmup:]).astype(np.int64)


def _measure(workers, *, rounds=40, warmup=4, **more):
    named = {w.name: w for w in workers}
    return measure_latency(named, {n: {} for n in named}, rounds=rounds, warmup=warmup, **more)


def _speedup(*, base_ms, ms, slowness=lambda now_ms: 1.0, noise=0.05, seed=0, rounds=40):
    machine = Machine(slowness)
    workers = [Timed(machine, "base", base_ms, noise=noise, seed=2 * seed + 1),
               Timed(machine, "new", ms, noise=noise, seed=2 * seed + 2)]  # fmt: skip
    times, failures = _measure(workers, rounds=rounds)
    assert failures == {}
    return paired_speedup(times["base"], times["new"])


def test_times_are_milliseconds_by_round_and_call():
    machine = Machine()
    times, failures = _measure([Timed(machine, "slow", 100.0), Timed(machine, "fast", 3.0)], rounds=5)
    assert failures == {}
    assert times["slow"].shape == (5, 1)
    assert times["fast"].shape == (5, 10)
    np.testing.assert_allclose(times["slow"], 100.0)
    np.testing.assert_allclose(times["fast"], 3.0)


def test_the_calls_of_a_turn_are_chosen_once_and_bounded():
    machine = Machine()
    tiny, huge = Timed(machine, "tiny", 1e-4), Timed(machine, "huge", 5000.0)
    times, _ = _measure([tiny, huge], rounds=3, warmup=2)
    assert times["tiny"].shape == (3, 1000)
    assert times["huge"].shape == (3, 1)
    assert tiny.calls == [(2, 0), *[(1000, 250)] * 3]
    assert huge.calls == [(2, 0), *[(1, 1)] * 3]


def test_without_warm_up_one_call_is_made_to_choose_the_turn():
    worker = Timed(Machine(), "a", 10.0)
    times, _ = _measure([worker], rounds=2, warmup=0)
    assert worker.calls == [(1, 0), (3, 1), (3, 1)]
    assert times["a"].shape == (2, 3)


def test_every_round_gives_each_worker_one_turn_in_a_shuffled_but_fixed_order():
    orders = []
    for _ in range(2):
        machine = Machine()
        _measure([Timed(machine, n, 30.0) for n in "abc"], rounds=30)
        turns = machine.turns[3:]
        orders.append([tuple(turns[i : i + 3]) for i in range(0, len(turns), 3)])
    assert orders[0] == orders[1]
    assert all(sorted(order) == ["a", "b", "c"] for order in orders[0])
    assert len(set(orders[0])) == 6
    for position in range(3):
        first = [order[position] for order in orders[0]]
        assert min(first.count(n) for n in "abc") >= 4


def test_a_worker_that_dies_is_reported_and_the_others_finish():
    machine = Machine()
    workers = [Timed(machine, "good", 10.0), Timed(machine, "late", 10.0, dies_at=3),
               Timed(machine, "early", 10.0, dies_at=0)]  # fmt: skip
    times, failures = _measure(workers, rounds=8)
    assert set(times) == {"good"}
    assert times["good"].shape == (8, 3)
    assert (times["good"] > 0).all()
    assert {name: error.kind for name, error in failures.items()} == {"late": "crashed", "early": "crashed"}
    assert machine.turns.count("late") == 4


def test_progress_counts_rounds():
    seen = []
    worker = Timed(Machine(), "a", 10.0)
    _measure([worker], rounds=3, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_no_rounds_are_refused():
    with pytest.raises(UsageError, match="at least 1 round"):
        measure_latency({}, {}, rounds=0, warmup=1)


def test_a_summary_holds_the_percentiles_of_all_calls():
    times = np.arange(1.0, 101.0).reshape(10, 10)
    latency = summarize(times, warmup=7, threads=2)
    assert (latency.median, latency.n, latency.warmup, latency.threads) == (50.5, 100, 7, 2)
    assert latency.p90 == pytest.approx(90.1)
    assert latency.p99 == pytest.approx(99.01)


def test_nothing_cannot_be_summarized():
    with pytest.raises(UsageError, match="no timed calls"):
        summarize(np.zeros((0, 3)), warmup=0, threads=1)


@pytest.mark.parametrize(("ms", "ratio", "claim"), [(5.0, 2.0, "faster"), (15.0, 2 / 3, "slower")])
def test_a_clear_difference_is_claimed_with_its_size(ms, ratio, claim):
    speedup = _speedup(base_ms=10.0, ms=ms)
    assert speedup.claim == claim
    assert speedup.ratio == pytest.approx(ratio, rel=0.03)
    assert speedup.interval[0] <= speedup.ratio <= speedup.interval[1]


def test_a_small_difference_survives_a_machine_that_drifts_to_half_its_speed():
    def heat(now_ms):
        return 1.0 + now_ms / 4000.0

    speedup = _speedup(base_ms=10.0, ms=9.0, slowness=heat, noise=0.02)
    assert heat(40 * 80.0) > 1.7
    assert speedup.claim == "faster"
    assert speedup.ratio == pytest.approx(10 / 9, rel=0.03)


def test_stalls_of_single_calls_do_not_move_the_ratio():
    random = np.random.default_rng(5)
    base, new = np.full((40, 5), 10.0), np.full((40, 5), 8.0)
    new[random.random(new.shape) < 0.1] *= 50
    base *= np.exp(random.normal(scale=0.02, size=base.shape))
    speedup = paired_speedup(base, new)
    assert speedup.claim == "faster"
    assert speedup.ratio == pytest.approx(1.25, rel=0.03)


def test_two_equal_artifacts_are_seldom_told_apart():
    claims = [_speedup(base_ms=10.0, ms=10.0, noise=0.1, seed=seed).claim for seed in range(100)]
    assert claims.count("inconclusive") >= 88


def test_two_equal_artifacts_on_a_drifting_machine_are_seldom_told_apart():
    def breathe(now_ms):
        return 1.0 + 0.5 * np.sin(now_ms / 700.0) + now_ms / 5000.0

    claims = [
        _speedup(base_ms=10.0, ms=10.0, slowness=breathe, noise=0.05, seed=seed).claim for seed in range(100)
    ]
    assert claims.count("inconclusive") >= 88


def test_timing_one_after_the_other_would_have_been_fooled_by_that_drift():
    machine = Machine(lambda now_ms: 1.0 + now_ms / 4000.0)
    base, new = Timed(machine, "base", 10.0), Timed(machine, "new", 9.0)
    first = base.time({}, runs=160, warmup=0)
    second = new.time({}, runs=160, warmup=0)
    assert np.median(second) > np.median(first)


def test_fewer_than_six_rounds_claim_nothing():
    base, new = np.full((5, 3), 10.0), np.full((5, 3), 5.0)
    assert paired_speedup(base, new).claim == "inconclusive"
    base, new = np.full((6, 3), 10.0), np.full((6, 3), 5.0)
    assert paired_speedup(base, new).claim == "faster"


def test_an_artifact_against_itself_is_inconclusive():
    times = np.random.default_rng(0).random((20, 4)) + 1
    speedup = paired_speedup(times, times)
    assert (speedup.ratio, speedup.interval, speedup.claim) == (1.0, (1.0, 1.0), "inconclusive")


def test_the_same_seed_gives_the_same_interval():
    random = np.random.default_rng(0)
    base, new = random.random((20, 4)) + 1, random.random((20, 4)) + 1
    assert paired_speedup(base, new, seed=3) == paired_speedup(base, new, seed=3)
    assert len({paired_speedup(base, new, seed=seed).interval for seed in range(10)}) > 1


@pytest.mark.parametrize("shape", [(19, 4), (0, 4), (20, 0), (20,)])
def test_timings_of_other_rounds_are_not_paired(shape):
    with pytest.raises(UsageError, match="not paired"):
        paired_speedup(np.ones((20, 4)), np.ones(shape))


def test_artifacts_may_have_different_numbers_of_calls():
    speedup = paired_speedup(np.full((10, 3), 9.0), np.full((10, 7), 3.0))
    assert (speedup.ratio, speedup.claim) == (3.0, "faster")
