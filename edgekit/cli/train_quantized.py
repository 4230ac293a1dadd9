"""`edgekit train-quantized`: int8 graphs trained on samples before they are lowered."""

from __future__ import annotations

import argparse

from edgekit.cli.answer import Answer, report_answer
from edgekit.cli.model_options import add_accuracy_drop, add_judged_output, add_metric, add_model, model_of
from edgekit.cli.options import add_calibration, add_deadline, calibration_of, choice
from edgekit.cli.training_options import add_training, distillation_of, training_of

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Quantization-aware training: calibrate and quantize a trained model for every target, train the quantized
graphs as the engines will compute them, all targets on one set of weights, and lower them as they came out.
Samples without labels do: the float network then is the teacher."""
EXAMPLE = "example: edgekit train-quantized model.onnx -t tflite --training samples.npz -o build/model"

_RANGES = ("learned", "observed", "alone")
_STARTS = ("equalized", "plain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit train-quantized`."""
    parser.add_argument("source", metavar="SOURCE", help="the trained model")
    parser.add_argument(
        "-t", "--target", dest="targets", metavar="TARGET", action="append", required=True,
        help="a name that `edgekit targets` lists, or a profile of your own (.toml); may be repeated",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_deadline(parser)
    add_training(parser)
    parser.add_argument(
        "--ranges", metavar="|".join(_RANGES), type=choice(_RANGES), default="learned",
        help="train the scales too (learned, the default), keep those that calibration found, or train those "
        "of activations and no weights (alone)",
    )  # fmt: skip
    parser.add_argument(
        "--start", metavar="|".join(_STARTS), type=choice(_STARTS), default="equalized",
        help="even out channels first, where no float answer changes (equalized, default), or not (plain)",
    )  # fmt: skip
    add_calibration(parser)
    group = parser.add_argument_group("judgement")
    group.add_argument(
        "--data", dest="judged_data", metavar="DATA", default="",
        help="samples that training has not seen: every artifact is judged by them",
    )  # fmt: skip
    add_metric(group, "of --data (default accuracy; mse, mae and rmse need no labels)")
    add_judged_output(group, "--output-name", "the judged output of several")
    add_accuracy_drop(group)
    add_model(parser)


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit train-quantized`."""
    from edgekit import api
    from edgekit.cli.progress import show_progress
    from edgekit.core.recipe import Budgets, DataSource, ValidationOptions

    validation = None
    if arguments.judged_data:
        validation = ValidationOptions(
            data=DataSource(path=arguments.judged_data, preprocessing=arguments.preprocessing),
            metric=arguments.metric or "accuracy",
            output=arguments.judged_output,
        )
    calibration = calibration_of(arguments) if arguments.data else None
    training, distillation, model = training_of(arguments), distillation_of(arguments), model_of(arguments)
    with show_progress(quiet=arguments.quiet) as listener:
        report = api.train_quantized(
            arguments.source,
            targets=arguments.targets,
            output=arguments.output,
            training=training,
            calibration=calibration,
            distill=distillation,
            ranges=arguments.ranges,
            start=arguments.start,
            validation=validation,
            budgets=Budgets(max_accuracy_drop=arguments.max_accuracy_drop),
            **model,
            overwrite=arguments.overwrite,
            deadline_s=arguments.deadline,
            on_event=listener,
        )
    return report_answer(report, arguments.output)
