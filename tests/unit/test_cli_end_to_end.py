"""The commands on a real, small model and real engines, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.xdist_group("cli-end-to-end")


def edgekit(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgekit", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def document(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]) -> Path:
    """A folder with model.onnx (a small classifier, batch open), calibration.npz and labelled.npz."""
    need("onnx")
    need("onnxruntime")
    need("onnxsim")
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder = tmp_path_factory.mktemp("cli")
    random = np.random.default_rng(0)
    weights = {
        "w": random.normal(size=(4, 3, 3, 3)).astype(np.float32) * 0.3,
        "b": np.zeros(4, np.float32),
        "f": random.normal(size=(5, 4)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["v"], name="flatten"),
        helper.make_node("Gemm", ["v", "f"], ["y"], name="gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    x = random.normal(size=(48, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "calibration.npz", x=x[:16])
    np.savez(folder / "labelled.npz", x=x[16:], labels=_answers(folder / "model.onnx", x[16:]))
    return folder


def _answers(model: Path, x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    answers: np.ndarray = np.argmax(session.run(None, {"x": x})[0], axis=1)  # type: ignore[type-arg]
    return answers


@pytest.fixture(scope="module")
def converted(place: Path) -> subprocess.CompletedProcess[str]:
    return edgekit(
        "convert", "model.onnx", "-t", "onnxruntime", "-p", "float32", "-p", "int8",
        "--calibration", "calibration.npz", "--shape", "x=1,3,8,8", "-o", "out", cwd=place,
    )  # fmt: skip


@pytest.mark.usefixtures("converted")
def test_convert_writes_artifacts_and_a_report_and_shows_lines(
    place: Path, converted: subprocess.CompletedProcess[str]
) -> None:
    assert converted.returncode == 0, converted.stderr
    for name in (
        "report.json",
        "report.md",
        "onnxruntime/int8/manifest.json",
        "onnxruntime/float32/manifest.json",
    ):
        assert (place / "out" / name).is_file()
    assert "report: out/report.md" in converted.stdout
    lines = converted.stderr.splitlines()
    assert any(line.startswith("lower onnxruntime int8: ") for line in lines)
    assert not any("\x1b" in line or "\r" in line for line in lines)


@pytest.mark.usefixtures("converted")
def test_validate_and_benchmark_fill_the_same_report(place: Path) -> None:
    done = edgekit(
        "validate", "out", "--data", "labelled.npz", "--max-accuracy-drop", "20", "--json", cwd=place
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert document(done)["verdict"] == "pass"
    done = edgekit("benchmark", "out", "--rounds", "5", "--warmup", "1", "--json", "--quiet", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    report = document(done)
    assert report == json.loads((place / "out" / "report.json").read_text())
    entries = report["artifacts"]
    assert isinstance(entries, list)
    for entry in entries:
        assert entry["accuracy"]["n"] == 32
        assert entry["latency_ms"]["median"] > 0


@pytest.mark.usefixtures("converted")
def test_a_budget_that_is_not_met_is_exit_code_1(place: Path) -> None:
    words = ["benchmark", "out", "--rounds", "5", "--warmup", "1", "--max-latency-ms", "0"]
    done = edgekit(*words, cwd=place)
    assert done.returncode == 1
    assert "verdict: FAIL" in done.stdout


@pytest.mark.usefixtures("converted")
def test_an_existing_output_is_refused_and_left_alone(place: Path) -> None:
    before = sorted(p.name for p in (place / "out").rglob("*"))
    done = edgekit("convert", "model.onnx", "-t", "onnxruntime", "-p", "float32", "-o", "out", cwd=place)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert sorted(p.name for p in (place / "out").rglob("*")) == before


@pytest.mark.usefixtures("converted")
def test_inspect_knows_models_artifacts_and_output_folders(place: Path) -> None:
    done = edgekit("inspect", "model.onnx", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "x: float32[n, 3, 8, 8]" in done.stdout
    assert "Conv 1" in done.stdout
    assert "takes it in float32" in done.stdout
    done = edgekit("inspect", "out/onnxruntime/int8", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "onnxruntime int8" in done.stdout
    done = edgekit("inspect", "out", "--json", cwd=place)
    value = document(done)["artifacts"]
    assert isinstance(value, list)
    found = [a["manifest"] for a in value]
    assert [m["precision"] for m in found if m["target"] == "onnxruntime"] == ["float32", "int8"]


def test_inspect_says_which_dimension_keeps_targets_from_being_asked(place: Path) -> None:
    import onnx

    model = onnx.load(place / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, place / "open.onnx")
    done = edgekit("inspect", "open.onnx", "--json", "--quiet", cwd=place)
    assert done.returncode == 0, done.stdout
    targets = document(done)["targets"]
    assert isinstance(targets, dict)
    assert targets["tflite"]["takes"] is None
    assert "height" in " ".join(targets["tflite"]["reasons"])


@pytest.mark.usefixtures("converted")
def test_inspect_of_a_damaged_artifact_says_which_file(place: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(place / "out" / "onnxruntime" / "int8", tmp_path / "int8")
    with (copy / "model.onnx").open("ab") as stream:
        stream.write(b"more")
    done = edgekit("inspect", str(copy), cwd=place)
    assert done.returncode == 2
    assert "model.onnx is not the file the manifest was written for" in done.stderr


@pytest.mark.parametrize(
    ("content", "name"),
    [(b"", "empty.onnx"), (b"\x89PNG garbage" * 50, "garbage.onnx"), (None, "truncated.onnx")],
)
@pytest.mark.parametrize("command", ["convert", "inspect"])
def test_a_file_that_is_no_model_is_a_usage_error(
    command: str, content: bytes | None, name: str, place: Path
) -> None:
    whole = (place / "model.onnx").read_bytes()
    (place / name).write_bytes(whole[: len(whole) // 2] if content is None else content)
    options = ["-t", "onnxruntime", "-p", "float32", "-o", "none"] if command == "convert" else []
    done = edgekit(command, name, *options, cwd=place)
    assert done.returncode == 2, done.stdout + done.stderr
    assert name in done.stderr
    assert not (place / "none").exists()


def test_ctrl_c_during_a_conversion_leaves_nothing(place: Path, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "edgekit", "convert", str(place / "model.onnx"), "-t", "onnxruntime",
        "-p", "float32", "-o", str(tmp_path / "work" / "out"),
    ]  # fmt: skip
    environment = {**os.environ, "EDGEKIT_CACHE": str(tmp_path / "cache")}
    (tmp_path / "work").mkdir()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "done" in process.stderr.readline()  # the first step is over: the second one runs
        assert list((tmp_path / "work").iterdir())
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(timeout=30) == 130, said
    assert said.endswith("error: interrupted; nothing half-written\n")
    assert list((tmp_path / "work").iterdir()) == []


def test_a_step_that_passes_its_deadline_is_5_with_a_log(place: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\n\ndef net():\n    time.sleep(60)\n")
    done = edgekit(
        "convert",
        "slow.py:net",
        "-t",
        "onnxruntime",
        "-p",
        "float32",
        "--deadline",
        "2",
        "-o",
        "out",
        cwd=tmp_path,
    )
    assert done.returncode == 5, done.stderr
    assert "did not finish in 2 s" in done.stderr
    assert "log: " in done.stderr
    assert not (tmp_path / "out").exists()
