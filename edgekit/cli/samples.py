"""`edgekit samples`: what a model would be fed."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgekit.cli.answer import Answer, table
from edgekit.cli.model_options import add_shapes
from edgekit.cli.options import add_samples, samples_of, shapes_of

if TYPE_CHECKING:
    from edgekit.pipeline.describe_samples import SamplesReport

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Show what a model would be fed: how many samples, their values, labels and digest, and, where the model has
BatchNorm, whether they are prepared as those it was trained on."""
EXAMPLE = "example: edgekit samples --data photographs --preprocessing imagenet-tf --model build/model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit samples`."""
    add_samples(
        parser,
        flag="--data",
        prefix="",
        required=True,
        help_=".npz, .npy, .csv, .parquet, a folder of images, sounds or arrays, or a sample spec (.toml)",
    )
    parser.add_argument(
        "--model", metavar="MODEL", required=True,
        help="a trained model, as `edgekit convert` takes it, or the folder that `edgekit convert` wrote",
    )  # fmt: skip
    group = parser.add_argument_group("model")
    group.add_argument("--state", metavar="FILE", default="", help="state-dict file for module.py:factory")
    group.add_argument("--trust", action="store_true", help="load files that can run code")
    add_shapes(group)


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit samples`."""
    from edgekit.cli.progress import show_progress
    from edgekit.core.codec import encode
    from edgekit.core.recipe import SourceOptions
    from edgekit.pipeline.describe_samples import describe_samples

    model = SourceOptions(
        model=arguments.model,
        state=arguments.state,
        trust=arguments.trust,
        shapes=shapes_of(arguments.shapes),
    )
    with show_progress(quiet=arguments.quiet) as listener:
        found = describe_samples(samples_of(arguments), model, on_event=listener)
    return Answer(value=encode(found), text=_text(found))


def _text(found: SamplesReport) -> str:
    rows: list[tuple[str, ...]] = [
        ("samples", f"{found.count}"),
        ("from", found.spec),
        ("digest", found.digest),
    ]
    for one in found.inputs:
        dims = ", ".join(str(d) if d != "" else "?" for d in one.shape)
        rows.append(("input", f"{one.name}: {one.dtype}[{dims}]"))
        for i, values in enumerate(zip(one.low, one.mean, one.deviation, one.high, strict=True)):
            place = f"channel {i}: " if len(one.low) > 1 else ""
            low, mean, deviation, high = values
            rows.append(("", f"{place}{low:.4g} to {high:.4g}, mean {mean:.4g}, deviation {deviation:.4g}"))
    rows.append(("labels", "none" if found.classes is None else f"{found.classes} distinct"))
    rows.append(("prepared", _judgement(found.judgement)))
    rows += [("note", note) for note in found.notes]
    return table(rows)


def _judgement(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not checked: the model has no BatchNorm that would know its training samples"
    if found["suspicion"]:
        return f"WARNING: {found['suspicion']}"
    return (
        f"as in training, as far as {found['samples']} samples show: variance at the first BatchNorm "
        f"{found['variance']:.3g} times that of training, distance {found['distance']:.2g}"
    )
