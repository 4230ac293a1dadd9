"""Let the network judge the samples it is given, before they decide ranges or accuracy."""

from __future__ import annotations

from pathlib import Path

from edgekit.core.codec import encode
from edgekit.core.events import Event
from edgekit.core.model import Model, Signature
from edgekit.core.recipe import DataSource
from edgekit.core.samples import open_samples
from edgekit.core.samples.unchanging import unchanging
from edgekit.errors import EdgekitError, UsageError
from edgekit.pipeline.layout import STATISTICS
from edgekit.pipeline.steps import StepRunner

__all__ = ["check_samples", "keep_statistics"]


def keep_statistics(model: Model, out: Path, runner: StepRunner) -> None:
    """Write the graph that judges samples into the output folder, where the model has BatchNorm."""
    if model.unfolded == model.path:
        return
    place = out / STATISTICS
    place.parent.mkdir(parents=True, exist_ok=True)
    runner.run(
        "edgekit.graph.norm_statistics:write_statistics",
        {"model": str(model.unfolded), "out": str(place)},
        label="keep what training knew of its inputs",
    )


def check_samples(
    out: Path, data: DataSource, signature: Signature, *, what: str, runner: StepRunner
) -> tuple[str, ...]:
    """A warning for the report when the samples do not look like those of training; they are `what` samples.

    Raises `UsageError` for samples that cannot be used at all.
    """
    label = f"check the {what} samples"
    if text := unchanging(open_samples(data, signature)):
        text += ": ranges and answers found on them say nothing of other inputs"
        return _warned(what, text, label, runner)
    place = out / STATISTICS
    if not place.is_file():
        return ()
    arguments = {"statistics": str(place), "data": encode(data), "signature": encode(signature)}
    try:
        text = runner.run("edgekit.graph.check_samples:check_samples", arguments, label=label)["suspicion"]
    except UsageError:
        raise
    except EdgekitError as err:  # the check is a service: what it cannot judge it does not hold up
        text = f"whether they are prepared as in training could not be checked: {err.message}"
    return _warned(what, text, label, runner) if text else ()


def _warned(what: str, text: str, label: str, runner: StepRunner) -> tuple[str, ...]:
    warning = f"{what} samples: {text}"
    runner.on_event(Event(step=label, state="note", note=warning))
    return (warning,)
