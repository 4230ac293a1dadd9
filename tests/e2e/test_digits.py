"""The product on a real network: digits in, three engines out, judged on digits it has never seen."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from readme import Outcome

pytestmark = pytest.mark.xdist_group("readme")
ENGINES = ("tflite", "openvino", "onnxruntime")


@pytest.fixture(scope="module")
def outcome(readme_place: Path, readme_run: list[Outcome]) -> tuple[Path, dict[str, Any]]:
    """The output folder and the report of the example's own recipe, run as the README says."""
    assert readme_run[0].code == 0, readme_run[0].said
    out = readme_place / "build" / "digits" / "out"
    return out, json.loads((out / "report.json").read_text(encoding="utf-8"))


def entry(report: dict[str, Any], target: str, precision: str) -> dict[str, Any]:
    return next(a for a in report["artifacts"] if (a["target"], a["precision"]) == (target, precision))


@pytest.mark.parametrize("target", ENGINES)
def test_int8_stays_within_half_a_point_of_float(outcome, target):
    accuracy = entry(outcome[1], target, "int8")["accuracy"]
    assert accuracy["n"] == 1000
    assert accuracy["source"] > 0.97
    assert accuracy["drop"] <= 0.5


@pytest.mark.parametrize("target", ENGINES)
def test_every_convolution_and_product_runs_in_integers(outcome, target):
    artifact = entry(outcome[1], target, "int8")
    assert artifact["total_ops"] == 8
    assert artifact["integer_share"] == 1.0
    assert artifact["float_nodes"] == []


def test_the_digits_look_like_those_of_training(outcome):
    assert (outcome[0] / "source" / "statistics.onnx").is_file()
    assert outcome[1]["warnings"] == []


@pytest.mark.parametrize("target", ENGINES)
def test_a_float_artifact_is_not_called_integer(outcome, target):
    assert entry(outcome[1], target, "float32")["integer_share"] == 0.0


@pytest.mark.parametrize("target", ENGINES)
def test_float32_answers_as_the_source_and_float16_nearly_so(outcome, target):
    assert entry(outcome[1], target, "float32")["sqnr_db"] > 100
    assert entry(outcome[1], target, "float16")["sqnr_db"] > 50


def test_cuda_is_made_but_never_validated_on_the_cpu(outcome):
    for precision in ("float32", "float16"):
        artifact = entry(outcome[1], "onnxruntime-cuda", precision)
        assert artifact["status"] == "not_validated"
        assert "CUDAExecutionProvider" in artifact["reasons"][0]
        assert artifact["accuracy"] is artifact["latency_ms"] is None
    refused = entry(outcome[1], "onnxruntime-cuda", "int8")
    assert refused["status"] == "refused"
    assert "TensorRT" in refused["reasons"][0]


def test_the_report_has_every_field_that_was_promised(outcome):
    report = outcome[1]
    assert {"schema", "source", "verdict", "artifacts"} <= set(report)
    assert report["schema"] == 1
    assert report["verdict"] == "pass"
    artifact = entry(report, "tflite", "int8")
    assert {
        "target", "precision", "status", "reasons", "path", "size_bytes", "integer_share", "accuracy",
        "top1_agreement", "sqnr_db", "cosine", "max_abs", "latency_ms", "speedup", "peak_memory_bytes",
        "verdict",
    } <= set(artifact)  # fmt: skip
    assert {"metric", "source", "artifact", "drop", "n"} <= set(artifact["accuracy"])
    assert {"median", "p90", "p99", "n", "threads"} <= set(artifact["latency_ms"])
    assert artifact["size_bytes"] == (outcome[0] / "tflite/int8/model.tflite").stat().st_size
    assert artifact["speedup"] > 0
    assert artifact["peak_memory_bytes"] > 10_000_000


def test_the_litert_file_has_no_transpose_and_the_source_has_its_weights_in_quarter(outcome):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(outcome[0] / "tflite/int8/model.tflite"))
    interpreter.allocate_tensors()
    names = [op["op_name"] for op in interpreter._get_ops_details()]
    assert "TRANSPOSE" not in names
    float_size = entry(outcome[1], "tflite", "float32")["size_bytes"]
    assert entry(outcome[1], "tflite", "int8")["size_bytes"] < 0.4 * float_size


@pytest.mark.parametrize("target", ENGINES)
def test_the_runtime_gives_the_answers_that_were_validated(outcome, digits, target):
    from edgekit.runtime import Session

    with np.load(digits / "held-back.npz") as held_back:
        images, labels = held_back["image"][:100], held_back["labels"][:100]
    with Session(outcome[0] / target, precision="int8", layout="source") as session:
        answers = [session.run({"image": image[None]})["output"].argmax() for image in images]
    assert np.mean(np.array(answers) == labels) > 0.95


def test_a_scale_that_is_off_by_a_twentieth_is_caught(outcome, digits, root, tmp_path):
    """The negative control: the same report fails its budget when the engine's answers are wrong."""
    import onnx

    from edgekit import api
    from edgekit.core.files import digest_file, write_json

    folder = outcome[0] / "onnxruntime" / "int8"
    graph = onnx.load(str(folder / "model.onnx"))
    for tensor in graph.graph.initializer:
        if tensor.name.endswith("_scale") and not tensor.dims:
            value = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(value * 0.05), tensor.name))
    out = tmp_path / "out"
    subprocess.run(["cp", "-r", str(outcome[0]), str(out)], check=True)
    broken = out / "onnxruntime" / "int8"
    onnx.save(graph, str(broken / "model.onnx"))
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = digest_file(broken / "model.onnx")
    write_json(broken / "manifest.json", manifest)
    report = api.validate(out, data=digits / "held-back.npz", max_accuracy_drop=0.5)
    assert report.verdict == "fail"
    verdicts = {(a.target, a.precision): a.verdict for a in report.artifacts}
    assert verdicts["onnxruntime", "int8"] == "fail"
    assert verdicts["tflite", "int8"] == "pass"
