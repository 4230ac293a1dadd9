"""A .tflite file of another maker beside edgekit's own: one more row, compared but not judged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from quantize_models import classifier, pictures

from edgekit import api
from edgekit.cli import main
from edgekit.core.beside import Beside
from edgekit.core.recipe import BenchmarkOptions
from edgekit.core.report import ArtifactReport
from edgekit.formats.tflite_file import describe

pytestmark = pytest.mark.xdist_group("beside")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with out/ (float32 and int8 with integers at its ports) and data.npz."""
    place = tmp_path_factory.mktemp("beside")
    onnx.save(classifier(), str(place / "model.onnx"))
    images = np.concatenate([s["image"] for s in pictures(32)])
    np.savez(place / "data.npz", image=images, labels=np.arange(32) % 5)
    api.convert(
        place / "model.onnx", targets=["tflite"], precisions=["float32", "int8"], quantized_io=True,
        calibration={"image": images}, output=place / "out",
    )  # fmt: skip
    return place


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def louder(source: Path, target: Path) -> Path:
    """The float file, its largest constant 1.3 times as large."""
    model = schema.ModelT.InitFromPackedBuf(source.read_bytes())
    buffer = max((b for b in model.buffers if b.data is not None), key=lambda b: len(b.data))
    buffer.data = np.frombuffer((1.3 * np.frombuffer(bytes(buffer.data), "f4")).astype("f4").tobytes(), "u1")
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    target.write_bytes(bytes(builder.Output()))
    return target


def row(report, name: str, precision: str = "int8") -> ArtifactReport:
    [entry] = [a for a in report.artifacts if (a.target, a.precision) == (name, precision)]
    return entry


def test_a_file_with_integer_ports_is_judged_like_the_artifact_that_it_is(made, out):
    """The same bytes, but for the manifest: axes, scale and zero point come from the file alone."""
    file = made / "out/tflite/int8/model.tflite"
    assert [port["dtype"] for port in describe(str(file))["inputs"]] == ["int8"]
    report = api.validate(out, data=made / "data.npz", beside=[Beside(path=str(file), name="vendor")])
    ours, theirs = row(report, "tflite"), row(report, "vendor")
    assert (theirs.accuracy, theirs.sqnr_db, theirs.max_abs) == (ours.accuracy, ours.sqnr_db, ours.max_abs)
    assert theirs.integer_share == ours.integer_share == 1.0
    assert (theirs.verdict, theirs.size_bytes) == ("none", file.stat().st_size)
    again = api.benchmark(out, options=BenchmarkOptions(rounds=6, warmup=2))
    assert row(again, "vendor").latency_ms is not None
    assert row(again, "vendor").speedup_detail is not None
    assert row(again, "vendor").sqnr_db == ours.sqnr_db


def test_a_file_that_answers_otherwise_is_shown_to_and_breaks_no_verdict(made, out, tmp_path, capsys):
    file = louder(made / "out/tflite/float32/model.tflite", tmp_path / "louder.tflite")
    words = ["validate", str(out), "--data", str(made / "data.npz"), "--quiet", "--json"]
    assert main([*words, "--beside", str(file)]) == 0
    report = json.loads(capsys.readouterr().out)
    [theirs] = [a for a in report["artifacts"] if a["target"] == "louder"]
    assert theirs["sqnr_db"] < 30
    assert theirs["origin"] == str(file)
    assert theirs["verdict"] == "none"


def test_a_second_file_of_a_name_takes_the_place_of_the_first(made, out, tmp_path):
    first = Beside(path=str(made / "out/tflite/int8/model.tflite"), name="vendor")
    second = Beside(path=str(made / "out/tflite/float32/model.tflite"), name="vendor")
    data = made / "data.npz"
    assert row(api.validate(out, data=data, beside=[first]), "vendor").sqnr_db < 100
    report = api.validate(out, data=data, beside=[second])
    assert [a.precision for a in report.artifacts if a.target == "vendor"] == ["float32"]
    assert [p.name for p in (out / "vendor").iterdir()] == ["float32"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--beside", "none.tflite"], ["no such file"]),
        (["--beside", "bad.tflite"], ["no TFL3 mark"]),
        (["--beside", "cut.tflite"], ["damaged"]),
        (["--beside", "tflite=good.tflite"], ["'tflite' is taken", "--beside NAME=good.tflite"]),
        (["--beside", "good.tflite", "--port", "imag=x"], ["'imag'", "did you mean 'image'?"]),
        (["--beside", "good.tflite", "--port", "image=x"], ["no input 'x'"]),
        (["--beside", "good.tflite", "--port", "image=image@0,1,2,3"], ["no order of axes"]),
        (["--port", "image=image"], ["--port needs --beside"]),
        (["--beside", "good.tflite", "--beside", "good.tflite"], ["two rows are named 'good'"]),
    ],
)
def test_what_cannot_stand_beside_says_why_and_leaves_everything(made, out, monkeypatch, capsys, words, said):
    good = (made / "out/tflite/float32/model.tflite").read_bytes()
    monkeypatch.chdir(out.parent)
    files = {"good": good, "bad": b"nothing of the kind" * 9, "cut": good[: len(good) // 2]}
    for name, content in files.items():
        Path(f"{name}.tflite").write_bytes(content)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert main(["validate", "out", "--data", str(made / "data.npz"), "--quiet", *words]) == 2
    text = capsys.readouterr().err
    assert all(word in text for word in said), text
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_inspect_shows_signature_operators_and_number_types(made, capsys):
    assert main(["inspect", str(made / "out/tflite/int8/model.tflite")]) == 0
    said = capsys.readouterr().out
    assert "image: int8[1, 8, 8, 3], scale " in said
    assert "CONV_2D" in said
    assert "computed     int8 " in said
    assert "--beside model.tflite" in said
