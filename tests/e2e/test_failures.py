"""Real deaths of real processes: one target dies, the others finish, nothing is half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CONVERT = ("convert", "model.onnx", "--precision", "int8", "--calibration", "calibration.npz", "-o", "out")


def fake_package(folder: Path, name: str, body: str) -> dict[str, str]:
    """A package that hides the real one; returns the environment that puts it in front."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(body, encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


def entries(small: Path) -> dict[str, dict]:
    report = json.loads((small / "out" / "report.json").read_text(encoding="utf-8"))
    return {a["target"]: a for a in report["artifacts"]}


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("raise ValueError('a defect of the backend')", "ValueError: a defect of the backend"),
        ("import os; os._exit(3)", "exit status 3"),
    ],
)
def test_a_backend_that_dies_is_a_result_and_the_others_finish(small, edgekit, body, word):
    environment = fake_package(small / "fake", "openvino", body)
    done = edgekit(*CONVERT, "-t", "openvino", "-t", "tflite", "-t", "onnxruntime", environment=environment)
    assert done.returncode == 1, done.stderr
    made = entries(small)
    assert made["openvino"]["status"] == "failed"
    assert word in made["openvino"]["reasons"][0]
    assert "log:" in made["openvino"]["reasons"][0]
    assert "reproduce:" in made["openvino"]["reasons"][0]
    assert made["tflite"]["status"] == made["onnxruntime"]["status"] == "ok"
    assert not (small / "out" / "openvino").exists()


def test_a_backend_that_hangs_is_ended_at_the_deadline(small, edgekit):
    environment = fake_package(small / "fake", "openvino", "import time; time.sleep(600)")
    started = time.monotonic()
    done = edgekit(*CONVERT, "-t", "openvino", "-t", "tflite", "--deadline", "20", environment=environment)
    assert done.returncode == 1, done.stderr
    assert time.monotonic() - started < 180
    made = entries(small)
    assert "did not finish in 20 s" in made["openvino"]["reasons"][0]
    assert made["tflite"]["status"] == "ok"


def test_an_engine_that_dies_while_it_validates_is_a_result(small, edgekit):
    assert edgekit(*CONVERT, "-t", "openvino", "-t", "tflite").returncode == 0
    environment = fake_package(
        small / "fake", "openvino", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    )
    done = edgekit("validate", "out", "--data", "labelled.npz", environment=environment)
    assert done.returncode == 1, done.stderr
    made = entries(small)
    assert made["openvino"]["status"] == "failed"
    assert "SIGSEGV" in made["openvino"]["reasons"][0]
    assert made["tflite"]["accuracy"]["n"] == 32


def test_when_every_target_dies_nothing_is_written(small, edgekit):
    environment = fake_package(small / "fake", "openvino", "raise ValueError('a defect')")
    done = edgekit(*CONVERT, "-t", "openvino", environment=environment)
    assert done.returncode == 5
    assert "a defect" in done.stderr
    assert not (small / "out").exists()
    assert leftovers(small) == []


def leftovers(folder: Path) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_ctrl_c_leaves_no_folder_and_no_process(small, root):
    command = [sys.executable, "-m", "edgekit", *CONVERT, "-t", "openvino", "-t", "tflite"]
    environment = fake_package(small / "fake", "openvino", "import time; time.sleep(600)")
    environment["PYTHONPATH"] += os.pathsep + str(root)
    marker = f"EDGEKIT_TEST_MARKER={os.getpid()}-ctrl-c"
    name, _, value = marker.partition("=")
    child = subprocess.Popen(
        command, cwd=small, env={**os.environ, **environment, name: value}, stderr=subprocess.PIPE, text=True
    )
    assert child.stderr is not None
    seen = ""
    while "quantize" not in seen:
        line = child.stderr.readline()
        assert line, f"ended early: {seen}"
        seen += line
    time.sleep(1.0)
    child.send_signal(signal.SIGINT)
    _, rest = child.communicate(timeout=60)
    assert child.returncode == 130, rest
    assert "nothing half-written" in rest
    assert not (small / "out").exists()
    assert leftovers(small) == []
    assert processes_with(marker) == []


def processes_with(marker: str) -> list[int]:
    """Processes whose environment holds the marker."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if marker.encode() in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue
    return found


def test_a_full_disk_is_named_and_leaves_nothing(small, edgekit):
    disk = small / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        reason = f"a small disk cannot be mounted here: {mounted.stderr.strip()}"
        (pytest.fail if os.environ.get("EDGEKIT_REQUIRE_ALL") == "1" else pytest.skip)(reason)
    try:
        arguments = [a if a != "out" else "disk/out" for a in CONVERT] + ["--precision", "float32"]
        done = edgekit(*arguments, "-t", "openvino", "-t", "tflite", "-t", "onnxruntime")
        assert done.returncode == 5, done.stderr
        assert "no space left" in done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
