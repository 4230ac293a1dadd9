"""The cache of steps: the same inputs are never worked on twice, and nothing half-made is ever found."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.pipeline.cache import cached_folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(folder: Path) -> None:
    (folder / "result.txt").write_text("made", encoding="utf-8")


def test_the_same_inputs_are_worked_on_once():
    calls = []

    def build(folder: Path) -> None:
        calls.append(folder)
        write(folder)

    first, cached_first = cached_folder("step", version=1, inputs={"a": 1, "b": [2]}, build=build)
    second, cached_second = cached_folder("step", version=1, inputs={"b": [2], "a": 1}, build=build)
    assert first == second
    assert (cached_first, cached_second) == (False, True)
    assert len(calls) == 1
    assert (first / "result.txt").read_text(encoding="utf-8") == "made"


@pytest.mark.parametrize(
    "other",
    [
        {"step": "other", "version": 1, "inputs": {"a": 1}},
        {"step": "step", "version": 2, "inputs": {"a": 1}},
        {"step": "step", "version": 1, "inputs": {"a": 2}},
        {"step": "step", "version": 1, "inputs": {"a": 1, "b": 0}},
    ],
)
def test_whatever_decides_the_result_is_part_of_the_key(other):
    first, _ = cached_folder("step", version=1, inputs={"a": 1}, build=write)
    second, cached = cached_folder(
        other["step"], version=other["version"], inputs=other["inputs"], build=write
    )
    assert first != second
    assert not cached


def test_a_failure_is_not_cached_and_leaves_nothing(own_cache):
    def fail(folder: Path) -> None:
        write(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached_folder("step", version=1, inputs={}, build=fail)
    assert [p for p in own_cache.rglob("*") if p.is_file()] == []
    assert cached_folder("step", version=1, inputs={}, build=write)[1] is False


def test_an_interruption_leaves_nothing(own_cache):
    def interrupted(folder: Path) -> None:
        write(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("step", version=1, inputs={}, build=interrupted)
    assert [p for p in own_cache.rglob("*") if p.is_file()] == []


def test_two_that_build_the_same_agree():
    def slower(folder: Path) -> None:
        cached_folder("step", version=1, inputs={}, build=write)  # the other one is first
        (folder / "result.txt").write_text("second", encoding="utf-8")

    place, _ = cached_folder("step", version=1, inputs={}, build=slower)
    assert (place / "result.txt").read_text(encoding="utf-8") == "made"
