"""The schedule that nobody named: long enough, and at a learning rate that short runs chose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.core.progress import report_note
from edgekit.core.training import TrainingOptions
from edgekit.errors import StepError
from edgekit.train.checkpoints import load_checkpoint, save_checkpoint
from edgekit.train.data import TrainingData
from edgekit.train.judging import Judge
from edgekit.train.loop import scheduled_steps, train
from edgekit.train.losses import Objective

__all__ = ["PRUNED", "QUANTIZED", "kept_rate", "long_enough", "with_rate"]

QUANTIZED = (1e-4, 5e-4, 2e-3, 8e-3)
PRUNED = (1e-5, 1e-4, 1e-3)
_SHARE = 0.08  # of the schedule, for each rate
_SHORTEST = 20  # steps
_ALMOST = 1.5  # times the least loss
_ENOUGH = 1000  # steps: networks that int8 ruins need about that many


def long_enough(options: TrainingOptions, data: TrainingData) -> TrainingOptions:
    """`options` with epochs, where they name none: as many as make 1,000 steps, ten at least."""
    if options.epochs:
        return options
    return replace(options, epochs=max(options.passes, math.ceil(_ENOUGH / data.steps_per_epoch)))


def with_rate(
    module: Any,
    objective: Objective,
    data: TrainingData,
    options: TrainingOptions,
    *,
    judge: Judge | None,
    checkpoint: Path | None = None,
    before_step: Callable[[int, int], None] | None = None,
    rates: Sequence[float] = QUANTIZED,
    almost: float = _ALMOST,
) -> TrainingOptions:
    """`options` with a learning rate; as they are where they name one, or where no samples are held out.

    Each of `rates` gets a whole schedule of a twelfth of the steps, from the weights that `module` came
    with and has again afterwards. A network that calibration left near its teacher wants a low rate, one that
    it ruined a high one. The highest is taken whose loss on the held-out samples is `almost` times the least
    at most: short runs favour low rates, long ones forget the noise of a higher one. Labels are looked at
    only where the objective does. A rate that diverges is out. With `checkpoint` the choice is kept beside
    it, for a run that is resumed.
    """
    if options.learning_rate or judge is None:
        return options
    kept = kept_rate(checkpoint) if checkpoint is not None else None
    if kept is not None and (state := load_checkpoint(kept)):
        return replace(options, learning_rate=float(state["rate"]))
    whole = scheduled_steps(options, data)
    steps = min(whole, max(_SHORTEST, round(_SHARE * whole)))
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    losses: dict[float, float] = {}
    for rate in rates:
        trial = replace(options, learning_rate=rate, steps=steps, patience=0)
        by_loss = replace(judge, metric="loss")
        try:
            done = train(
                module, objective, data, trial, judge=by_loss, before_step=before_step,
                trial=f"learning rate {rate:g}",
            )  # fmt: skip
            found = done.epochs[-1].metric
            losses[rate] = found if found is not None and math.isfinite(found) else math.inf
        except StepError:  # the loss of this rate is not finite
            losses[rate] = math.inf
        module.load_state_dict(before)
    least = min(losses.values())
    if not math.isfinite(least):
        return options
    best = max(rate for rate, loss in losses.items() if loss <= almost * least)
    tried = ", ".join(f"{rate:g}: {loss:.4g}" for rate, loss in losses.items())
    report_note(f"learning rate {best:g}, by the held-out loss after {steps} steps ({tried})")
    if kept is not None:
        save_checkpoint(kept, {"rate": best})
    return replace(options, learning_rate=best)


def kept_rate(checkpoint: Path) -> Path:
    """The file that holds the chosen rate of the run whose checkpoint this is."""
    return checkpoint.with_name(f"{checkpoint.name}.rate")
