"""`edgekit analyze`: which nodes int8 hurts."""

from __future__ import annotations

import argparse

from edgekit.cli.answer import Answer
from edgekit.cli.model_options import add_judged_output, add_metric, add_model, model_of
from edgekit.cli.options import add_calibration, add_deadline, calibration_of, number

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
    add_metric(
        judged, "of labelled samples: adds what every node alone costs (default none: SQNR and agreement)"
    )
    judged.add_argument("--samples", metavar="N", type=number(int, at_least=1), default=32,
                        help="how many of them, evenly spread (default 32)")  # fmt: skip
    add_judged_output(judged, "--output", "the judged output, of a model that has several")
    parser.add_argument(
        "--top", metavar="N", type=number(int, at_least=0), default=20,
        help="nodes that are shown (default 20, 0 all); --json and --markdown always hold all",
    )  # fmt: skip
    parser.add_argument("--markdown", metavar="FILE", help="write the analysis as Markdown, too")
    add_deadline(parser)
    add_model(parser)


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
            **model_of(arguments),
            deadline_s=arguments.deadline,
            on_event=listener,
        )
    if arguments.markdown:
        write_text(Path(arguments.markdown), render_sensitivity_markdown(found))
    return Answer(value=encode(found), text=render_sensitivity(found, top=arguments.top).rstrip())
