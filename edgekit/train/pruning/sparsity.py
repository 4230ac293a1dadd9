"""Zeros among weights: by magnitude with a gradual schedule, or two of every four neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.core.pruning import PruningOptions, PruningStep
from edgekit.errors import Reason, Unsupported
from edgekit.train.data import TrainingData
from edgekit.train.from_graph import load_canonical, trainable
from edgekit.train.loop import scheduled_steps, train
from edgekit.train.objective import check_batch, judge_of, objective_of
from edgekit.train.pruning.choosing import check_keep
from edgekit.train.pruning.costs import macs_of, parameters_of, zeros_of
from edgekit.train.pruning.structured import Pruned, broken
from edgekit.train.teaching import named_call
from edgekit.train.to_graph import write_back

__all__ = ["prune_sparse", "sparsity_at"]

_RAMP = 0.7  # of the steps, over which sparsity rises
_UPDATES = 20  # times that masks are chosen anew on the way


def sparsity_at(step: int, steps: int, final: float) -> float:
    """The share of zeros from a step on: a cubic ramp (Zhu & Gupta, To Prune, or Not, 2017, equation 1)."""
    ramp = max(1, int(_RAMP * steps))
    every = max(1, ramp // _UPDATES)
    place = min(1.0, (step // every + 1) * every / ramp)
    return float(final * (1.0 - (1.0 - place) ** 3))


def prune_sparse(
    path: Path, out: Path, work: Path, options: PruningOptions, data: TrainingData | None
) -> Pruned:
    """Write `path` with zeros among the weights of convolutions and matrix products to `out`.

    Without samples all zeros are set at once. Weights under the masks stay exactly zero while others are
    trained. Raises `Unsupported` where no layer may be touched, or when the score breaks the budget.
    """
    torch = require("torch", needed_for="pruning")
    check_keep(options.keep, [node.name for node in load_canonical(path).graph.node])
    module = trainable(path)
    weights, reasons = _weights(module, options)
    if not weights:
        raise Unsupported("no weights of this network can be pruned", reasons=reasons[:12])
    first = before = after = None
    judge = None
    if data is None or options.recovery is None:
        _zero(weights, _masks(weights, options, options.remove))
    else:
        recovery = options.recovery
        check_batch(module, recovery)
        teacher = path if options.learn_from == "teacher" else None
        objective = objective_of(module, teacher, data, recovery, options.distill)
        judge = judge_of(module, objective, data, recovery)
        first = judge(module, named_call) if judge else None
        if judge:
            probe = trainable(path)
            sparse, _ = _weights(probe, options)
            _zero(sparse, _masks(sparse, options, options.remove))
            before = judge(probe, named_call)
        masks: list[Any] = []
        steps = scheduled_steps(recovery, data)

        def hold(step: int, total: int) -> None:
            wanted = options.remove if options.method == "2:4" else sparsity_at(step, total, options.remove)
            known = None if step == 0 else sparsity_at(step - 1, total, options.remove)
            if not masks and step > 0:  # a run that goes on: what is zero was under a mask
                masks[:] = [weight != 0 for weight in weights]
            if step == 0 or (options.method != "2:4" and wanted != known):
                masks[:] = _masks(weights, options, wanted)
                _zero(weights, masks)

        def again(step: int, total: int) -> None:
            _zero(weights, masks)

        # the best epoch would be an early, dense one: the last counts
        train(module, objective, data, recovery, checkpoint=work / "sparse.state", before_step=hold,
              after_step=again)  # fmt: skip
        with torch.no_grad():
            after = judge(module, named_call) if judge else None
        assert steps > 0
    write_back(module, path, out)
    if why := broken(first, after, judge, options):
        raise Unsupported(f"nothing was pruned: {why}", hint="remove less, or train longer")
    model, smaller = load_canonical(path), load_canonical(out)
    rows = (
        PruningStep(number=0, macs=macs_of(model), parameters=parameters_of(model),
                    zeros=zeros_of(model), before=first, after=first),
        PruningStep(number=1, macs=macs_of(smaller), parameters=parameters_of(smaller),
                    zeros=zeros_of(smaller), before=before, after=after),
    )  # fmt: skip
    metric = judge.name if judge else ""
    return Pruned(steps=rows, metric=metric, result=1, stopped="", reasons=tuple(reasons))


def _weights(module: Any, options: PruningOptions) -> tuple[list[Any], list[Reason]]:
    """The weights of layers that may be touched, as parameters of the module."""
    found: dict[int, Any] = {}
    reasons: list[Reason] = []
    for layer in module.meta["layers"]:
        if layer.kind not in ("conv", "linear"):
            continue
        if any(fnmatchcase(layer.node, pattern) for pattern in options.keep):
            continue
        weight = module.get_submodule(layer.path).weight
        if options.method == "2:4" and _row(weight) % 4:
            reasons.append(Reason(
                node=layer.node, why=f"sums of {_row(weight)} terms are no multiple of 4: 2:4 leaves it dense"
            ))  # fmt: skip
            continue
        found[id(weight)] = weight
    return list(found.values()), reasons


def _row(weight: Any) -> int:
    """How many inputs one output sums over, kernel places apart: 2:4 runs along them."""
    return int(weight.shape[1])


def _masks(weights: Sequence[Any], options: PruningOptions, share: float) -> list[Any]:
    torch = require("torch")
    with torch.no_grad():
        if options.method == "2:4":
            return [_two_of_four(w) for w in weights]
        if options.scope == "global":
            # magnitudes over the layer's own root mean square: layers differ in scale
            sizes = [w.abs() / w.square().mean().sqrt().clamp_min(1e-30) for w in weights]
            flat = torch.cat([s.flatten() for s in sizes])
            count = round(share * flat.numel())
            order = torch.argsort(flat, stable=True)
            mask = torch.ones_like(flat, dtype=torch.bool)
            mask[order[:count]] = False
            parts = mask.split([w.numel() for w in weights])
            return [m.reshape(w.shape) for m, w in zip(parts, weights, strict=True)]
        return [_least(w, share) for w in weights]


def _least(weight: Any, share: float) -> Any:
    torch = require("torch")
    order = torch.argsort(weight.abs().flatten(), stable=True)
    mask = torch.ones(weight.numel(), dtype=torch.bool)
    mask[order[: round(share * weight.numel())]] = False
    return mask.reshape(weight.shape)


def _two_of_four(weight: Any) -> Any:
    """Of every four neighbouring inputs, the two of largest magnitude (Mishra et al. 2021, section 3)."""
    torch = require("torch")
    rows = weight.movedim(1, -1)
    fours = rows.reshape(-1, 4).abs()
    order = torch.argsort(fours, dim=1, descending=True, stable=True)
    mask = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, order[:, :2], True)
    return mask.reshape(rows.shape).movedim(-1, 1)


def _zero(weights: Sequence[Any], masks: Sequence[Any]) -> None:
    with require("torch").no_grad():
        for weight, mask in zip(weights, masks, strict=True):
            weight.masked_fill_(~mask, 0.0)
