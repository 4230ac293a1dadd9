"""The options of `edgekit convert` about nodes that keep a precision, budgets on answers, and the rescue."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgekit.cli.algorithm_options import algorithms_of
from edgekit.cli.model_options import add_accuracy_drop, add_judged_output, add_metric
from edgekit.cli.options import number
from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.core.recipe import Budgets, QuantizationOptions, ValidationOptions

__all__ = ["add_rescue", "budgets_of", "quantization_of", "validation_of"]

_KEPT = ("float32", "int16x8")


def add_rescue(parser: argparse.ArgumentParser) -> None:
    """--keep, --data, --metric, three budgets and --rescue."""
    group = parser.add_argument_group("mixtures and rescue (int8)")
    group.add_argument(
        "--keep", metavar="NODE=float32|int16x8", action="append", default=[],
        help="a node that keeps this precision in int8 artifacts (`edgekit analyze` ranks them); repeatable",
    )  # fmt: skip
    group.add_argument(
        "--data", dest="judged_data", metavar="DATA", default="",
        help="samples that calibration has not seen, prepared like those: every artifact is judged by them",
    )  # fmt: skip
    add_metric(group, "of --data (default accuracy; mse, mae and rmse need no labels)")
    add_judged_output(group, "--output-name", "the judged output of several")
    add_accuracy_drop(group)
    group.add_argument(
        "--min-sqnr", metavar="DB", type=number(float),
        help="fail when the noise in an artifact's answers is above this, in dB below the source's answers",
    )  # fmt: skip
    group.add_argument(
        "--min-agreement", metavar="SHARE", type=number(float, at_least=0),
        help="fail when fewer samples (0 to 1) have the first class that the source gives them",
    )  # fmt: skip
    group.add_argument(
        "--rescue", action="store_true",
        help="where int8 breaks one of these budgets, find what brings it back: stronger algorithms, then "
        "nodes in float32 or int16x8, as few as suffice",
    )  # fmt: skip


def quantization_of(arguments: argparse.Namespace) -> QuantizationOptions | None:
    """The quantization that the options choose; None without any. Raises `UsageError` for a wrong --keep."""
    from edgekit.core.codec import decode
    from edgekit.core.recipe import QuantizationOptions

    keep: dict[str, str] = {}
    problems = []
    for text in arguments.keep:
        name, _, precision = text.rpartition("=")
        if not name or precision not in _KEPT:
            problems.append(f"got {text!r}, NODE=float32 or NODE=int16x8 is needed")
        elif name in keep:
            problems.append(f"the node {name!r} is named twice")
        else:
            keep[name] = precision
    if problems:
        raise UsageError("bad --keep", where="edgekit convert", problems=problems)
    algorithms = algorithms_of(arguments)
    if not keep and not arguments.rescue and not algorithms:
        return None
    chosen = {"keep": keep, "rescue": arguments.rescue, **algorithms}
    return decode(QuantizationOptions, chosen, where="edgekit convert")


def validation_of(arguments: argparse.Namespace) -> ValidationOptions | None:
    """What judges the artifacts; None without --data. Raises `UsageError` for options without effect."""
    from edgekit.core.recipe import DataSource, ValidationOptions

    if not arguments.judged_data:
        given = {
            "--metric": arguments.metric,
            "--output-name": arguments.judged_output or None,
            "--max-accuracy-drop": arguments.max_accuracy_drop,
            "--min-sqnr": arguments.min_sqnr,
            "--min-agreement": arguments.min_agreement,
            "--rescue": arguments.rescue or None,
        }
        idle = [f"{name} needs --data DATA" for name, value in given.items() if value is not None]
        if idle:
            raise UsageError("options without effect", where="edgekit convert", problems=idle)
        return None
    return ValidationOptions(
        data=DataSource(path=arguments.judged_data, preprocessing=arguments.preprocessing),
        metric=arguments.metric or "accuracy",
        output=arguments.judged_output,
    )


def budgets_of(arguments: argparse.Namespace) -> Budgets | None:
    """The budgets that the options set; None without any."""
    from edgekit.core.recipe import Budgets

    found = Budgets(
        max_accuracy_drop=arguments.max_accuracy_drop,
        min_sqnr_db=arguments.min_sqnr,
        min_top1_agreement=arguments.min_agreement,
    )
    return None if found == Budgets() else found
