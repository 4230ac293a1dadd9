"""How workers end: crashes, hangs, signals and lost parents are typed results, and nothing is left behind."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fake_engine import X, gone

from edgekit.devices.local import Worker
from edgekit.errors import StepError, UsageError
from edgekit.runtime.protocol import read_message, write_message

ROOT = Path(__file__).resolve().parents[2]


def _failure(artifact, request, *, deadline_s=60.0, inputs=X):
    """The error of a request, after checking that nothing of the child is left."""
    pids = []
    with Worker(label="victim", deadline_s=60.0) as worker:
        start = worker._start

        def start_and_note(*arguments):
            start(*arguments)
            pids.append(worker._child.process.pid)

        worker._start = start_and_note
        if request != "load":
            worker.load(artifact)
            worker.deadline_s = deadline_s
        calls = {
            "load": lambda: worker.load(artifact),
            "run": lambda: worker.run(inputs),
            "time": lambda: worker.time(inputs, runs=3),
        }
        with pytest.raises(StepError) as caught:
            calls[request]()
    assert gone(pids[0])
    with pytest.raises(UsageError, match="closed"):
        worker.run(inputs)
    assert caught.value.where == "victim"
    assert Path(caught.value.log_path).is_file()
    return caught.value


@pytest.mark.parametrize("request_", ["load", "run", "time"])
def test_an_engine_that_segfaults_is_a_crash_with_its_log(fake, monkeypatch, request_):
    monkeypatch.setenv("FAKE_LOAD" if request_ == "load" else "FAKE_RUN", "segfault")
    error = _failure(fake, request_)
    assert error.kind == "crashed"
    assert "SIGSEGV" in error.message
    assert "loud engine on stdout" in Path(error.log_path).read_text()


def test_the_command_of_a_crash_reproduces_it(fake, monkeypatch):
    monkeypatch.setenv("FAKE_RUN", "segfault")
    error = _failure(fake, "run")
    assert "--inputs=" in error.command
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    command = shlex.split(error.command)
    assert subprocess.run(command, env=environment, capture_output=True).returncode == -signal.SIGSEGV
    environment["FAKE_RUN"] = ""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("y: float32[2, 3]\n")


@pytest.mark.parametrize("deed", ["hang", "hang with the lock", "fork and hang"])
def test_an_engine_that_hangs_is_ended_at_its_deadline(fake, monkeypatch, deed):
    monkeypatch.setenv("FAKE_RUN", deed)
    error = _failure(fake, "run", deadline_s=1.0)
    assert error.kind == "timed_out"
    assert "did not answer 'run' in 1 s" in error.message


def test_inputs_larger_than_the_pipe_do_not_block_past_the_deadline(fake):
    with Worker(deadline_s=60) as worker:
        worker.load(fake)
        worker.deadline_s = 1.0
        os.kill(worker._child.process.pid, signal.SIGSTOP)
        with pytest.raises(StepError) as caught:
            worker.run({"x": np.zeros((1000, 1000), np.float32)})
    assert caught.value.kind == "timed_out"


def test_a_worker_killed_by_sigkill_ran_out_of_memory(fake):
    with Worker(deadline_s=60) as worker:
        worker.load(fake)
        os.kill(worker._child.process.pid, signal.SIGKILL)
        with pytest.raises(StepError) as caught:
            worker.run(X)
    assert caught.value.kind == "out_of_memory"
    assert "SIGKILL" in caught.value.message


@pytest.mark.parametrize(
    ("deed", "kind", "says"),
    [
        ("sigkill", "out_of_memory", "SIGKILL"),
        ("abort", "crashed", "SIGABRT"),
        ("bad_alloc", "out_of_memory", "allocation failed"),
        ("exit", "failed", "exit status 3: licence expired"),
    ],
)
def test_every_death_has_its_kind(fake, monkeypatch, deed, kind, says):
    monkeypatch.setenv("FAKE_RUN", deed)
    error = _failure(fake, "run")
    assert error.kind == kind
    assert says in error.message


@pytest.mark.parametrize(
    ("deed", "kind", "says"),
    [
        ("memory", "out_of_memory", "ran out of memory"),
        ("raise", "failed", "openvino failed: kernel failed"),
        ("bug", "failed", "LookupError: a defect"),
    ],
)
def test_what_an_engine_raises_is_typed_and_its_traceback_kept(fake, monkeypatch, deed, kind, says):
    monkeypatch.setenv("FAKE_RUN", deed)
    with Worker(deadline_s=60) as worker:
        worker.load(fake)
        with pytest.raises(StepError) as caught:
            worker.run(X)
        assert worker.memory() > 0
    assert caught.value.kind == kind
    assert says in caught.value.message
    assert "Traceback" in Path(caught.value.log_path).read_text()


def test_an_engine_that_closes_the_answers_is_a_failure(fake, monkeypatch):
    monkeypatch.setenv("FAKE_RUN", "close stdout")
    error = _failure(fake, "run")
    assert error.kind == "failed"
    assert "closed its output" in error.message


PARENT = """
import sys, numpy as np
from edgekit.devices.local import Worker
worker = Worker(deadline_s=600)
worker.load(sys.argv[1])
print(worker._child.process.pid, flush=True)
worker.run({"x": np.ones((2, 3), np.float32)})
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_worker_does_not_outlive_its_parent(fake, monkeypatch, number):
    monkeypatch.setenv("FAKE_RUN", "hang")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(fake)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    assert Path(f"/proc/{pid}").exists()
    parent.send_signal(number)
    parent.communicate(timeout=30)
    assert parent.returncode != 0
    assert gone(pid)


def test_an_exception_in_the_block_ends_a_busy_worker(fake):
    processes = []

    def fail():
        with Worker(deadline_s=600) as worker:
            worker.load(fake)
            processes.append(worker._child.process)
            os.kill(processes[0].pid, signal.SIGSTOP)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert processes[0].returncode == -signal.SIGKILL


def test_a_worker_that_is_forgotten_is_ended(fake):
    worker = Worker(deadline_s=600)
    worker.load(fake)
    pid = worker._child.process.pid
    del worker
    assert gone(pid)


def test_a_worker_ends_itself_at_the_deadline_it_was_given_even_without_the_lock(fake, monkeypatch):
    monkeypatch.setenv("FAKE_LOAD", "hang with the lock")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekit.runtime.worker"], env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    write_message(child.stdin, {"request": "load", "artifact": str(fake), "deadline_s": 1.0})
    assert read_message(child.stdout) is None
    assert child.wait(timeout=30) == -signal.SIGALRM
    child.stdin.close()
    child.stdout.close()
