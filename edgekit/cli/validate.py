"""`edgekit validate`: judge every artifact beside the source model on the same samples."""

from __future__ import annotations

import argparse

from edgekit.cli.answer import Answer, report_answer
from edgekit.cli.beside_options import add_beside, beside_of
from edgekit.cli.model_options import add_accuracy_drop, add_judged_output, add_metric
from edgekit.cli.options import add_deadline, add_samples, samples_of

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Run the source model and every artifact under OUT on the same samples: the metric of each, top-1 agreement,
cosine, SQNR and the largest difference. Use samples that calibration has not seen. Updates OUT's report."""
EXAMPLE = "example: edgekit validate build/model --data held-back.npz --metric accuracy --max-accuracy-drop 1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit validate`."""
    parser.add_argument("output", metavar="OUT", help="a folder that `edgekit convert` wrote")
    add_samples(
        parser,
        flag="--data",
        prefix="",
        required=True,
        help_="labelled samples: .npz, .npy, .csv, a folder of images, sounds or arrays, or a spec (.toml)",
    )
    add_metric(parser, "default accuracy", default="accuracy")
    add_judged_output(parser, "--output", "the output judged (default the first)")
    add_accuracy_drop(parser)
    add_beside(parser)
    add_deadline(parser)


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit validate`."""
    from edgekit import api
    from edgekit.cli.progress import show_progress

    data = samples_of(arguments)
    beside = beside_of(arguments)
    with show_progress(quiet=arguments.quiet) as listener:
        report = api.validate(
            arguments.output,
            data=data,
            metric=arguments.metric,
            judged_output=arguments.judged_output,
            max_accuracy_drop=arguments.max_accuracy_drop,
            beside=beside,
            deadline_s=arguments.deadline,
            on_event=listener,
        )
    return report_answer(report, arguments.output)
