"""Every kind of bad input, through the command line: a clear error, the exit code, nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from quantize_models import GraphBuilder, classifier

from edgekit.cli import main

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def convert(small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`convert(source, calibration, *more)` in the folder `small`: exit code and what was said."""
    monkeypatch.chdir(small)

    def run(source: str = "model.onnx", calibration: str = "calibration.npz", *more: str) -> tuple[int, str]:
        targets = () if "-t" in more else ("-t", "onnxruntime")
        words = ["convert", source, *targets, "--precision", "int8", "-o", "out"]
        words += ["--calibration", calibration]
        before = {p.name for p in small.iterdir()}
        code = main([*words, *more])
        assert {p.name for p in small.iterdir()} == before, "something was left behind"
        return code, capsys.readouterr().err

    return run


def test_a_model_that_is_missing(convert):
    code, said = convert("nowhere.onnx")
    assert code == 2
    assert "nowhere.onnx" in said


@pytest.mark.parametrize("content", [b"", b"garbage, not a model" * 20, bytes(range(256)) * 64])
def test_a_garbage_model(convert, small, content):
    (small / "bad.onnx").write_bytes(content)
    code, said = convert("bad.onnx")
    assert code == 2
    assert "bad.onnx" in said


def test_a_truncated_model(convert, small):
    whole = (small / "model.onnx").read_bytes()
    (small / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    code, said = convert("cut.onnx")
    assert code == 2
    assert "cut.onnx" in said


def test_a_model_whose_external_data_is_missing(convert, small):
    model = classifier()
    place, beside = str(small / "big.onnx"), {"location": "weights.bin", "size_threshold": 0}
    onnx.save(model, place, save_as_external_data=True, **beside)
    (small / "weights.bin").unlink()
    code, said = convert("big.onnx")
    assert code == 2
    assert "weights.bin" in said


def test_an_operator_that_a_target_lacks_is_named_with_its_node(convert, small):
    b = GraphBuilder()
    b.add("Det", [b.conv("image", "conv", 3, 4)], "determinant")
    onnx.save(b.build({"image": [1, 3, 8, 8]}, ["determinant"]), str(small / "det.onnx"))
    code, said = convert("det.onnx", "calibration.npz", "-t", "tflite")
    assert code == 4
    assert "Det" in said
    assert "determinant" in said


def test_an_operator_of_an_unknown_domain_is_named(convert, small):
    node = helper.make_node("Magic", ["image"], ["y"], name="the_magic_node", domain="com.example")
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(small / "magic.onnx"))
    code, said = convert("magic.onnx")
    assert code == 4
    assert "the_magic_node" in said
    assert "com.example" in said


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"imgae": np.zeros((4, 3, 8, 8), np.float32), "x": np.zeros(4)}, ("image", "imgae")),
        ({"image": np.zeros((4, 8, 8, 3), np.float32)}, ("[4, 8, 8, 3]", "NHWC")),
        ({"image": np.zeros((4, 3, 9, 9), np.float32)}, ("9",)),
        ({"image": np.zeros((4, 3, 8, 8), np.uint8)}, ("uint8", "float32")),
        ({"image": np.zeros((4, 3, 8, 8), np.complex64)}, ("complex64",)),
        ({"image": np.zeros((0, 3, 8, 8), np.float32)}, ("sample",)),
    ],
    ids=["name", "layout", "shape", "integers", "complex", "empty"],
)
def test_calibration_samples_of_the_wrong_kind(convert, small, arrays, words):
    np.savez(small / "bad.npz", **arrays)
    code, said = convert("model.onnx", "bad.npz")
    assert code == 2
    for word in words:
        assert word in said


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_name_the_array_and_the_sample(convert, small, value):
    images = np.zeros((8, 3, 8, 8), np.float32)
    images[5, 1, 2, 3] = value
    np.savez(small / "bad.npz", image=images)
    code, said = convert("model.onnx", "bad.npz")
    assert code == 2
    assert "image" in said
    assert "sample 5" in said


def test_a_model_of_four_at_a_time_is_fed_four_and_refuses_a_rest(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    b = GraphBuilder()
    pooled = b.add("GlobalAveragePool", [b.add("Relu", [b.conv("image", "conv", 3, 8)], "relu")], "pooled")
    b.add("Gemm", [b.add("Flatten", [pooled], "flat"), b.weight("w", 8, 5)], "logits")
    onnx.save(b.build({"image": [4, 3, 8, 8]}, ["logits"]), str(small / "four.onnx"))
    words = ["-t", "tflite", "-t", "onnxruntime", "--calibration", "calibration.npz", "-o", "out"]
    assert main(["convert", "four.onnx", *words]) == 0
    assert main(["validate", "out", "--data", "labelled.npz"]) == 0
    report = json.loads((small / "out" / "report.json").read_text(encoding="utf-8"))
    assert [a["accuracy"]["n"] for a in report["artifacts"]] == [32, 32]
    assert min(a["sqnr_db"] for a in report["artifacts"]) > 25
    assert main(["validate", "out", "--data", "labelled.npz", "--count", "30"]) == 2
    said = capsys.readouterr().err
    assert "4 samples at a time, 30 are no multiple" in said
    assert "28" in said


def test_an_empty_folder_of_images(convert, small):
    (small / "pictures").mkdir()
    code, said = convert("model.onnx", "pictures", "--preprocessing", "imagenet-tf")
    assert code == 2
    assert "pictures" in said


def test_int8_without_samples(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    assert main(["convert", "model.onnx", "-t", "tflite", "--precision", "int8", "-o", "out"]) == 2
    assert "--calibration" in capsys.readouterr().err
    assert not (small / "out").exists()


def test_an_unknown_key_in_a_recipe_names_its_neighbour(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    (small / "r.toml").write_text(
        'schema = 1\ntargets = ["tflite"]\nprecisions = ["float32"]\noutput = "out"\nbudget = 3\n'
        '[source]\nmodel = "model.onnx"\nshape = 3\n',
        encoding="utf-8",
    )
    assert main(["run", "r.toml"]) == 2
    said = capsys.readouterr().err
    assert "'budget'" in said
    assert "'budgets'" in said
    assert "'source.shape'" in said
    assert "'shapes'" in said


def test_an_output_folder_that_exists_is_not_touched(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    (small / "out").mkdir()
    (small / "out" / "precious.txt").write_text("mine", encoding="utf-8")
    words = ["convert", "model.onnx", "-t", "onnxruntime", "--precision", "float32", "-o", "out"]
    assert main(words) == 2
    assert "exists" in capsys.readouterr().err
    assert [p.name for p in (small / "out").iterdir()] == ["precious.txt"]


def test_an_output_folder_that_exists_costs_no_work_before_it_is_said(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    (small / "out").mkdir()
    main(["convert", "model.onnx", "-t", "onnxruntime", "--precision", "float32", "-o", "out"])
    assert "done in" not in capsys.readouterr().err


def test_overwrite_replaces_it_only_when_the_run_succeeds(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    (small / "out").mkdir()
    (small / "out" / "old.txt").write_text("old", encoding="utf-8")
    words = ["-t", "onnxruntime", "--precision", "float32", "-o", "out", "--overwrite"]
    assert main(["convert", "nowhere.onnx", *words]) == 2
    assert (small / "out" / "old.txt").is_file()
    assert main(["convert", "model.onnx", *words]) == 0
    assert not (small / "out" / "old.txt").exists()
    assert (small / "out" / "report.json").is_file()


@pytest.fixture
def code_bearing(small: Path) -> dict[str, Path]:
    """A TorchScript file, a .pt2, and a pickled module."""
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    example = (torch.zeros(1, 3, 8, 8),)
    files = {name: small / name for name in ("script.ts", "program.pt2", "pickled.pt")}
    torch.jit.trace(module, example).save(str(files["script.ts"]))
    torch.export.save(torch.export.export(module, example), str(files["program.pt2"]))
    torch.save(module, str(files["pickled.pt"]))
    return files


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("script.ts", ["TorchScript", "--trust"]),
        ("program.pt2", [".pt2", "--trust"]),
        ("pickled.pt", ["torch.nn.modules.container.Sequential", "module.py:factory --state"]),
    ],
)
def test_what_can_run_code_is_not_loaded_without_trust(code_bearing, convert, name, words):
    code, said = convert(name)
    assert code == 2
    for word in [name, *words]:
        assert word in said


def test_a_pickle_as_state_dict_runs_nothing(convert, small):
    import pickle

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (small / "exploded",))

    (small / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    (small / "net.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Conv2d(3, 4, 3), {'input': torch.zeros(1, 3, 8, 8)}\n",
        encoding="utf-8",
    )
    code, said = convert("net.py:net", "calibration.npz", "--state", "bomb.pt")
    assert code == 2
    assert "bomb.pt" in said
    assert not (small / "exploded").exists()


def test_a_state_dict_that_does_not_fit_names_every_key_and_both_shapes(convert, small):
    import torch

    torch.save({"weight": torch.zeros(4, 3, 5, 5), "extra": torch.zeros(1)}, small / "misfit.pt")
    (small / "net.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Conv2d(3, 4, 3), {'input': torch.zeros(1, 3, 8, 8)}\n",
        encoding="utf-8",
    )
    code, said = convert("net.py:net", "calibration.npz", "--state", "misfit.pt")
    assert code == 2
    for word in ("misfit.pt", "missing: bias", "unexpected: extra", "(4, 3, 5, 5)", "(4, 3, 3, 3)", "hint:"):
        assert word in said


def test_an_unknown_target_names_its_neighbour(convert):
    code, said = convert("model.onnx", "calibration.npz", "-t", "tflight")
    assert code == 2
    assert "'tflite'" in said


def test_every_problem_of_a_recipe_is_said_at_once(small, monkeypatch, capsys):
    monkeypatch.chdir(small)
    (small / "r.toml").write_text(
        'targets = []\nprecisions = ["int4"]\noutput = 7\n[source]\nmodell = "model.onnx"\n', encoding="utf-8"
    )
    assert main(["run", "r.toml"]) == 2
    said = capsys.readouterr().err
    for word in ("int4", "output", "modell"):
        assert word in said
