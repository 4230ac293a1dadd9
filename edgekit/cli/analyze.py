"""`edgekit analyze`: which nodes int8 hurts."""

from __future__ import annotations

import argparse

from edgekit.cli.answer import Answer
from edgekit.cli.options import (
    METRICS,
    add_calibration,
    add_deadline,
    add_source,
    calibration_of,
    choice,
    number,
    shapes_of,
)

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Rank every node that a target runs in int8: the damage it does when it alone is quantized, and what keeping
it in float buys. Simulated with the target's own quantizers; the most damaging nodes come first."""
EXAMPLE = "example: edgekit analyze model.onnx -t tflite --calibration samples.npz --data held-back.npz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit analyze`."""
    parser.add_argument("source", metavar="SOURCE", help="the trained model")
    parser.add_argument("-t", "--target", metavar="TARGET", required=True, help="whose int8 is simulated")
    add_calibration(parser)
    judged = parser.add_argument_group("judged by")
    judged.add_argument(
        "--data", dest="judged_data", metavar="DATA", default="",
        help="samples that calibration has not seen, prepared like those (default: the calibration samples)",
    )  # fmt: skip
    judged.add_argument(
        "--metric", metavar="|".join(METRICS), type=choice(METRICS),
        help="of labelled samples: adds what every node alone costs (default none: SQNR and agreement)",
    )  # fmt: skip
    judged.add_argument("--samples", metavar="N", type=number(int, at_least=1), default=32,
                        help="how many of them, evenly spread (default 32)")  # fmt: skip
    judged.add_argument(
        "--output", dest="judged_output", metavar="NAME", default="",
        help="the judged output, of a model that has several",
    )  # fmt: skip
    parser.add_argument(
        "--top", metavar="N", type=number(int, at_least=0), default=20,
        help="nodes that are shown (default 20, 0 all); --json and --markdown always hold all",
    )  # fmt: skip
    parser.add_argument("--markdown", metavar="FILE", help="write the analysis as Markdown, too")
    add_deadline(parser)
    model = parser.add_argument_group("model")
    add_source(model)
    model.add_argument(
        "--shape", dest="shapes", metavar="NAME=1,3,224,224", action="append", default=[],
        help="the fixed shape of an input with dynamic dimensions; may be repeated",
    )  # fmt: skip


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit analyze`."""
    from pathlib import Path

    from edgekit import api
    from edgekit.cli.progress import show_progress
    from edgekit.core.codec import encode
    from edgekit.core.files import write_text
    from edgekit.core.recipe import DataSource
    from edgekit.errors import UsageError
    from edgekit.report import render_sensitivity, render_sensitivity_markdown

    calibration = calibration_of(arguments)
    if calibration is None:
        raise UsageError("--calibration DATA is needed: ranges come from samples", where="edgekit analyze")
    data = None
    if arguments.judged_data:
        data = DataSource(path=arguments.judged_data, preprocessing=arguments.preprocessing)
    with show_progress(quiet=arguments.quiet) as listener:
        found = api.analyze(
            arguments.source,
            target=arguments.target,
            calibration=calibration,
            data=data,
            metric=arguments.metric,
            samples=arguments.samples,
            judged_output=arguments.judged_output,
            state=arguments.state,
            trust=arguments.trust,
            signature=arguments.signature,
            custom_objects=arguments.custom_objects,
            shapes=shapes_of(arguments.shapes),
            deadline_s=arguments.deadline,
            on_event=listener,
        )
    if arguments.markdown:
        write_text(Path(arguments.markdown), render_sensitivity_markdown(found))
    return Answer(value=encode(found), text=render_sensitivity(found, top=arguments.top).rstrip())
