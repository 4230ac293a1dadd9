"""The command line: options to arguments, answers, errors and exit codes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit import api
from edgekit.cli import main
from edgekit.core.events import Event
from edgekit.core.recipe import (
    BenchmarkOptions,
    Budgets,
    CalibrationOptions,
    DataSource,
    QuantizationOptions,
    ValidationOptions,
)
from edgekit.core.report import ArtifactReport, Report, SourceReport
from edgekit.errors import InternalError, MissingPackage, Reason, StepError, Unsupported, UsageError

SOURCE = SourceReport(model="m.onnx", format="onnx", digest="0" * 64, size_bytes=10)
PASS = Report(
    edgekit="0.1.0",
    source=SOURCE,
    verdict="pass",
    artifacts=(ArtifactReport(target="tflite", precision="int8", status="ok"),),
)
FAIL = Report(edgekit="0.1.0", source=SOURCE, verdict="fail", verdict_reasons=("too slow",), artifacts=())

CONVERT_SIGNATURE = inspect.signature(api.convert)  # before a test replaces it

Called = dict[str, Any]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    """Replaces the verbs of the API; receives the arguments of the one that is called."""
    seen: Called = {}

    def verb(name: str) -> Callable[..., Report]:
        def record(first: Any, **named: Any) -> Report:
            named.pop("on_event")(Event(step="work", state="done", seconds=1.0))
            seen.update(named, verb=name, first=first)
            return PASS

        return record

    for name in ("convert", "validate", "benchmark", "run"):
        monkeypatch.setattr(api, name, verb(name))
    return seen


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def verb(*_: Any, **__: Any) -> Report:
        raise error

    monkeypatch.setattr(api, "benchmark", verb)


def test_convert_passes_every_option_on(called: Called) -> None:
    code = main([
        "convert", "model.py:net", "-t", "tflite", "--target", "openvino", "-p", "int8",
        "--precision", "float16",
        "--calibration", "pictures", "--preprocessing", "spec.toml", "--calibration-count", "8",
        "--calibration-skip", "2", "--calibration-seed", "0", "--calibration-method", "percentile",
        "--percentile", "99.9", "--shape", "input=1,3,32,32", "--shape", "a=b=4",
        "--dynamic", "input=batch,,height", "--state", "w.pt", "--trust", "--layout", "source",
        "--signature", "serve", "--custom-objects", "layers.py",
        "--labels", "l.txt", "--allow-refused", "openvino/int8",
        "--no-simplify", "--quantized-io", "--overwrite", "--deadline", "30", "-o", "out",
        "--keep", "a/b=c=float32", "--rescue", "--data", "held-back.npz", "--metric", "f1",
        "--output-name", "y", "--max-accuracy-drop", "0.5", "--min-sqnr", "20", "--min-agreement", "0.9",
    ])  # fmt: skip
    assert code == 0
    data = DataSource(path="pictures", preprocessing="spec.toml", count=8, skip=2, seed=0)
    assert called == {
        "verb": "convert",
        "first": "model.py:net",
        "targets": ["tflite", "openvino"],
        "output": "out",
        "precisions": ["int8", "float16"],
        "calibration": CalibrationOptions(data=data, method="percentile", percentile=99.9),
        "quantization": QuantizationOptions(keep={"a/b=c": "float32"}, rescue=True),
        "validation": ValidationOptions(
            data=DataSource(path="held-back.npz", preprocessing="spec.toml"), metric="f1", output="y"
        ),
        "budgets": Budgets(max_accuracy_drop=0.5, min_sqnr_db=20.0, min_top1_agreement=0.9),
        "state": "w.pt",
        "trust": True,
        "signature": "serve",
        "custom_objects": "layers.py",
        "shapes": {"input": (1, 3, 32, 32), "a=b": (4,)},
        "dynamic": {"input": ("batch", "", "height")},
        "layout": "source",
        "labels": "l.txt",
        "allow_refused": ["openvino/int8"],
        "simplify": False,
        "quantized_io": True,
        "overwrite": True,
        "deadline_s": 30.0,
    }


def test_convert_has_the_defaults_of_the_python_function(called: Called) -> None:
    main(["convert", "m.onnx", "-t", "tflite", "-o", "out", "--calibration", "s.npz"])
    assert called["calibration"] == CalibrationOptions(data=DataSource(path="s.npz"))
    assert called["shapes"] == called["dynamic"] == {}
    assert called["allow_refused"] == []
    asked = {"targets", "output", "calibration", "shapes", "dynamic", "allow_refused"}
    for name, parameter in CONVERT_SIGNATURE.parameters.items():
        if name in called and name not in asked:
            assert called[name] == parameter.default, name


def test_validate_passes_every_option_on(called: Called) -> None:
    code = main([
        "validate", "out", "--data", "d.npz", "--metric", "top5", "--output", "logits", "--max-accuracy-drop",
        "0.5", "--preprocessing", "p.toml", "--count", "3", "--skip", "1", "--seed", "4",
    ])  # fmt: skip
    assert code == 0
    assert called == {
        "verb": "validate",
        "first": "out",
        "data": DataSource(path="d.npz", preprocessing="p.toml", count=3, skip=1, seed=4),
        "metric": "top5",
        "judged_output": "logits",
        "max_accuracy_drop": 0.5,
        "beside": [],
        "deadline_s": 900.0,
    }


def test_benchmark_passes_every_option_on(called: Called) -> None:
    options = ["--rounds", "7", "--warmup", "0", "--threads", "2"]
    assert main(["benchmark", "out", *options, "--max-latency-ms", "5", "--min-speedup", "1.5"]) == 0
    assert called == {
        "verb": "benchmark",
        "first": "out",
        "options": BenchmarkOptions(rounds=7, warmup=0, threads=2),
        "max_latency_ms": 5.0,
        "min_speedup": 1.5,
        "beside": [],
        "deadline_s": 900.0,
    }


def test_run_reads_the_recipe_and_overrides_its_output(called: Called, tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        'targets = ["tflite"]\nprecisions = ["float32"]\noutput = "there"\n[source]\nmodel = "m.onnx"\n'
    )
    assert main(["run", str(recipe)]) == 0
    assert called["first"].output == str(tmp_path / "there")
    assert called["first"].overwrite is False
    assert main(["run", str(recipe), "-o", "here", "--overwrite"]) == 0
    assert called["first"].output == "here"
    assert called["first"].overwrite is True


def test_the_answer_is_the_table_and_the_place_of_the_report(
    called: Called, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "out"]) == 0
    printed = capsys.readouterr()
    assert "tflite" in printed.out
    assert str(Path("out") / "report.md") in printed.out
    assert printed.err == "work: done in 1.0 s\n"


def test_json_is_one_strict_document_and_nothing_else(
    called: Called, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["benchmark", "out", "--json", "--quiet"]) == 0
    printed = capsys.readouterr()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    value = json.loads(printed.out, parse_constant=refuse)
    assert value["verdict"] == "pass"
    assert value["artifacts"][0]["target"] == "tflite"
    assert printed.err == ""


def test_verdict_fail_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(api, "benchmark", lambda *_, **__: FAIL)
    assert main(["benchmark", "out"]) == 1
    assert "FAIL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("bad", where="here", problems=["first", "second"], hint="do this"), 2,
         ["here: bad", "- first", "- second", "hint: do this"]),
        (MissingPackage("openvino", extra="openvino"), 3, ["'openvino'", "pip install", "[openvino]"]),
        (Unsupported("no", reasons=[Reason(node="n1", why="because", hint="try")]), 4, ["n1: because (try)"]),
        (StepError("died", kind="crashed", where="lower", log_path="/x/log", command="python -m y"), 5,
         ["lower: died", "log: /x/log", "reproduce: python -m y"]),
        (InternalError("oops"), 70, ["oops"]),
        (MemoryError(), 5, ["memory"]),
        (OSError(28, "No space left on device", "/big/file"), 5, ["/big/file", "no space"]),
        (PermissionError(13, "Permission denied", "/closed/out"), 2, ["/closed/out", "Permission denied"]),
    ],
)  # fmt: skip
def test_every_error_has_its_exit_code_and_says_what_it_knows(
    error: Exception, code: int, said: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    raising(monkeypatch, error)
    assert main(["benchmark", "out"]) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    for phrase in said:
        assert phrase in printed.err
    assert main(["benchmark", "out", "--json"]) == code
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["exit_code"] == code


def test_json_errors_keep_problems_and_reasons(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, Unsupported("no", where="tflite", reasons=[Reason(node="n1", why="because")]))
    assert main(["benchmark", "out", "--json"]) == 4
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "Unsupported"
    assert error["where"] == "tflite"
    assert error["reasons"] == [{"node": "n1", "why": "because", "hint": ""}]


def test_an_unforeseen_exception_is_70_with_its_traceback_in_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    raising(monkeypatch, ZeroDivisionError("surprise"))
    assert main(["benchmark", "out"]) == 70
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    [log] = (tmp_path / "logs").iterdir()
    assert str(log) in printed.err
    text = log.read_text()
    assert "ZeroDivisionError: surprise" in text
    assert "edgekit benchmark out" in text


def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, ZeroDivisionError("surprise"))
    assert main(["benchmark", "out", "--debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    raising(monkeypatch, ZeroDivisionError("surprise"))
    assert main(["benchmark", "out"]) == 70
    assert "ZeroDivisionError: surprise" in capsys.readouterr().err


def test_ctrl_c_is_130_and_says_that_nothing_is_half_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    raising(monkeypatch, KeyboardInterrupt())
    assert main(["benchmark", "out"]) == 130
    assert "interrupted; nothing half-written" in capsys.readouterr().err
    assert main(["benchmark", "out", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 130


def test_ctrl_c_while_an_error_is_reported_is_130_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Slow(UsageError):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    raising(monkeypatch, Slow("bad"))
    assert main(["benchmark", "out"]) == 130
    assert "interrupted" in capsys.readouterr().err


CONVERT = ["convert", "m.onnx", "-t", "tflite", "-o", "out"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["a command is needed", "convert"]),
        (["convrt"], ["'convrt'", "did you mean 'convert'?"]),
        (["--jsn"], ["--jsn"]),
        ([*CONVERT, "--precison", "int8"], ["'--precison'", "did you mean '--precision'?"]),
        ([*CONVERT, "--outputt=x", "--tust"], ["did you mean '--output'?", "did you mean '--trust'?"]),
        ([*CONVERT, "--precision", "in8"], ["--precision", "'in8'", "did you mean 'int8'?"]),
        ([*CONVERT, "-p", "bogus"], ["'bogus'", "allowed: dynamic-int8, float16, float32, int16x8, int8"]),
        ([*CONVERT, "--calibration", "x", "--calibration-method", "minmx"], ["did you mean 'minmax'?"]),
        ([*CONVERT, "--calibration", "x", "--percentile", "99"], ["--calibration-method percentile"]),
        ([*CONVERT, "--calibration-count", "3", "--percentile", "99"],
         ["--calibration-count needs --calibration", "--percentile needs --calibration"]),
        ([*CONVERT, "--calibration", "x", "--calibration-count", "0"], ["at least 1"]),
        ([*CONVERT, "--calibration", "x", "--calibration-method", "percentile", "--percentile", "5"],
         ["percentile: got 5.0"]),
        ([*CONVERT, "--shape", "1,3", "--shape", "x=1,a", "--shape", "y=0", "--shape", "z="],
         ["'1,3'", "'x=1,a'", "'y=0'", "'z='", "NAME=1,3,224,224"]),
        ([*CONVERT, "--shape", "x=1", "--shape", "x=2"], ["two shapes"]),
        ([*CONVERT, "--deadline", "0"], ["at least 1"]),
        ([*CONVERT, "--deadline", "nan"], ["'nan'"]),
        ([*CONVERT, "surplus"], ["'surplus'"]),
        (["convert", "m.onnx", "-o", "x"], ["-t/--target"]),
        (["validate", "out", "--data", "x", "--metric", "acuracy"], ["did you mean 'accuracy'?"]),
        (["validate", "out"], ["--data"]),
        (["benchmark", "out", "--rounds", "2", "--threads", "0"], ["rounds: got 2", "threads: got 0"]),
        (["benchmark", "out", "--min-speedup", "fast"], ["'fast'", "a number"]),
        ([*CONVERT, "--dynamic", "x=1,batch", "--dynamic", "y=,", "--dynamic", "batch"],
         ["bad --dynamic", "'x=1,batch'", "'y=,'", "got 'batch'"]),
        (["run", "no-such-recipe.toml"], ["no such file", "no-such-recipe.toml"]),
        (["inspect", "no-such-model.onnx"], ["no such file or folder"]),
    ],
)  # fmt: skip
def test_wrong_usage_is_2_and_says_what_is_allowed(
    words: list[str], said: list[str], called: Called, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    for phrase in said:
        assert phrase in printed.err
    assert called == {}


def test_a_recipe_with_an_unknown_key_names_its_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text('targetts = ["tflite"]\noutput = "x"\n[source]\nmodel = "m"\n')
    assert main(["run", str(recipe)]) == 2
    assert "did you mean 'targets'?" in capsys.readouterr().err


def test_wrong_usage_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--json", "--nonsense"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "UsageError"


def test_help_and_version_are_answers(capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"edgekit {__version__}\n"
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in ("convert", "validate", "benchmark", "run", "targets", "inspect", "doctor", "exit codes"):
        assert name in text
    assert main(["convert", "--help"]) == 0
    assert "--calibration-method" in capsys.readouterr().out


def test_targets_lists_every_profile_and_what_it_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    from edgekit.core.target import list_targets

    assert main(["targets"]) == 0
    text = capsys.readouterr().out
    for target in list_targets():
        assert target.name in text
        for why in target.refuse.values():
            assert why in text
    assert main(["targets", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [t["name"] for t in value["targets"]] == [t.name for t in list_targets()]


def test_inspect_of_an_empty_folder_says_what_to_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path)]) == 2
    assert "no artifact in this folder" in capsys.readouterr().err
