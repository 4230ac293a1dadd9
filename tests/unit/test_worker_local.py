"""The worker: real child processes, real signals, with an engine package that misbehaves on demand."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import runtime_models as models

from edgekit.devices.local import Worker
from edgekit.errors import MissingPackage, StepError, UsageError
from edgekit.runtime import worker as worker_module
from edgekit.runtime.protocol import read_message, write_message

ROOT = Path(__file__).resolve().parents[2]

# Stands in for the package `openvino`: doubles its input, and does what FAKE_LOAD and FAKE_RUN say.
FAKE_ENGINE = '''
import ctypes, os, signal, sys, time
import numpy as np

def misbehave(when):
    deed = os.environ.get("FAKE_" + when, "")
    print("loud engine on stdout", when); os.write(1, b"and raw on descriptor 1\\n"); sys.stdout.flush()
    if deed == "segfault": os.kill(os.getpid(), signal.SIGSEGV)
    if deed == "sigkill": os.kill(os.getpid(), signal.SIGKILL)
    if deed == "abort": os.abort()
    if deed == "bad_alloc":
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n"); os.abort()
    if deed == "memory": raise MemoryError("no more")
    if deed == "raise": raise RuntimeError("kernel failed\\nin detail")
    if deed == "bug": raise LookupError("a defect")
    if deed == "exit": os.write(2, b"licence expired\\n"); os._exit(3)
    if deed == "hang": time.sleep(600)
    if deed == "hang with the lock": ctypes.PyDLL(None).sleep(600)
    if deed == "fork and hang":
        os.fork(); time.sleep(600)
    if deed == "close stdout":
        for fd in range(3, 64):
            try: os.close(fd)
            except OSError: pass
        time.sleep(600)

class Port:
    def __init__(self, name): self.name = name
    def get_names(self): return {self.name}
    def get_element_type(self): return self
    def to_dtype(self): return np.dtype("float32")

class Tensor:
    def __init__(self): self.data = np.zeros((2, 3), np.float32)

class Request:
    def __init__(self): self.tensors = {"x": Tensor(), "y": Tensor()}
    def get_tensor(self, port): return self.tensors[port.name]
    def infer(self):
        misbehave("RUN")
        self.tensors["y"].data[...] = self.tensors["x"].data * 2

class Compiled:
    inputs, outputs = [Port("x")], [Port("y")]
    def create_infer_request(self): return Request()

class Core:
    def get_property(self, device, name): return ["INFERENCE_NUM_THREADS"]
    def compile_model(self, path, device, properties):
        misbehave("LOAD")
        return Compiled()
'''


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def fake(tmp_path, monkeypatch, cache):
    """An artifact whose engine is the fake."""
    package = tmp_path / "packages"
    package.mkdir()
    (package / "openvino.py").write_text(FAKE_ENGINE)
    monkeypatch.setenv("PYTHONPATH", str(package))
    inputs, outputs = ((models.tensor(n, "float32", (2, 3)),) for n in "xy")
    return models.put_artifact(tmp_path / "artifact", "openvino", b"model", inputs, outputs)


X = {"x": np.ones((2, 3), np.float32)}


def _gone(pid):
    """Whether the process ended (a zombie that waits to be reaped by init has ended)."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


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
    assert _gone(pids[0])
    with pytest.raises(UsageError, match="closed"):
        worker.run(inputs)
    assert caught.value.where == "victim"
    assert Path(caught.value.log_path).is_file()
    return caught.value


def test_a_worker_runs_times_and_weighs_an_artifact(tmp_path, cache):
    models.need("onnx", "onnxruntime")
    content = models.float_network()
    artifact = models.put_artifact(
        tmp_path / "a", "onnxruntime", content, models.IMAGE, models.LOGITS, precision="float32"
    )
    image = {"image": np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)}
    with Worker(engine="onnxruntime", deadline_s=60) as worker:
        worker.load(artifact, threads=1)
        assert worker.label == "onnxruntime float32"
        assert worker.inputs == models.IMAGE
        assert worker.outputs == models.LOGITS
        logits = worker.run(image)["logits"]
        durations = worker.time(image, runs=7, warmup=2)
        peak = worker.memory()
        layers = worker.layers()
    from edgekit.runtime import Session

    with Session(artifact, threads=1) as session:
        np.testing.assert_array_equal(logits, session.run(image)["logits"])
        assert layers == session.layers()
    assert durations.dtype == np.int64
    assert durations.shape == (7,)
    assert (durations > 0).all()
    assert 10_000_000 < peak < 2_000_000_000


def test_io_and_layout_reach_the_session(tmp_path, cache):
    models.need("ai_edge_litert")
    artifact = models.tflite_artifact(tmp_path / "a")
    image = np.random.default_rng(0).integers(-128, 128, (1, 2, 8, 8), np.int8)
    with Worker(deadline_s=60) as worker:
        worker.load(artifact, threads=1, io="native", layout="source")
        assert (worker.inputs[0].dtype, worker.inputs[0].shape) == ("int8", (1, 2, 8, 8))
        assert worker.run({"image": image})["features"].dtype == np.int8


def test_the_log_of_a_worker_that_ended_well_is_removed(fake, cache):
    with Worker(deadline_s=60) as worker:
        worker.load(fake)
        pid = worker._child.process.pid
        assert list((cache / "logs").iterdir())
        worker.run(X)
    assert not list((cache / "logs").iterdir())
    assert _gone(pid)


def test_what_an_engine_prints_does_not_disturb_the_answers(fake):
    with Worker(deadline_s=60) as worker:
        worker.load(fake)
        np.testing.assert_array_equal(worker.run(X)["y"], X["x"] * 2)
        log = worker._child.log.read_text()
    assert "loud engine on stdout RUN" in log
    assert "raw on descriptor 1" in log


def test_wrong_inputs_arrive_typed_and_leave_the_worker_usable(fake):
    with Worker(deadline_s=60) as worker:
        worker.load(fake)
        with pytest.raises(UsageError, match="input 'x' is missing"):
            worker.run({"z": np.zeros(2)})
        np.testing.assert_array_equal(worker.run(X)["y"], X["x"] * 2)


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


def _interpreter(tmp_path, monkeypatch, script):
    path = tmp_path / "python-wrapper"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("EDGEKIT_PYTHON_OPENVINO", str(path))


def test_a_corrupt_stream_is_a_typed_failure(fake, tmp_path, monkeypatch):
    _interpreter(tmp_path, monkeypatch, f'echo "Welcome to this machine"; exec "{sys.executable}" "$@"')
    with pytest.raises(StepError) as caught, Worker(deadline_s=60) as worker:
        worker.load(fake)
    assert caught.value.kind == "failed"
    assert "sent what is no message" in caught.value.message
    assert "Welc" in caught.value.message


def test_another_interpreter_can_be_named(fake, tmp_path, monkeypatch):
    _interpreter(tmp_path, monkeypatch, f'touch "{tmp_path}/used"; exec "{sys.executable}" "$@"')
    with Worker(deadline_s=60) as worker:
        worker.load(fake)
        np.testing.assert_array_equal(worker.run(X)["y"], X["x"] * 2)
    assert (tmp_path / "used").exists()


def test_another_interpreter_sees_edgekit_but_not_what_lies_beside_it(fake, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH")
    _interpreter(tmp_path, monkeypatch, f'exec "{sys.executable}" -S "$@"')
    with pytest.raises(StepError, match="No module named 'numpy'"), Worker(deadline_s=60) as worker:
        worker.load(fake)


def test_an_interpreter_that_does_not_exist_names_the_variable(fake, monkeypatch):
    monkeypatch.setenv("EDGEKIT_PYTHON_OPENVINO", "/nowhere/python")
    with pytest.raises(UsageError, match="EDGEKIT_PYTHON_OPENVINO"), Worker() as worker:
        worker.load(fake)


def test_an_engine_that_is_not_installed_arrives_as_missing_package(fake, tmp_path):
    (tmp_path / "packages" / "openvino.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'openvino'\", name='openvino')"
    )
    with pytest.raises(MissingPackage, match=r"edgekit-toolchain\[openvino\]"), Worker() as worker:
        worker.load(fake)


def test_a_worker_holds_one_artifact_of_its_engine(fake):
    with Worker(engine="tflite") as worker, pytest.raises(UsageError, match="for 'tflite'"):
        worker.load(fake)
    with Worker(deadline_s=60) as worker:
        with pytest.raises(UsageError, match="nothing loaded"):
            worker.run(X)
        worker.load(fake)
        with pytest.raises(UsageError, match="holds an artifact already"):
            worker.load(fake)


def test_memory_is_refused_after_layers_because_it_would_count_them(tmp_path, cache):
    models.need("onnx", "onnxruntime")
    artifact = models.put_artifact(
        tmp_path / "a", "onnxruntime", models.float_network(), models.IMAGE, models.LOGITS
    )
    with Worker(deadline_s=60) as worker:
        worker.load(artifact)
        worker.layers()
        with pytest.raises(UsageError, match=r"ask for memory\(\) before layers\(\)"):
            worker.memory()


def test_the_memory_of_a_worker_does_not_count_its_parent(fake):
    script = (
        "import numpy as np; from edgekit.devices.local import Worker; big = bytearray(400_000_000)\n"
        "with Worker() as w:\n"
        f"    w.load({str(fake)!r}); print(w.memory())"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert 10_000_000 < int(done.stdout) < 200_000_000


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
    assert _gone(pid)


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
    assert _gone(pid)


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


def test_nonsense_on_stdin_ends_the_worker_with_a_reason(cache):
    child = subprocess.Popen(
        [sys.executable, "-m", "edgekit.runtime.worker"], cwd=ROOT, stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    child.stdin.write(b"GET / HTTP/1.1\r\n")
    child.stdin.flush()
    assert b"not a message" in child.stderr.read()
    assert child.wait(timeout=30) == 1
    child.stdin.close()
    child.stderr.close()


def test_two_workers_answer_from_two_threads(fake):
    def serve(value, found):
        with Worker(deadline_s=60) as worker:
            worker.load(fake)
            found[value] = worker.run({"x": np.full((2, 3), value, np.float32)})["y"][0, 0]

    found: dict[int, float] = {}
    threads = [threading.Thread(target=serve, args=(value, found)) for value in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {1: 2.0, 2: 4.0}


def test_a_worker_rests_only_when_its_threads_do(monkeypatch):
    slept = []
    # CPU seconds at every look: two threads spin, one goes on, one look falls into a pause, then rest.
    used = iter([0.0, 0.006, 0.009, 0.009, 0.012, 0.0121, 0.0122, 9.9])
    monkeypatch.setattr(worker_module.time, "process_time", lambda: next(used))
    monkeypatch.setattr(worker_module.time, "sleep", slept.append)
    worker_module.come_to_rest(limit_s=60)
    assert len(slept) == 6


def test_a_worker_that_never_rests_answers_all_the_same(monkeypatch):
    now = iter(range(1000))
    monkeypatch.setattr(worker_module.time, "process_time", lambda: next(now))
    worker_module.come_to_rest(limit_s=0.02)
