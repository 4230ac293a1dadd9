"""report.json, report.md and the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.core.recipe import Budgets
from edgekit.core.report import Accuracy, ArtifactReport, Latency, Report, SourceReport, Speedup
from edgekit.errors import InternalError, UsageError
from edgekit.measure.verdict import judge
from edgekit.report import read_report, render_markdown, render_table, write_report

ACCURACY = Accuracy(metric="accuracy", source=0.845, artifact=0.84, drop=0.5, interval=(-1.0, 2.5), n=200)
LATENCY = Latency(median=8.114, p90=8.9, p99=10.2, n=40, warmup=10, threads=1)
UNSURE = Speedup(ratio=1.02, interval=(0.97, 1.1), claim="inconclusive")
REFUSAL = "the CUDA provider has no int8 kernels: int8 on NVIDIA runs only through the TensorRT provider"


def artifact(target: str, precision: str, speedup: Speedup | None = None, **changes: Any) -> ArtifactReport:
    entry = ArtifactReport(
        target=target, precision=precision, status="ok", path=f"{target}/{precision}", size_bytes=4_700_000,
        integer_share=1.0 if precision == "int8" else 0.0, integer_ops=64, total_ops=64, accuracy=ACCURACY,
        top1_agreement=0.975, sqnr_db=18.23, cosine=0.9931, max_abs=3.2, latency_ms=LATENCY,
        speedup=speedup and speedup.ratio, speedup_detail=speedup, peak_memory_bytes=98_000_000,
    )
    return replace(entry, **changes)


def full_report() -> Report:
    return judge(
        Report(
            edgekit="0.1.0",
            source=SourceReport(
                model="net.onnx", format="onnx", digest="ab" * 32, size_bytes=18_600_000, accuracy=0.845,
                latency_ms=replace(LATENCY, median=12.3), notes=("simplified: 142 to 102 nodes",),
            ),
            verdict="pass",
            artifacts=(
                artifact("tflite", "float32", size_bytes=18_500_000),
                artifact("tflite", "int8", Speedup(ratio=0.81, interval=(0.78, 0.85), claim="slower")),
                artifact("openvino", "int8", Speedup(ratio=1.31, interval=(1.2, 1.4), claim="faster")),
                artifact("onnxruntime", "int8", UNSURE),
                ArtifactReport(target="onnxruntime-cuda", precision="float16", status="not_validated",
                               reasons=("no NVIDIA GPU here",), size_bytes=9_300_000),
                ArtifactReport(target="onnxruntime-cuda", precision="int8", status="refused",
                               reasons=(REFUSAL,)),
                ArtifactReport(target="openvino", precision="float16", status="failed",
                               reasons=("crashed with SIGSEGV\n  log: the.log",)),
            ),
            machine={"cpu": "a | b"},
            versions={"numpy": "2.4.6"},
        ),
        Budgets(max_accuracy_drop=1.5, precisions=("int8",)),
    )


def test_the_json_has_the_keys_that_are_promised(tmp_path: Path) -> None:
    write_report(full_report(), tmp_path)
    data = json.loads((tmp_path / "report.json").read_text())
    assert {"schema", "source", "verdict", "artifacts"} <= set(data)
    assert data["schema"] == 1
    entry = data["artifacts"][1]
    promised = (
        "target precision status reasons path size_bytes integer_share accuracy top1_agreement sqnr_db "
        "cosine max_abs latency_ms speedup peak_memory_bytes verdict"
    )
    assert set(promised.split()) <= set(entry)
    assert set(entry["accuracy"]) >= {"metric", "source", "artifact", "drop", "n"}
    assert set(entry["latency_ms"]) >= {"median", "p90", "p99", "n", "threads"}
    assert data["artifacts"][5]["accuracy"] is None


def test_a_report_read_back_is_the_report(tmp_path: Path) -> None:
    report = full_report()
    write_report(report, tmp_path)
    assert read_report(tmp_path) == report
    assert read_report(tmp_path / "report.json") == report


def test_the_same_report_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_report(full_report(), tmp_path / "a")
    write_report(read_report(tmp_path / "a"), tmp_path / "b")
    for name in ("report.json", "report.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_is_a_defect_named_and_nothing_is_written(
    tmp_path: Path, value: float
) -> None:
    report = replace(full_report(), artifacts=(artifact("tflite", "int8", sqnr_db=value),))
    with pytest.raises(InternalError, match=r"report\.artifacts\[0\]\.sqnr_db"):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no report here"),
        ("{", "not a readable report"),
        ("[]", "report schema None"),
        ('{"schema": 2}', "report schema 2, this edgekit reads 1"),
        ('{"schema": 1}', "missing key 'source'"),
    ],
)
def test_a_missing_or_damaged_report_is_refused(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "report.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_report(tmp_path)
    assert said in str(caught.value)


def test_the_table_fits_120_columns_and_shows_every_artifact() -> None:
    text = render_table(full_report())
    lines = text.splitlines()
    assert max(map(len, lines)) <= 120
    assert lines[0] == "verdict: FAIL"
    first = next(i for i, line in enumerate(lines) if line.startswith("---")) + 1
    rows = [line.split()[:2] for line in lines[first : first + 7]]
    assert rows == [[a.target, a.precision] for a in full_report().artifacts]
    assert lines[first + 7] == ""


def test_the_table_narrows_to_what_is_asked() -> None:
    assert "97.5 %" in render_table(full_report())
    narrow = render_table(full_report(), width=112)
    assert max(map(len, narrow.splitlines())) <= 112
    assert "0.81x [0.78, 0.85]" in narrow


def test_the_table_leaves_out_columns_without_figures() -> None:
    bare = ArtifactReport(target="tflite", precision="int8", status="ok", size_bytes=9)
    made = replace(full_report(), artifacts=(bare,))
    header = render_table(made).splitlines()[3]
    assert header.split() == ["target", "precision", "size", "verdict"]


def test_the_table_says_honest_words() -> None:
    text = render_table(full_report())
    assert "tflite int8: int8 is slower than float32 on this machine: 0.81x [0.78, 0.85]" in text
    assert "onnxruntime int8: speedup is inconclusive" in text
    assert "onnxruntime-cuda float16: not validated here: no NVIDIA GPU here" in text
    assert "onnxruntime-cuda int8: refused: the CUDA provider has no int8 kernels" in text
    assert "openvino float16: failed: crashed with SIGSEGV" in text


def test_an_inconclusive_speedup_says_why() -> None:
    few = artifact("tflite", "int8", replace(UNSURE, ratio=0.75, interval=(0.56, 0.83)))
    said = render_table(replace(full_report(), artifacts=(few,)))
    assert "tflite int8: speedup is inconclusive: too few rounds for a claim" in said
    unsure = render_table(replace(full_report(), artifacts=(artifact("tflite", "int8", UNSURE),)))
    assert "tflite int8: speedup is inconclusive: its interval holds 1" in unsure


def test_the_markdown_starts_with_the_verdict_and_its_reasons() -> None:
    lines = render_markdown(full_report()).splitlines()
    assert lines[0] == "# Verdict: FAIL"
    assert lines[2] == "`net.onnx`: 7 artifacts asked for, 4 passed, 2 failed, 1 not judged."
    assert lines[4].startswith("- onnxruntime-cuda/int8: refused")


def test_the_markdown_table_has_one_row_an_artifact_and_as_many_cells_as_heads() -> None:
    text = render_markdown(full_report())
    table = text.split("## Artifacts")[1].split("##")[0].strip().splitlines()
    assert len(table) == 2 + 7
    assert len({line.count("|") for line in table}) == 1
    assert "| tflite | int8 | 4.7 MB | 3.94x | 84.00 % | 0.50 [-1.00, 2.50] | 97.5 % | 18.2 |" in text
    assert "8.11 / 8.90 / 10.2" in text
    assert "0.81x [0.78, 0.85], slower than float32 here" in text


def test_the_markdown_keeps_the_lines_of_an_error_and_escapes_bars() -> None:
    text = render_markdown(full_report())
    assert "  ```text\n    log: the.log\n  ```" in text
    assert text.count("crashed with SIGSEGV") == 2  # in the verdict and where the artifact is described
    assert "a \\| b" in text
    assert "\n\n\n" not in text


def test_a_report_of_one_artifact_that_was_only_made_renders() -> None:
    entry = ArtifactReport(target="tflite", precision="int8", status="ok", size_bytes=900, path="tflite/int8")
    report = judge(replace(full_report(), artifacts=(entry,)), Budgets())
    assert "not judged" in render_table(report)
    assert "1 artifact asked for, 1 not judged" in render_markdown(report)
    assert "900 B" in render_markdown(report)


def test_a_share_just_below_one_is_not_rounded_up_to_all() -> None:
    entry = artifact("tflite", "int8", integer_share=0.999, top1_agreement=0.9999)
    row = render_markdown(replace(full_report(), artifacts=(entry,)))
    assert "| 99 % |" in row
    assert "| 99.9 % |" in row


def test_an_interval_of_no_width_is_explained() -> None:
    sure = artifact("tflite", "int8", accuracy=replace(ACCURACY, drop=0.0, interval=(0.0, 0.0)))
    assert "differences rarer than 1 in 66 can go unseen" in render_markdown(
        replace(full_report(), artifacts=(sure,))
    )
