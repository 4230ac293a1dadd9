"""`edgekit convert`: lower a model for every target and precision."""

from __future__ import annotations

import argparse

from edgekit.cli.algorithm_options import add_algorithms
from edgekit.cli.answer import Answer, report_answer
from edgekit.cli.model_options import add_model, model_of
from edgekit.cli.options import (
    LAYOUTS,
    PRECISIONS,
    add_calibration,
    add_deadline,
    calibration_of,
    choice,
    dynamic_of,
)
from edgekit.cli.rescue_options import add_rescue, budgets_of, quantization_of, validation_of

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Lower a trained model for every target and precision, check each artifact, and write a report.
SOURCE is an ONNX file, a Keras file (.keras, .h5), a SavedModel folder or a PyTorch model: module.py:factory
(with --state), a torch.export .pt2, TorchScript. What can run code when it is loaded (.pt2, TorchScript, a
Lambda layer, --custom-objects) needs --trust."""
EXAMPLE = "example: edgekit convert model.onnx -t tflite -t openvino --calibration samples.npz -o build/model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit convert`."""
    parser.add_argument("source", metavar="SOURCE", help="the trained model")
    parser.add_argument(
        "-t", "--target", dest="targets", metavar="TARGET", action="append", required=True,
        help="a name that `edgekit targets` lists, or a profile of your own (.toml); may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "-p", "--precision", dest="precisions", metavar="|".join(PRECISIONS), action="append",
        type=choice(PRECISIONS),
        help="may be repeated (default int8): float16 halves the weights; int8 and int16x8 (16-bit "
        "activations) compute in integers and need --calibration; dynamic-int8 quantizes activations at run "
        "time; weight-int8 and weight-int4 store weights small and compute in floats",
    )  # fmt: skip
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    parser.add_argument(
        "--allow-refused", metavar="TARGET/PRECISION", action="append", default=[],
        help="an artifact whose refusal is expected and does not fail the verdict; may be repeated",
    )  # fmt: skip
    add_deadline(parser)
    add_calibration(parser)
    add_algorithms(parser)
    add_rescue(parser)
    model = add_model(parser)
    model.add_argument(
        "--dynamic", metavar="NAME=batch,,height,width", action="append", default=[],
        help="names for the dimensions of an input that stay dynamic, in order; may be repeated",
    )  # fmt: skip
    model.add_argument("--no-simplify", action="store_true", help="leave the graph as it is read")
    model.add_argument(
        "--quantized-io",
        action="store_true",
        help="int8 and int16x8 artifacts take and give integers, not floats",
    )
    model.add_argument(
        "--layout", metavar="|".join(LAYOUTS), type=choice(LAYOUTS),
        help="of the artifacts' inputs and outputs: channels last (nhwc), or the model's own (source); "
        "default the target's",
    )  # fmt: skip
    model.add_argument(
        "--labels", metavar="FILE", default="",
        help="the names of the classes, one a line: artifacts carry them",
    )  # fmt: skip


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit convert`."""
    from edgekit import api
    from edgekit.cli.progress import show_progress

    calibration = calibration_of(arguments)
    quantization, validation = quantization_of(arguments), validation_of(arguments)
    model, dynamic = model_of(arguments), dynamic_of(arguments.dynamic)
    with show_progress(quiet=arguments.quiet) as listener:
        report = api.convert(
            arguments.source,
            targets=arguments.targets,
            output=arguments.output,
            precisions=arguments.precisions or ("int8",),
            calibration=calibration,
            quantization=quantization,
            validation=validation,
            budgets=budgets_of(arguments),
            **model,
            dynamic=dynamic,
            simplify=not arguments.no_simplify,
            quantized_io=arguments.quantized_io,
            layout=arguments.layout or "",
            labels=arguments.labels,
            allow_refused=arguments.allow_refused,
            overwrite=arguments.overwrite,
            deadline_s=arguments.deadline,
            on_event=listener,
        )
    return report_answer(report, arguments.output)
