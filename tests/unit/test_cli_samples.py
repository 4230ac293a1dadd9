"""`edgekit samples`, on a network that knows its training samples and on one that does not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from photographs import chain, crops, network

import edgekit
from edgekit.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    onnx.save(network(np.float32(crops(100, seed=0) / 255)), folder / "model.onnx")
    np.savez(folder / "right.npz", image=crops(20, 1) / np.float32(255), labels=np.arange(20) % 5)
    np.savez(folder / "raw.npz", image=crops(20, 1))
    return folder


def asked(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert main(["samples", "--quiet", *words]) == code
    return capsys.readouterr().out


def test_it_says_what_a_model_would_be_fed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = asked(capsys, "--data", str(place / "right.npz"), "--model", str(place / "model.onnx"), "--json")
    value = json.loads(said)
    assert value["count"] == 20
    assert value["classes"] == 5
    assert value["digest"].startswith("sha256:")
    [given] = value["inputs"]
    data = crops(20, 1).astype(np.float64) / 255
    np.testing.assert_allclose(given["low"], data.min((0, 2, 3)), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(given["mean"], data.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(given["deviation"], data.std((0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(given["high"], data.max((0, 2, 3)), rtol=1e-5)
    assert value["judgement"]["suspicion"] == ""
    spec = 'schema = 1\nname = "t"\nkind = "arrays"\npath = "right.npz"\ndigest = "{}"\n'
    (place / "spec.toml").write_text(spec.format(value["digest"]))
    again = asked(capsys, "--data", str(place / "spec.toml"), "--model", str(place / "model.onnx"))
    assert value["digest"] in again


def test_it_warns_as_convert_does_and_takes_what_convert_wrote(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = place / "model.onnx"
    edgekit.convert(source, targets=["onnxruntime"], precisions=["float32"], output=place / "out")
    said = asked(capsys, "--data", str(place / "raw.npz"), "--model", str(place / "out"))
    assert "WARNING: the samples are not prepared as in training" in said
    assert "what fits is 0..1, pixel / 255" in said
    assert "channel 2: " in said
    assert "labels    none" in said


def test_it_says_when_the_model_cannot_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    relu = onnx.helper.make_node("Relu", ["image"], ["y"])
    onnx.save(chain([relu], {}, [1, 4], "y"), tmp_path / "m.onnx")
    (tmp_path / "d.csv").write_text("a,b,c,d\n1,2,3,4\n5,6,7,8\n")
    said = asked(capsys, "--data", str(tmp_path / "d.csv"), "--model", str(tmp_path / "m.onnx"))
    assert "not checked: the model has no BatchNorm" in said
    assert "1 to 8, mean 4.5" in said
