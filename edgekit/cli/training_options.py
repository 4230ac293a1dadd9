"""The options of the commands that train: samples, schedule, teacher."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgekit.cli.options import choice, number
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.core.training import DistillationOptions, TrainingOptions

__all__ = ["add_training", "distillation_of", "training_of"]

_SOFT = ("auto", "soft-targets", "logits")


def add_training(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """--training and the schedule, --distill and its temperature."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--training", metavar="DATA", action="append", required=required,
        help="samples to train on, with labels or without; may be repeated: batches hold some of each",
    )  # fmt: skip
    group.add_argument("--epochs", metavar="N", type=number(int, at_least=1),
        help="default 10; train-quantized makes 1,000 steps at least")
    group.add_argument(
        "--steps", metavar="N", type=number(int, at_least=1), help="end the schedule here (default: epochs)"
    )
    group.add_argument("--batch-size", metavar="N", type=number(int, at_least=1), help="default 64")
    group.add_argument(
        "--learning-rate", metavar="X", type=number(float, at_least=0),
        help="default: what samples held out like best (train-quantized tries 0.0001 to 0.008, prune of "
        "channels and heads 0.00001 to 0.001); 0.001 where none are",
    )  # fmt: skip
    group.add_argument(
        "--patience", metavar="N", type=number(int, at_least=0),
        help="stop after N epochs that are no better (default 0: never)",
    )  # fmt: skip
    group.add_argument(
        "--augmentation", metavar="FILE.py:FUNCTION", help="called with inputs, labels, rng; gives both"
    )
    group.add_argument("--training-seed", metavar="S", type=number(int, at_least=0), help="default 0")
    group.add_argument("--threads", metavar="N", type=number(int, at_least=1), help="default 2")
    group.add_argument(
        "--distill", metavar="|".join(_SOFT), type=choice(_SOFT),
        help="learn the float network's answers, not labels (without labels that is the default)",
    )  # fmt: skip
    group.add_argument("--temperature", metavar="T", type=number(float), help="of soft targets (default 2)")
    group.add_argument(
        "--label-weight", metavar="X", type=number(float, at_least=0),
        help="with --distill: the weight of labels beside the float network's answers (default 0)",
    )  # fmt: skip


def training_of(arguments: argparse.Namespace) -> TrainingOptions:
    """What the options of `add_training` choose."""
    from edgekit.core.sources import DataSource
    from edgekit.core.training import TrainingOptions

    given: dict[str, Any] = {
        "epochs": arguments.epochs,
        "steps": arguments.steps,
        "batch_size": arguments.batch_size,
        "learning_rate": arguments.learning_rate,
        "patience": arguments.patience,
        "augmentation": arguments.augmentation,
        "seed": arguments.training_seed,
        "threads": arguments.threads,
    }
    data = tuple(DataSource(path=p, preprocessing=arguments.preprocessing) for p in arguments.training)
    return TrainingOptions(data=data, **{name: value for name, value in given.items() if value is not None})


def distillation_of(arguments: argparse.Namespace) -> DistillationOptions | None:
    """What the options choose; None without --distill. Raises `UsageError` for options without effect."""
    from edgekit.core.training import DistillationOptions

    given = {"temperature": arguments.temperature, "label_weight": arguments.label_weight}
    set_ = {name: value for name, value in given.items() if value is not None}
    if arguments.distill is None:
        if set_:
            idle = [f"--{name.replace('_', '-')} needs --distill" for name in set_]
            raise UsageError("options without effect", where="edgekit", problems=idle)
        return None
    return DistillationOptions(soft=arguments.distill, **set_)
