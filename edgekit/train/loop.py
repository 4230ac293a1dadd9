"""The training loop: steps, schedule, validation, the best weights, checkpoints; and what goes wrong."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.core.progress import report_note, report_progress
from edgekit.core.training import TrainingOptions
from edgekit.errors import StepError, UsageError
from edgekit.train.checkpoints import load_checkpoint, save_checkpoint
from edgekit.train.data import TrainingData
from edgekit.train.judging import Judge, tensors
from edgekit.train.losses import Objective
from edgekit.train.teaching import Call, named_call, watch

__all__ = ["Epoch", "Trained", "train"]

_FLOOR = 0.01  # of the learning rate, at the end of a cosine


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """One epoch: its number from 1, its last step, the mean training loss, the metric (None: not judged)."""

    number: int
    step: int
    loss: float
    metric: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What training did. The module holds the weights of epoch `best` (0: those that it came with).

    `metric` names what `score` and the epochs' figures are; `initial` is it before the first step. `stopped`
    says that training ended before its schedule for want of progress. `rate`: the highest learning rate.
    """

    epochs: tuple[Epoch, ...]
    rate: float
    metric: str
    initial: float | None
    score: float | None
    best: int
    stopped: bool


@dataclass(slots=True, kw_only=True)
class _Run:
    """What changes from step to step, and is in a checkpoint."""

    step: int = 0
    total_loss: float = 0.0
    epochs: list[Epoch] = field(default_factory=list)
    initial: float | None = None
    best: int = 0
    best_score: float | None = None
    best_state: dict[str, Any] = field(default_factory=dict)
    waited: int = 0
    stopped: bool = False


def train(
    module: Any,
    objective: Objective,
    data: TrainingData,
    options: TrainingOptions,
    *,
    judge: Judge | None = None,
    call: Call = named_call,
    checkpoint: Path | None = None,
    keep_every_s: float = 30.0,
    before_step: Callable[[int, int], None] | None = None,
    after_step: Callable[[int, int], None] | None = None,
    trial: str = "",
) -> Trained:
    """Train `module` in place, ending with its best weights in eval mode.

    `module` maps inputs to outputs, both dicts by name, or is what `edgekit.train.trainable` makes; `call`
    says otherwise. `before_step(step, steps)` and `after_step(step, steps)` are called around each step of
    the optimizer (`step` from 0): to freeze statistics, or to hold weights at zero. `trial` names a run whose
    epochs are of no interest. With `checkpoint`, all that a run needs is kept in that file at the end of
    every epoch and every `keep_every_s` seconds; a run that finds it goes on from there to the same bytes as
    one that was never interrupted. The caller names the file by everything that decides the result.

    Weights of the best epoch by `judge` are kept, the weights before training among them; without a judge,
    the last. Raises `UsageError` for a schedule that is longer than the data, a module without parameters,
    bad samples; `StepError` when the loss or a gradient is not finite (the checkpoint stays as it was).
    """
    torch = require("torch", needed_for="training")
    torch.set_num_threads(options.threads)
    steps = scheduled_steps(options, data)
    learned = [p for p in module.parameters() if p.requires_grad]
    if not learned:
        raise UsageError("the module has no parameter that can be trained")
    optimizer = _optimizer(options, module)
    run = _Run()
    if checkpoint is not None and (state := load_checkpoint(checkpoint)):
        run = _restored(state, module, optimizer, checkpoint)
    elif judge is not None:
        run.initial = run.best_score = judge(module, call)
        run.best_state = _weights(module)
    features: dict[str, Any] = {}
    watched = watch(module, objective.teacher.layers, features) if objective.teacher else []
    kept_at = time.monotonic()
    while run.step < steps and not run.stopped:
        _set_rate(optimizer, options, run.step, steps)
        if before_step is not None:
            before_step(run.step, steps)
        _step(module, objective, data, options, optimizer, call, run, features, checkpoint)
        if after_step is not None:
            after_step(run.step, steps)
        run.step += 1
        ended = run.step % data.steps_per_epoch == 0 or run.step == steps
        if ended:
            _end_epoch(module, data, options, judge, call, run)
            if not trial:
                report_note(_noted(run, judge, options))
        mean = run.epochs[-1].loss if ended else run.total_loss / (run.step % data.steps_per_epoch)
        named = f"{trial}: " if trial else ""
        report_progress(run.step, steps, f"{named}loss {mean:.4g}{_figure(run, judge)}")
        if checkpoint is not None and (ended or time.monotonic() - kept_at >= keep_every_s):
            save_checkpoint(checkpoint, _state(run, module, optimizer))
            kept_at = time.monotonic()
    for handle in watched:
        handle.remove()
    if judge is not None:
        module.load_state_dict(run.best_state)
    module.eval()
    return Trained(
        epochs=tuple(run.epochs),
        rate=options.rate,
        metric=judge.name if judge else "loss",
        initial=run.initial,
        score=run.best_score,
        best=run.best if judge else len(run.epochs),
        stopped=run.stopped,
    )


def scheduled_steps(options: TrainingOptions, data: TrainingData) -> int:
    """How many steps the schedule has. Raises `UsageError` where it is longer than the data."""
    available = options.passes * data.steps_per_epoch
    steps = options.steps or available
    if steps > available:
        raise UsageError(
            f"the schedule is longer than the data: {steps} steps, but {options.passes} epoch(s) of "
            f"{data.steps_per_epoch} batches of {options.batch_size} are {available}",
            hint=f"epochs = {math.ceil(steps / data.steps_per_epoch)}, or at most {available} steps",
        )
    return steps


def learning_rate(options: TrainingOptions, step: int, steps: int) -> float:
    """The rate of a step, from 0: a linear warm-up, then half a cosine down to a hundredth, or constant."""
    warm = round(options.warmup * steps)
    if step < warm:
        return options.rate * (step + 1) / warm
    if options.schedule == "constant":
        return options.rate
    place = (step - warm) / max(1, steps - warm - 1)
    return options.rate * (_FLOOR + (1 - _FLOOR) * (1 + math.cos(math.pi * min(1.0, place))) / 2)


def _optimizer(options: TrainingOptions, module: Any) -> Any:
    """Weight decay is for matrices and kernels alone, not for biases and the scales of normalizations."""
    optim = require("torch").optim
    learned = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in learned if p.dim() > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in learned if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if options.optimizer == "adamw":
        return optim.AdamW(groups, lr=options.rate)
    nesterov = options.momentum > 0
    return optim.SGD(groups, lr=options.rate, momentum=options.momentum, nesterov=nesterov)


def _set_rate(optimizer: Any, options: TrainingOptions, step: int, steps: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(options, step, steps) * group.get("rate_factor", 1.0)


def _step(
    module: Any, objective: Objective, data: TrainingData, options: TrainingOptions, optimizer: Any,
    call: Call, run: _Run, features: dict[str, Any], checkpoint: Path | None,
) -> None:  # fmt: skip
    """One batch: forward, backward, update. What it draws follows from the seed and the step's number."""
    torch = require("torch")
    torch.manual_seed((options.seed * 1_000_003 + run.step) % 2**63)
    _train_mode(module, options)
    batch = data.batch(run.step)
    inputs, labels, labelled = tensors(batch)
    loss = objective(call(module, inputs), inputs, labels, labelled, features)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    learned = [p for p in module.parameters() if p.grad is not None]
    bound = options.clip_norm or float("inf")
    norm = torch.nn.utils.clip_grad_norm_(learned, bound) if learned else torch.zeros(())
    value = float(loss.detach())
    if not math.isfinite(value) or not bool(torch.isfinite(norm)):
        raise _diverged(value, options, data, run, checkpoint)
    optimizer.step()
    run.total_loss += value


def _train_mode(module: Any, options: TrainingOptions) -> None:
    module.train()
    if options.freeze_norm:
        norm = require("torch").nn.modules.batchnorm._BatchNorm
        for child in module.modules():
            if isinstance(child, norm):
                child.eval()


def _end_epoch(
    module: Any, data: TrainingData, options: TrainingOptions, judge: Judge | None, call: Call, run: _Run
) -> None:
    number = len(run.epochs) + 1
    taken = run.step - (run.epochs[-1].step if run.epochs else 0)
    score = judge(module, call) if judge is not None else None
    run.epochs.append(Epoch(number=number, step=run.step, loss=run.total_loss / taken, metric=score))
    run.total_loss = 0.0
    if judge is not None and score is not None:
        if run.best_score is None or judge.better(score, run.best_score):
            run.best, run.best_score, run.best_state, run.waited = number, score, _weights(module), 0
        else:
            run.waited += 1
            run.stopped = bool(options.patience) and run.waited >= options.patience


def _noted(run: _Run, judge: Judge | None, options: TrainingOptions) -> str:
    last = run.epochs[-1]
    text = f"epoch {last.number}/{options.passes}: loss {last.loss:.4g}{_figure(run, judge)}"
    return text + (", no better: stopped" if run.stopped else "")


def _figure(run: _Run, judge: Judge | None) -> str:
    last = run.epochs[-1].metric if run.epochs else run.initial
    return f", {judge.name} {last:.4g}" if judge is not None and last is not None else ""


def _weights(module: Any) -> dict[str, Any]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _state(run: _Run, module: Any, optimizer: Any) -> dict[str, Any]:
    torch = require("torch")
    return {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "step": run.step,
        "total_loss": run.total_loss,
        "epochs": [[e.number, e.step, e.loss, e.metric] for e in run.epochs],
        "initial": run.initial,
        "best": run.best,
        "best_score": run.best_score,
        "best_state": run.best_state,
        "waited": run.waited,
        "stopped": run.stopped,
    }


def _restored(state: dict[str, Any], module: Any, optimizer: Any, checkpoint: Path) -> _Run:
    torch = require("torch")
    try:
        module.load_state_dict(state.pop("module"))
        optimizer.load_state_dict(state.pop("optimizer"))
        torch.set_rng_state(state.pop("rng"))
        epochs = [Epoch(number=n, step=s, loss=lo, metric=m) for n, s, lo, m in state.pop("epochs")]
        return replace(_Run(epochs=epochs), **state)
    except (RuntimeError, ValueError, KeyError, TypeError) as err:
        raise UsageError(
            f"this checkpoint is of another network or other options: {str(err).splitlines()[0]}",
            where=str(checkpoint),
            hint="remove it: training then starts from the beginning",
        ) from err


def _diverged(
    value: float, options: TrainingOptions, data: TrainingData, run: _Run, checkpoint: Path | None
) -> StepError:
    what = f"the loss became {value}" if not math.isfinite(value) else "a gradient became infinite or NaN"
    good = f"epoch {run.best}" if run.best else "the weights before training" if run.best_state else ""
    kept = ""
    if checkpoint is not None and checkpoint.is_file():
        best = f" (best so far: {good})" if good else ""
        kept = f"; the last good checkpoint is kept in {checkpoint}{best}"
    clip = " and bound the gradients (clip_norm = 1.0)" if not options.clip_norm else ""
    return StepError(
        f"{what} at step {run.step + 1} (epoch {run.step // data.steps_per_epoch + 1}){kept}",
        hint=f"lower learning_rate (it is {options.rate:g}){clip}, or lengthen warmup",
    )
