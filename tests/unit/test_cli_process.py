"""The command line as a process: signals, closed pipes, full disks, engines whose import dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekit.cli import doctor

SLEEPER = """
import sys, time
from pathlib import Path
from edgekit import api
from edgekit.cli import main
from edgekit.core.files import new_folder

def benchmark(output, **_):
    with new_folder(Path(output)) as folder:
        (folder / "half").write_text("half")
        print("ready", file=sys.stderr, flush=True)
        time.sleep(60)

api.benchmark = benchmark
sys.exit(main(["benchmark", sys.argv[1]]))
"""
TALKER = """
import sys
from edgekit.cli import border
from edgekit.cli.answer import Answer
border._print_answer(Answer(value=1, text="line\\n" * 100_000, exit_code=0), as_json=False)
"""


def edgekit(*words: str, **named: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **named)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_nothing_half_written(number: int, code: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLEEPER, str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "ready\n"
        process.send_signal(number)
        said = process.stderr.read()
        assert process.wait(timeout=30) == code
    assert said == "error: interrupted; nothing half-written\n"
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TALKER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) == 0


def test_an_answer_that_cannot_be_written_is_said() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgekit", "targets"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 5
    assert "cannot write the answer to standard output" in done.stderr


@pytest.mark.parametrize("closing", ["2>&-", ">&-", "<&-", ">&- 2>&-"])
def test_a_stream_closed_from_the_start_changes_no_exit_code(closing: str) -> None:
    for words, code in (("targets", 0), ("run no-such-recipe.toml", 2)):
        command = f"{sys.executable} -m edgekit {words} {closing}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr


def test_a_terminal_of_another_encoding_does_not_end_the_run() -> None:
    done = edgekit("run", "caf\u00e9-\u2713.toml", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 2
    assert "caf\\xe9-\\u2713.toml" in done.stderr


def test_doctor_reports_this_machine() -> None:
    done = edgekit("doctor", "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert value["cpu"]["int8_multiply_add_saturates"] in (True, False, None)
    assert "onnxruntime" in value["cpu"]["advice"]
    assert value["cache"]["path"] == os.environ["EDGEKIT_CACHE"]
    assert value["cache"]["free_disk_bytes"] > 0
    assert {engine["engine"] for engine in value["engines"]} == {"tflite", "onnxruntime", "openvino"}
    for row in value["packages"]:
        assert bool(row["version"]) != bool(row["add"])
    assert edgekit("doctor").stdout.startswith("edgekit ")


def test_doctor_without_any_engine_is_1_and_names_the_commands(tmp_path: Path) -> None:
    hide = "import sys\nsys.exit(__import__('edgekit.cli', fromlist=['main']).main(['doctor', '--json']))"
    for name in ("ai_edge_litert", "tflite_runtime", "tensorflow", "onnxruntime", "openvino"):
        (tmp_path / f"{name}.py").write_text(
            f"raise ModuleNotFoundError(\"No module named '{name}'\", name='{name}')"
        )
    search = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", hide], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": search},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    engines = {engine["engine"]: engine for engine in json.loads(done.stdout)["engines"]}
    assert engines["openvino"]["add"] == "pip install 'edgekit-toolchain[openvino]'"
    assert engines["onnxruntime"]["add"] == "pip install 'edgekit-toolchain[onnx]'"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import time; time.sleep(60)", "did not finish in 2 s"),
        ("raise ImportError('GLIBC_2.99 not found')", "GLIBC_2.99 not found"),
        ("import a_part_that_is_missing", "a_part_that_is_missing"),
    ],
)
def test_an_engine_whose_import_dies_is_an_answer(
    body: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad_engine.py").write_text(body)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setitem(doctor.ENGINES, "openvino", ("bad_engine",))
    started = time.monotonic()
    found = doctor.probe_engine("openvino", deadline_s=2.0)
    assert time.monotonic() - started < 20
    assert found["works"] is False
    assert said in found["problem"]


def test_an_engine_is_asked_in_the_interpreter_that_serves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_PYTHON_OPENVINO", "/no/such/python")
    found = doctor.probe_engine("openvino")
    assert found["works"] is False
    assert "'/no/such/python'" in found["problem"]
