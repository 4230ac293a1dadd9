"""The worker: real child processes, real signals, with an engine package that misbehaves on demand."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import runtime_models as models
from fake_engine import X, gone

from edgekit.devices.local import Worker
from edgekit.errors import MissingPackage, StepError, UsageError
from edgekit.runtime import worker as worker_module

ROOT = Path(__file__).resolve().parents[2]


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
    assert gone(pid)


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
