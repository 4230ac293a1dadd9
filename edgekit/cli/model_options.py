"""The options of every command that reads a trained model, and of those that judge its answers."""

from __future__ import annotations

import argparse
from typing import Any

from edgekit.cli.options import METRICS, Groups, add_source, choice, number, shapes_of

__all__ = ["add_accuracy_drop", "add_judged_output", "add_metric", "add_model", "add_shapes", "model_of"]


def add_model(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """A group "model" with what it takes to read SOURCE, and the shapes of its inputs; more may be added."""
    group = parser.add_argument_group("model")
    add_source(group)
    add_shapes(group)
    return group


def add_shapes(group: Groups) -> None:
    """--shape."""
    group.add_argument(
        "--shape", dest="shapes", metavar="NAME=1,3,224,224", action="append", default=[],
        help="the fixed shape of an input with dynamic dimensions; may be repeated",
    )  # fmt: skip


def model_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options of `add_model` choose, as keyword arguments of the verbs of `edgekit.api`."""
    return {
        "state": arguments.state,
        "trust": arguments.trust,
        "signature": arguments.signature,
        "custom_objects": arguments.custom_objects,
        "shapes": shapes_of(arguments.shapes),
    }


def add_metric(group: Groups, help_: str, *, default: str | None = None) -> None:
    """--metric."""
    group.add_argument(
        "--metric", metavar="|".join(METRICS), type=choice(METRICS), default=default, help=help_
    )


def add_judged_output(group: Groups, flag: str, help_: str) -> None:
    """The output that is judged, under `flag`: --output, where that is not the folder to write."""
    group.add_argument(flag, dest="judged_output", metavar="NAME", default="", help=help_)


def add_accuracy_drop(group: Groups) -> None:
    """--max-accuracy-drop."""
    group.add_argument(
        "--max-accuracy-drop", metavar="X", type=number(float),
        help="fail when an artifact is worse than this: in points for rates, else in the metric's unit",
    )  # fmt: skip
