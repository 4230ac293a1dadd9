"""The verdict: what the evidence in a report says of the budgets."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from edgekit.core.recipe import Budgets
from edgekit.core.report import Accuracy, ArtifactReport, Report, Rescue, Verdict
from edgekit.core.sensitivity import Standing
from edgekit.measure.metrics import RATE_METRICS

__all__ = ["judge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """One thing found: `verdict` is what it makes of the artifact ("pass": worth a line, no more)."""

    verdict: Verdict
    text: str


def judge(report: Report, budgets: Budgets, allow_refused: Collection[str] = ()) -> Report:
    """The report with verdict and reasons of every artifact and of the whole.

    An artifact fails when it failed, when it was refused and its "target/precision" is not one of
    `allow_refused`, when it breaks a budget that binds its precision, or when it ran and such a budget has
    no figure to be judged by. It has no verdict ("none") when it was refused as expected, could not run here,
    or was neither validated nor timed. The accuracy budget judges the drop itself; a reason says so when the
    interval holds the limit, for then the samples do not settle it. min_speedup does not bind float32, its
    own base. An artifact that is slower than the float32 artifact of its engine says so among its reasons,
    budget or not. A rescue is told among the reasons; one that did not reach the budgets fails the artifact.

    A file of another maker (`origin`) is compared and has no verdict, whatever becomes of it.

    The whole fails when an artifact fails, when there is no artifact, or when budgets were set and nothing
    was proven to keep them.
    """
    artifacts = tuple(_judged(entry, budgets, allow_refused) for entry in report.artifacts)
    reasons = [
        f"{entry.target}/{entry.precision}: {reason}"
        for entry in sorted(artifacts, key=lambda a: a.verdict != "fail")
        for reason in entry.verdict_reasons
    ]
    limited = budgets != Budgets(precisions=budgets.precisions)
    failed = any(entry.verdict == "fail" for entry in artifacts)
    if not artifacts:
        failed = True
        reasons.append("there is no artifact")
    elif not failed and not any(entry.verdict == "pass" for entry in artifacts):
        failed = limited
        reasons.append("no artifact was proven to keep the budgets" if limited else "no artifact was judged")
    elif not failed and not limited:
        reasons.append("no budget was set")
    return replace(
        report, artifacts=artifacts, verdict="fail" if failed else "pass", verdict_reasons=tuple(reasons)
    )


def _judged(entry: ArtifactReport, budgets: Budgets, allow_refused: Collection[str]) -> ArtifactReport:
    if entry.origin:
        return replace(entry, verdict="none", verdict_reasons=("not made by edgekit: compared, not judged",))
    findings = _status(entry, allow_refused)
    if entry.status in ("ok", "not_validated"):
        if not budgets.precisions or entry.precision in budgets.precisions:
            findings += _budgets(entry, budgets)
            findings += _rescue(entry)
        findings += _slower(entry)
    if entry.status == "ok" and entry.accuracy is None and entry.latency_ms is None and not findings:
        findings = [_Finding(verdict="none", text="neither validated nor timed")]
    verdicts = [f.verdict for f in findings]
    verdict: Verdict = "fail" if "fail" in verdicts else "none" if "none" in verdicts else "pass"
    return replace(entry, verdict=verdict, verdict_reasons=tuple(f.text for f in findings))


def _status(entry: ArtifactReport, allow_refused: Collection[str]) -> list[_Finding]:
    why = f": {entry.reasons[0].splitlines()[0]}" if entry.reasons else ""
    if entry.status == "failed":
        return [_Finding(verdict="fail", text=f"failed{why}")]
    if entry.status == "refused":
        expected = f"{entry.target}/{entry.precision}" in allow_refused
        return [_Finding(verdict="none" if expected else "fail",
                         text=f"refused{', as expected' if expected else ''}{why}")]
    if entry.status == "not_validated":
        return [_Finding(verdict="none", text=f"not validated here{why}")]
    return []


def _budgets(entry: ArtifactReport, budgets: Budgets) -> list[_Finding]:
    latency = entry.latency_ms.median if entry.latency_ms else None
    drop = entry.accuracy.drop if entry.accuracy else None
    unit = " points" if entry.accuracy is None or entry.accuracy.metric in RATE_METRICS else ""
    found = [
        _upper(entry, "accuracy drop", drop, budgets.max_accuracy_drop, unit),
        _lower(entry, "SQNR", entry.sqnr_db, budgets.min_sqnr_db, " dB"),
        _lower(entry, "share of equal first classes", entry.top1_agreement, budgets.min_top1_agreement, ""),
        _upper(entry, "median latency", latency, budgets.max_latency_ms, " ms"),
        _upper(entry, "size", entry.size_bytes, budgets.max_size_bytes, " bytes"),
    ]
    if entry.accuracy is not None and budgets.max_accuracy_drop is not None:
        found.append(_unsure(entry.accuracy, budgets.max_accuracy_drop))
    if budgets.min_speedup is not None and entry.precision != "float32":
        found.append(_speedup(entry, budgets.min_speedup))
    return [f for f in found if f is not None]


def _upper(
    entry: ArtifactReport, what: str, got: float | None, limit: float | None, unit: str
) -> _Finding | None:
    if limit is None:
        return None
    if got is None:
        return _unmeasured(entry, f"{what} (at most {limit:g}{unit})")
    if got > limit:
        figure = f"{got:,}" if isinstance(got, int) else f"{got:.4g}"
        allowed = f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"
        return _Finding(verdict="fail", text=f"{what} {figure}{unit} is over the limit {allowed}{unit}")
    return None


def _lower(
    entry: ArtifactReport, what: str, got: float | None, limit: float | None, unit: str
) -> _Finding | None:
    if limit is None:
        return None
    if got is None:
        return _unmeasured(entry, f"{what} (at least {limit:g}{unit})")
    if got < limit:
        text = f"{what} {got:.4g}{unit} is under the limit {limit:g}{unit}"
        return _Finding(verdict="fail", text=text)
    return None


def _speedup(entry: ArtifactReport, limit: float) -> _Finding | None:
    if entry.speedup is None:
        return _unmeasured(entry, f"speedup over float32 of the same engine (at least {limit:g}x)")
    if entry.speedup < limit:
        return _Finding(verdict="fail", text=f"speedup {entry.speedup:.2f}x is under the limit {limit:g}x")
    return None


def _unmeasured(entry: ArtifactReport, what: str) -> _Finding:
    verdict: Verdict = "none" if entry.status == "not_validated" else "fail"
    return _Finding(verdict=verdict, text=f"not measured, so the budget is not proven: {what}")


def _unsure(accuracy: Accuracy, limit: float) -> _Finding | None:
    low, high = accuracy.interval
    if not low <= limit <= high or low == high:
        return None
    side = "within" if accuracy.drop <= limit else "over"
    return _Finding(
        verdict="pass",
        text=f"accuracy drop {accuracy.drop:.4g} [{low:.4g}, {high:.4g}] is {side} the limit {limit:g}, but "
        f"the 95 % interval holds the limit: {accuracy.n} samples do not settle it",
    )


def _rescue(entry: ArtifactReport) -> list[_Finding]:
    found = entry.rescue
    if found is None or (found.reached and found.plain == found.final):
        return []
    if found.reached:
        return [_Finding(verdict="pass", text=f"rescued: {_means(found)}")]
    best = f"{_figures(found.final)} by {_means(found)}"
    return [_Finding(verdict="fail", text=f"rescue: the budgets are not reachable here; best found: {best}")]


def _means(found: Rescue) -> str:
    """What was done, and from where to where it led."""
    means = [*found.done]
    if found.kept:
        count = f"{len(found.kept)} node{'' if len(found.kept) == 1 else 's'}"
        means.append(f"{count} ({100 * found.kept_macs_share:.1f} % of multiply-adds) kept in float32")
    cost = "" if found.slowdown is None else f", {found.slowdown:.2f}x the latency of plain int8"
    step = f"{_figures(found.plain)} before, {_figures(found.final)} after"
    return f"{'; '.join(means) or 'nothing helped'} ({step}, on {found.judge_samples} samples{cost})"


def _figures(standing: Standing) -> str:
    drop = "" if standing.drop is None else f"drop {standing.drop:.4g}, "
    return f"{drop}SQNR {standing.sqnr_db:.1f} dB"


def _slower(entry: ArtifactReport) -> list[_Finding]:
    detail = entry.speedup_detail
    if detail is None or detail.claim != "slower":
        return []
    low, high = detail.interval
    figure = f"{detail.ratio:.2f}x [{low:.2f}, {high:.2f}]"
    text = f"{entry.precision} is slower than float32 on this machine: {figure}"
    return [_Finding(verdict="pass", text=text)]
