"""Option groups that several commands share, and how their values become edgekit's own types."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import UsageError, nearest

if TYPE_CHECKING:
    from edgekit.core.recipe import CalibrationOptions, DataSource

__all__ = [
    "CALIBRATION_METHODS",
    "LAYOUTS",
    "METRICS",
    "PRECISIONS",
    "add_calibration",
    "add_common",
    "add_deadline",
    "add_samples",
    "add_source",
    "calibration_of",
    "choice",
    "dynamic_of",
    "number",
    "samples_of",
    "shapes_of",
]

# Copies of the Literal types in edgekit.core, held equal by a contract test: importing them from there costs
# 50 ms of the 150 that --help may take.
PRECISIONS = ("float32", "float16", "int8", "int16x8", "dynamic-int8", "weight-int8", "weight-int4")
METRICS = ("accuracy", "top5", "precision", "recall", "f1", "mse", "mae", "rmse")
CALIBRATION_METHODS = ("auto", "minmax", "moving-average", "percentile", "mse", "entropy")
LAYOUTS = ("source", "nhwc")

Groups = argparse.ArgumentParser | argparse._ArgumentGroup  # both add arguments in the same way


def choice(allowed: Sequence[str]) -> Callable[[str], str]:
    """A type for argparse: one of `allowed`; anything else is refused with the nearest."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise argparse.ArgumentTypeError(f"got {text!r}; {nearest(text, allowed)}")
        return text

    return parse


def number(kind: type[int] | type[float], *, at_least: float | None = None) -> Callable[[str], Any]:
    """A type for argparse: a whole number (int) or a finite number (float), not below `at_least`."""
    name = "a whole number" if kind is int else "a number"
    limit = "" if at_least is None else f" of at least {at_least:g}"

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or value != value or abs(value) == float("inf"):
            raise argparse.ArgumentTypeError(f"got {text!r}, {name}{limit} is needed")
        if at_least is not None and value < at_least:
            raise argparse.ArgumentTypeError(f"got {text!r}, {name}{limit} is needed")
        return value

    return parse


def add_common(parser: argparse.ArgumentParser) -> None:
    """--json, --quiet, --debug: on every command."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON document on stdout, errors included")
    group.add_argument("--quiet", action="store_true", help="no progress on stderr")
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_deadline(group: Groups) -> None:
    """--deadline: on every command that runs steps."""
    group.add_argument(
        "--deadline",
        metavar="S",
        type=number(float, at_least=1),
        default=900.0,
        help="seconds any one step may go without progress (default 900)",
    )


def add_source(group: Groups) -> None:
    """--state, --signature, --custom-objects, --trust: what it takes to read a source."""
    group.add_argument("--state", metavar="FILE", default="", help="state-dict file for module.py:factory")
    group.add_argument(
        "--signature",
        metavar="NAME",
        default="",
        help="which signature of a SavedModel or a Transformers folder",
    )
    group.add_argument(
        "--custom-objects", metavar="FILE", default="",
        help="a Python file with the layers that a Keras file needs (with --trust)",
    )  # fmt: skip
    group.add_argument("--trust", action="store_true", help="load files that can run code")


def add_samples(group: Groups, *, flag: str, prefix: str, help_: str, required: bool) -> None:
    """The options that choose samples: `flag` DATA, --preprocessing, and --[prefix]count, -skip, -seed."""
    group.add_argument(flag, dest="data", metavar="DATA", default="", required=required, help=help_)
    group.add_argument(
        "--preprocessing",
        metavar="SPEC",
        default="",
        help="the sample spec (.toml) that says how DATA is prepared: needed for images and sounds",
    )
    group.add_argument(
        f"--{prefix}count",
        dest="count",
        metavar="N",
        type=number(int, at_least=1),
        help="how many (default all)",
    )
    group.add_argument(
        f"--{prefix}skip",
        dest="skip",
        metavar="K",
        type=number(int, at_least=0),
        help="leave out the first K",
    )
    group.add_argument(
        f"--{prefix}seed",
        dest="seed",
        metavar="S",
        type=number(int, at_least=0),
        help="shuffle with this seed before skipping and counting (default: the order of DATA)",
    )


def samples_of(arguments: argparse.Namespace) -> DataSource:
    """The samples that the options of `add_samples` choose."""
    from edgekit.core.recipe import DataSource

    return DataSource(
        path=arguments.data,
        preprocessing=arguments.preprocessing,
        count=arguments.count or 0,
        skip=arguments.skip or 0,
        seed=-1 if arguments.seed is None else arguments.seed,
    )


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """The samples that set the int8 ranges, and the method that reads them."""
    group = parser.add_argument_group("calibration (int8 and int16x8)")
    add_samples(
        group,
        flag="--calibration",
        prefix="calibration-",
        required=False,
        help_="samples that set the ranges: .npz, .npy, .csv, .parquet, a folder of images, sounds or "
        "arrays, or a sample spec (.toml)",
    )
    group.add_argument(
        "--calibration-method",
        metavar="|".join(CALIBRATION_METHODS),
        type=choice(CALIBRATION_METHODS),
        default="auto",
        help="how a range is read from the samples (default auto: by measured error, tensor by tensor)",
    )
    group.add_argument(
        "--percentile",
        metavar="P",
        type=number(float),
        help="the percentile, of 100, that --calibration-method percentile keeps (default 99.99)",
    )


def calibration_of(arguments: argparse.Namespace) -> CalibrationOptions | None:
    """The calibration that the options of `add_calibration` choose; None without --calibration.

    Raises `UsageError` when an option is given that would have no effect.
    """
    from dataclasses import replace

    from edgekit.core.recipe import CalibrationOptions

    idle = []
    if not arguments.data:
        given = {
            "--preprocessing": arguments.preprocessing,
            "--calibration-count": arguments.count,
            "--calibration-skip": arguments.skip,
            "--calibration-seed": arguments.seed,
            "--percentile": arguments.percentile,
        }
        idle = [
            f"{name} needs --calibration DATA" for name, value in given.items() if value not in (None, "")
        ]
    elif arguments.percentile is not None and arguments.calibration_method != "percentile":
        idle = ["--percentile needs --calibration-method percentile"]
    if idle:
        raise UsageError("options without effect", where="edgekit convert", problems=idle)
    if not arguments.data:
        return None
    options = CalibrationOptions(data=samples_of(arguments), method=arguments.calibration_method)
    return options if arguments.percentile is None else replace(options, percentile=arguments.percentile)


def shapes_of(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`--shape name=1,3,224,224`, repeated, as input name -> shape. Raises `UsageError` with all problems."""
    shapes: dict[str, tuple[int, ...]] = {}
    problems = []
    for text in texts:
        name, _, dims = text.rpartition("=")
        parts = dims.split(",")
        if not name or not all(part.strip().isascii() and part.strip().isdigit() for part in parts):
            problems.append(f"got {text!r}, NAME=1,3,224,224 is needed")
        elif name in shapes:
            problems.append(f"the input {name!r} has two shapes")
        elif any(int(part) == 0 for part in parts):
            problems.append(f"got {text!r}, every dimension must be at least 1")
        else:
            shapes[name] = tuple(int(part) for part in parts)
    if problems:
        raise UsageError("bad --shape", where="edgekit convert", problems=problems)
    return shapes


def dynamic_of(texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`--dynamic name=batch,,height,width`, repeated, as input name -> dimension names, "" for a fixed one.

    Raises `UsageError` with all problems.
    """
    dynamic: dict[str, tuple[str, ...]] = {}
    problems = []
    for text in texts:
        name, _, dims = text.rpartition("=")
        parts = tuple(part.strip() for part in dims.split(","))
        if not name or not any(parts) or any(part and not part.isidentifier() for part in parts):
            problems.append(f"got {text!r}, NAME=batch or NAME=batch,,height,width is needed")
        elif name in dynamic:
            problems.append(f"the input {name!r} is named twice")
        else:
            dynamic[name] = parts
    if problems:
        raise UsageError("bad --dynamic", where="edgekit convert", problems=problems)
    return dynamic
