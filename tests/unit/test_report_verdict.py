"""The verdict: what fails, what passes, what is left unsaid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgekit.core.recipe import Budgets
from edgekit.core.report import Accuracy, ArtifactReport, Latency, Report, SourceReport, Speedup
from edgekit.measure.verdict import judge

ACCURACY = Accuracy(metric="accuracy", source=0.9, artifact=0.895, drop=0.5, interval=(0.1, 0.9), n=1000)
LATENCY = Latency(median=5.0, p90=6.0, p99=7.0, n=40, warmup=10, threads=1)


def artifact(target: str = "tflite", precision: str = "int8", **changes: Any) -> ArtifactReport:
    entry = ArtifactReport(
        target=target, precision=precision, status="ok", size_bytes=1_000_000, accuracy=ACCURACY,
        latency_ms=LATENCY, speedup=1.5,
        speedup_detail=Speedup(ratio=1.5, interval=(1.4, 1.6), claim="faster"),
    )
    return replace(entry, **changes)


def unmeasured(status: str, *reasons: str, **place: str) -> ArtifactReport:
    return artifact(
        **place, status=status, reasons=reasons, accuracy=None, latency_ms=None, speedup=None,
        speedup_detail=None,
    )


def judged(*artifacts: ArtifactReport, allow_refused: tuple[str, ...] = (), **budgets: Any) -> Report:
    source = SourceReport(model="m.onnx", format="onnx", digest="0", size_bytes=4_000_000)
    report = Report(edgekit="0", source=source, verdict="fail", artifacts=artifacts)
    return judge(report, Budgets(**budgets), allow_refused)


KEPT = {"max_accuracy_drop": 1.0, "max_latency_ms": 5.0, "max_size_bytes": 1_000_000, "min_speedup": 1.5}


def test_budgets_that_are_kept_pass_without_a_word() -> None:
    report = judged(artifact(), **KEPT)
    assert (report.verdict, report.verdict_reasons) == ("pass", ())
    assert (report.artifacts[0].verdict, report.artifacts[0].verdict_reasons) == ("pass", ())


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"max_accuracy_drop": 0.05}, "accuracy drop 0.5 points is over the limit 0.05 points"),
        ({"max_latency_ms": 4.9}, "median latency 5 ms is over the limit 4.9 ms"),
        ({"max_size_bytes": 999_999}, "size 1,000,000 bytes is over the limit 999,999 bytes"),
        ({"min_speedup": 1.6}, "speedup 1.50x is under the limit 1.6x"),
    ],
)
def test_each_broken_budget_fails_with_figure_and_limit(budget: dict[str, float], said: str) -> None:
    report = judged(artifact(), **budget)
    assert report.verdict == report.artifacts[0].verdict == "fail"
    assert report.artifacts[0].verdict_reasons == (said,)
    assert report.verdict_reasons == (f"tflite/int8: {said}",)


def test_all_broken_budgets_are_told() -> None:
    report = judged(artifact(), max_accuracy_drop=0.0, max_latency_ms=1.0, max_size_bytes=1, min_speedup=9.0)
    assert len(report.artifacts[0].verdict_reasons) == 4


def test_budgets_bind_only_the_precisions_they_name() -> None:
    slow = artifact(precision="float16", size_bytes=9_000_000)
    assert judged(artifact(), slow, max_size_bytes=2_000_000, precisions=("int8",)).verdict == "pass"
    assert judged(artifact(), slow, max_size_bytes=2_000_000).verdict == "fail"


def test_the_drop_decides_and_an_interval_that_holds_the_limit_is_told() -> None:
    wide = replace(ACCURACY, interval=(-0.5, 1.5))
    within = judged(artifact(accuracy=wide), max_accuracy_drop=1.0).artifacts[0]
    assert within.verdict == "pass"
    assert "1000 samples do not settle it" in within.verdict_reasons[0]
    over = judged(artifact(accuracy=wide), max_accuracy_drop=0.4).artifacts[0]
    assert over.verdict == "fail"
    assert "is over the limit 0.4, but the 95 % interval holds the limit" in over.verdict_reasons[1]


def test_an_error_metric_is_limited_in_its_own_unit() -> None:
    error = Accuracy(metric="mse", source=0.0, artifact=0.02, drop=0.02, interval=(0.01, 0.03), n=10)
    entry = judged(artifact(accuracy=error), max_accuracy_drop=0.005).artifacts[0]
    assert entry.verdict_reasons == ("accuracy drop 0.02 is over the limit 0.005",)


def test_a_failed_artifact_fails_the_run_and_the_first_line_of_its_reason_is_told() -> None:
    report = judged(artifact(), unmeasured("failed", "crashed with SIGSEGV\n  log: x", target="openvino"))
    assert report.verdict == "fail"
    assert report.artifacts[0].verdict == "pass"
    assert report.verdict_reasons == ("openvino/int8: failed: crashed with SIGSEGV",)


def test_a_refusal_fails_unless_it_is_allowed() -> None:
    refused = unmeasured("refused", "no int8 kernels", target="onnxruntime-cuda")
    assert judged(artifact(), refused, **KEPT).verdict == "fail"
    allowed = judged(artifact(), refused, allow_refused=("onnxruntime-cuda/int8",), **KEPT)
    assert (allowed.verdict, allowed.artifacts[1].verdict) == ("pass", "none")
    assert allowed.artifacts[1].verdict_reasons == ("refused, as expected: no int8 kernels",)
    other = judged(artifact(), refused, allow_refused=("onnxruntime-cuda/float16",), **KEPT)
    assert other.verdict == "fail"


def test_what_could_not_run_here_has_no_verdict_and_says_which_budgets_are_open() -> None:
    entry = judged(artifact(), unmeasured("not_validated", "no GPU here", target="cuda"), **KEPT).artifacts[1]
    assert entry.verdict == "none"
    assert entry.verdict_reasons[0] == "not validated here: no GPU here"
    assert [r.partition(":")[0] for r in entry.verdict_reasons[1:]] == [
        "not measured, so the budget is not proven"
    ] * 3


def test_what_could_not_run_here_still_fails_by_its_size() -> None:
    entry = unmeasured("not_validated", "no GPU here", target="cuda")
    assert judged(artifact(), entry, max_size_bytes=999).artifacts[1].verdict == "fail"


def test_a_budget_without_a_figure_fails_an_artifact_that_ran() -> None:
    entry = artifact(speedup=None, speedup_detail=None)
    report = judged(entry, min_speedup=1.2)
    assert report.verdict == "fail"
    assert "not measured" in report.verdict_reasons[0]


def test_a_speedup_does_not_bind_float32_itself() -> None:
    base = artifact(precision="float32", speedup=None, speedup_detail=None)
    assert judged(base, artifact(), min_speedup=1.2).verdict == "pass"


def test_int8_slower_than_float32_is_said_though_no_budget_is_broken() -> None:
    slow = Speedup(ratio=0.9, interval=(0.85, 0.95), claim="slower")
    report = judged(artifact(speedup=0.9, speedup_detail=slow), max_size_bytes=2_000_000)
    said = "int8 is slower than float32 on this machine: 0.90x [0.85, 0.95]"
    assert (report.verdict, report.artifacts[0].verdict) == ("pass", "pass")
    assert report.artifacts[0].verdict_reasons == (said,)
    assert report.verdict_reasons == (f"tflite/int8: {said}",)


def test_an_inconclusive_speedup_is_not_called_slower() -> None:
    unsure = Speedup(ratio=0.98, interval=(0.95, 1.02), claim="inconclusive")
    assert judged(artifact(speedup=0.98, speedup_detail=unsure)).artifacts[0].verdict_reasons == ()


def test_without_budgets_the_verdict_says_so() -> None:
    report = judged(artifact())
    assert (report.verdict, report.verdict_reasons) == ("pass", ("no budget was set",))


def test_an_artifact_that_was_only_made_has_no_verdict() -> None:
    report = judged(unmeasured("ok"))
    assert (report.verdict, report.artifacts[0].verdict) == ("pass", "none")
    assert report.artifacts[0].verdict_reasons == ("neither validated nor timed",)
    assert report.verdict_reasons[-1] == "no artifact was judged"


def test_budgets_that_nothing_was_proven_to_keep_fail_the_run() -> None:
    report = judged(unmeasured("not_validated", "no GPU here"), max_accuracy_drop=1.0)
    assert report.verdict == "fail"
    assert report.verdict_reasons[-1] == "no artifact was proven to keep the budgets"


def test_no_artifact_at_all_fails() -> None:
    assert (judged().verdict, judged().verdict_reasons) == ("fail", ("there is no artifact",))


def test_reasons_of_failures_come_first() -> None:
    slow = Speedup(ratio=0.9, interval=(0.85, 0.95), claim="slower")
    report = judged(artifact(speedup_detail=slow), unmeasured("failed", "crashed", target="openvino"))
    assert report.verdict_reasons[0].startswith("openvino/int8")
    assert [a.target for a in report.artifacts] == ["tflite", "openvino"]


def test_judging_twice_changes_nothing() -> None:
    report = judged(artifact(), unmeasured("failed", "crashed", target="openvino"), **KEPT)
    assert judge(report, Budgets(**KEPT)) == report
