"""Steps in child processes: values, typed errors, deaths and deadlines."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from edgekit.core.events import Event
from edgekit.errors import MissingPackage, StepError, Unsupported, UsageError
from edgekit.pipeline.steps import StepRunner

SUPPORT = Path(__file__).resolve().parents[1] / "support"


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def run(events, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))

    def call(function: str, deadline_s: float = 60.0, **arguments):
        runner = StepRunner(deadline_s=deadline_s, on_event=events.append)
        return runner.run(f"step_functions:{function}", arguments, label=f"step {function}")

    return call


def logs(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "logs").glob("*/output.log"))


def test_a_value_comes_back_from_another_process_and_no_log_is_kept(run, events, tmp_path):
    assert run("double", value=21) == 42
    assert run("whoami") != os.getpid()
    assert [e.state for e in events] == ["start", "done"] * 2
    assert logs(tmp_path) == []


def test_progress_arrives_as_events(run, events):
    assert run("count", total=3) == "counted"
    assert [(e.done, e.total) for e in events if e.state == "progress"] == [(1, 3), (2, 3), (3, 3)]


def test_errors_cross_the_border_as_they_are(run, events):
    with pytest.raises(Unsupported) as refused:
        run("refuse")
    assert (refused.value.where, refused.value.hint) == ("here", "do that")
    assert [(r.node, r.why, r.hint) for r in refused.value.reasons] == [("n", "w", "h")]
    assert events[-1].state == "refused"
    with pytest.raises(UsageError) as misused:
        run("misused")
    assert misused.value.problems == ("one", "two")
    assert misused.value.where == "step misused"
    with pytest.raises(MissingPackage) as lacks:
        run("lacks")
    assert "edgekit-toolchain[openvino]" in lacks.value.hint
    assert events[-1].state == "failed"


def test_a_defect_keeps_its_log_and_says_how_to_see_it_again(run, tmp_path):
    with pytest.raises(StepError, match="KeyError: 'a defect'") as error:
        run("broken")
    assert error.value.kind == "failed"
    assert "Traceback" in Path(error.value.log_path).read_text(encoding="utf-8")
    assert "edgekit.pipeline.child" in error.value.command


@pytest.mark.parametrize(
    ("function", "arguments", "kind", "said"),
    [
        ("dies", {"number": int(signal.SIGSEGV)}, "crashed", "SIGSEGV"),
        ("dies", {"number": int(signal.SIGKILL)}, "out_of_memory", "SIGKILL"),
        ("leaves", {}, "failed", "exit status 7"),
        ("out_of_memory", {}, "out_of_memory", "memory"),
        ("full_disk", {"out": "/some/place"}, "disk_full", "/some/place"),
    ],
)
def test_a_death_is_a_typed_result(run, function, arguments, kind, said):
    with pytest.raises(StepError, match=said) as error:
        run(function, **arguments)
    assert error.value.kind == kind
    assert error.value.where == f"step {function}" or kind == "disk_full"


def test_a_step_that_reports_progress_may_take_longer_than_the_deadline(run):
    assert run("works_on", deadline_s=2.0, seconds=4.0, then_hangs=False) == "at last"


def test_a_step_whose_progress_stops_is_ended(run):
    with pytest.raises(StepError, match="made no progress for 2 s") as error:
        run("works_on", deadline_s=2.0, seconds=0.1, then_hangs=True)
    assert error.value.kind == "timed_out"


def test_the_deadline_ends_the_step_and_all_it_started(run, tmp_path):
    place = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(StepError, match="did not finish in 3 s") as error:
        run("hangs_with_a_child", deadline_s=3.0, place=str(place))
    assert error.value.kind == "timed_out"
    assert time.monotonic() - started < 30
    grandchild = int(place.read_text(encoding="utf-8"))
    deadline = time.monotonic() + 10
    while Path(f"/proc/{grandchild}").exists() and time.monotonic() < deadline:
        if "zombie" in Path(f"/proc/{grandchild}/status").read_text(encoding="utf-8"):
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{grandchild}").exists()
