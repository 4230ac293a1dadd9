"""Reading Keras files and SavedModels: the framework's own answers are the yardstick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit import api
from edgekit.cli import main
from edgekit.core.arrays import load_arrays
from edgekit.formats.tf_export import ENVIRONMENT

# what is built is built once: pytest-xdist keeps a group on one worker
pytestmark = pytest.mark.xdist_group("keras")
SUPPORT = Path(__file__).resolve().parents[1] / "support"
DYNAMIC, STATIC = "dynamic-batch", "static-batch"


def child(script: str, *words: str) -> str:
    search = os.pathsep.join([str(SUPPORT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SUPPORT / script), *words],
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": search},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]) -> Path:
    """The folder that `keras_models.py` fills."""
    for package in ("tensorflow", "tf2onnx", "tf_keras", "onnx", "onnxruntime"):
        need(package)
    folder = tmp_path_factory.mktemp("keras")
    child("keras_models.py", str(folder))
    return folder


@pytest.fixture(scope="module")
def read(models: Path) -> dict[str, Any]:
    """What came of every case; all are exported in one process."""
    (models / "broken.h5").write_bytes((models / "custom.h5").read_bytes()[:2000])

    def case(kind: str, name: str, batch: str = DYNAMIC, **options: Any) -> list[Any]:
        return [kind, batch, {"model": str(models / name), **options}]

    own = str(models / "layers.py")
    cases = {
        **{
            n: case("keras", f"{n}.keras")
            for n in ("cnn", "mobile", "unet", "lstm", "wide_lstm", "gru", "words", "old", "custom", "code")
        },
        "static lstm": case("keras", "lstm.keras", STATIC),
        "open": case("keras", "attention.keras"),
        "attention": case("keras", "attention.keras", shapes={"tokens": [1, 5, 1024]}),
        "misshaped": case("keras", "cnn.keras", shapes={"image": [1, 28, 28, 3]}),
        "misnamed": case("keras", "cnn.keras", shapes={"imagf": [1, 28, 28, 1]}),
        "old h5": case("keras", "old.h5"),
        "old code": case("keras", "old_code.h5"),
        "trusted code": case("keras", "code.keras", trust=True),
        "untrusted layers": case("keras", "custom.keras", custom_objects=own),
        "trusted layers": case("keras", "custom.keras", custom_objects=own, trust=True),
        "custom h5": case("keras", "custom.h5"),
        "weights": case("keras", "only.weights.h5"),
        "broken": case("keras", "broken.h5"),
        "one": case("saved-model", "one"),
        "exported": case("saved-model", "exported"),
        "wide": case("saved-model", "wide"),
        "two": case("saved-model", "two"),
        "grow": case("saved-model", "two", signature="grow"),
        "unknown": case("saved-model", "two", signature="grwo"),
        "none": case("saved-model", "none"),
        # tf_keras last: once it is imported, `tf.keras` is Keras 2 for the rest of the process
        "old rnn": case("keras", "old_rnn.h5"),
    }
    (models / "cases.json").write_text(json.dumps(cases))
    said = child("keras_readings.py", str(models / "cases.json"), str(models / "read"))
    answers: dict[str, Any] = json.loads(said.splitlines()[-1])
    return answers


GOOD = (
    "cnn",
    "mobile",
    "unet", "lstm", "wide_lstm", "gru", "words", "static lstm", "attention", "old", "old h5", "old rnn",
    "trusted code", "trusted layers", "one", "exported", "wide", "grow",
)  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_the_graph_answers_like_the_framework(read, name):
    assert "error" not in read[name], read[name]["text"]
    assert read[name]["differences"] == []


def test_a_graph_that_is_altered_is_told_from_the_framework(read, models):
    from edgekit.graph.compare import first_difference

    expected = load_arrays(models / "read" / "cnn" / "0.outputs.npz")
    assert first_difference(expected, {"digit": expected["digit"] + np.float32(1e-3)}) is not None


@pytest.mark.parametrize("name", GOOD)
def test_no_layer_of_a_graph_that_is_right_is_blamed(read, name):
    """Whatever tf2onnx merged, moved or transposed."""
    assert read[name]["blamed"][0] == ""


@pytest.mark.parametrize(
    ("name", "guilty"),
    [
        ("cnn", "'digit' (Dense)"),
        ("unet", "'conv2d_4' (Conv2D)"),
        ("lstm", "'lstm/lstm_cell' (LSTMCell)"),
        ("attention", "(Dense)"),
        ("one", "(MatMul)"),
    ],
)
def test_the_layer_whose_weight_was_altered_is_named(read, name, guilty):
    assert guilty in read[name]["blamed"][1]


def test_inputs_and_outputs_keep_the_names_that_the_user_gave(read):
    assert read["cnn"]["inputs"] == {"image": [1, 28, 28, 1]}
    assert read["cnn"]["outputs"] == ["digit"]
    assert read["attention"]["inputs"] == {"tokens": [1, 5, 1024]}
    assert sorted(read["attention"]["outputs"]) == ["a", "b"]
    assert read["one"]["outputs"] == ["left", "right"]


def test_outputs_of_one_shape_are_not_confused(read, models):
    answers = load_arrays(models / "read" / "one" / "0.got.npz")
    np.testing.assert_array_equal(answers["right"], np.maximum(answers["left"], 0))
    assert (answers["left"] < 0).any()


def test_recurrent_layers_stay_whole_or_are_written_out_step_by_step(read):
    assert "LSTM" in read["lstm"]["operators"]
    assert "LSTM" in read["wide_lstm"]["operators"]
    assert {"LSTM", "GRU"} <= set(read["old rnn"]["operators"])
    for name in ("wide_lstm", "gru", "words", "static lstm", "old rnn"):
        assert not {"Loop", "Scan", "If"} & set(read[name]["operators"])


def test_a_grouped_convolution_and_gelu_become_plain_operators(read):
    assert {"Conv", "Erf", "Add"} <= set(read["cnn"]["operators"])
    assert "PartitionedCall" not in str(read["cnn"]["operators"])


def test_a_file_of_keras_2_is_read_by_keras_2(read):
    for name in ("old", "old h5", "old rnn"):
        assert any("read by Keras 2" in note for note in read[name]["notes"])


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("code", "UsageError", ["plus", "--trust", "--custom-objects"]),
        ("old code", "UsageError", ["lambda", "--trust"]),
        ("custom", "UsageError", ["'Twice'", "--custom-objects layers.py --trust"]),
        ("custom h5", "UsageError", ["'Twice'", "--custom-objects layers.py --trust"]),
        ("untrusted layers", "UsageError", ["Python code that runs", "--trust"]),
        ("weights", "UsageError", ["weights, not the network", "model.save"]),
        ("broken", "UsageError", ["damaged", "copy or download it again"]),
        ("open", "UsageError", ["tokens", "--shape tokens=1,16,1024"]),
        ("misshaped", "UsageError", ["image", "(1, 28, 28, 3)"]),
        ("misnamed", "UsageError", ["did you mean 'image'?"]),
        ("two", "UsageError", ["'grow', 'twins'", "--signature grow"]),
        ("unknown", "UsageError", ["did you mean 'grow'?"]),
        ("none", "UsageError", ["no signature", "signatures="]),
    ],
)
def test_what_cannot_be_read_says_what_to_do(read, name, error, words):
    assert read[name]["error"] == error
    for word in words:
        assert word in read[name]["text"]


@pytest.mark.conformance
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("custom.h5", ["Keras knows no 'Twice'", "--custom-objects layers.py --trust"]),
        ("code.keras", ["Python code, which is not run", "plus", "--trust"]),
        ("none", ["no signature", "signatures="]),
        ("two", ["'grow', 'twins'", "--signature grow"]),
    ],
)
def test_the_command_line_says_so_and_leaves_nothing(models, tmp_path, monkeypatch, capsys, source, words):
    monkeypatch.chdir(models)
    before = sorted(models.iterdir())
    assert main(["convert", source, "-t", "onnxruntime", "-p", "float32", "-o", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.partition("error: ")[2]
    for word in (f"{source}: ", *words):
        assert word in said
    assert "Traceback" not in said
    assert sorted(models.iterdir()) == before
    assert not (tmp_path / "out").exists()


def test_one_saved_model_gives_one_graph_whatever_the_process(models, tmp_path):
    """Two fresh processes; `make conformance` does five, of every kind of file."""
    first = api.open(models / "two", out=tmp_path / "a", signature="twins")
    second = api.open(models / "two", out=tmp_path / "b", signature="twins")
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.source_digest == second.source_digest
    assert [str(t) for t in first.signature.outputs] == ["left: float32[1, 3]", "right: float32[1, 3]"]


def test_without_tensorflow_the_error_names_the_extra(models, tmp_path, monkeypatch, capsys):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in ("tensorflow", "h5py"):
        (hidden / f"{name}.py").write_text(f"raise ModuleNotFoundError('no', name={name!r})")
    monkeypatch.setenv("PYTHONPATH", str(hidden))
    for source in ("cnn.keras", "old.h5", "one"):
        words = ["convert", str(models / source), "-t", "onnxruntime", "-p", "float32"]
        assert main([*words, "-o", str(tmp_path / "out")]) == 3
        assert "pip install 'edgekit-toolchain[tensorflow]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_options_of_other_sources_are_refused(models, tmp_path, capsys):
    words = [
        "convert",
        str(models / "cnn.keras"),
        "-t",
        "onnxruntime",
        "-p",
        "float32",
        "-o",
        str(tmp_path / "o"),
    ]
    assert main([*words, "--signature", "x"]) == 2
    assert "--signature chooses one of a SavedModel's" in capsys.readouterr().err
    words[1] = str(models / "one")
    assert main([*words, "--custom-objects", "layers.py"]) == 2
    assert "--custom-objects belongs to Keras files" in capsys.readouterr().err
