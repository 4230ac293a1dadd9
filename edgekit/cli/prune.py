"""`edgekit prune`: a smaller float network of the same answers."""

from __future__ import annotations

import argparse
from typing import Any

from edgekit.cli.answer import Answer
from edgekit.cli.model_options import add_model, model_of
from edgekit.cli.options import add_deadline, choice, number
from edgekit.cli.training_options import add_training, distillation_of, training_of

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Remove channels, attention heads or single weights of a trained model, train what is left (samples without
labels do: the unpruned network then is the teacher), and write an ONNX file that is smaller, not masked.
Single weights become zeros: that file keeps its size, and no engine here runs it faster.
OUT/model.onnx is a source like any other: `edgekit convert OUT/model.onnx`."""
EXAMPLE = "example: edgekit prune model.onnx --remove 0.5 --training samples.npz --epochs 5 -o build/small"

METHODS = ("channels", "heads", "structured", "unstructured", "2:4")
MEASURES = ("macs", "parameters", "latency")
CRITERIA = ("magnitude", "taylor", "activation")
SCOPES = ("global", "uniform")
COMPENSATIONS = ("least-squares", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit prune`."""
    parser.add_argument("source", metavar="SOURCE", help="the trained model")
    parser.add_argument("-o", "--output", metavar="OUT", required=True, help="the folder to write")
    parser.add_argument("--method", metavar="|".join(METHODS), type=choice(METHODS),
                        help="what goes (default channels); structured: channels and heads")  # fmt: skip
    parser.add_argument("--remove", metavar="SHARE", type=number(float, at_least=0),
                        help="how much of the measure goes, 0 to 1 (default 0.5)")  # fmt: skip
    parser.add_argument("--measure", metavar="|".join(MEASURES), type=choice(MEASURES),
                        help="what --remove is a share of (default macs)")  # fmt: skip
    parser.add_argument("-t", "--target", metavar="TARGET", help="whose latency is measured")
    parser.add_argument("--criterion", metavar="|".join(CRITERIA), type=choice(CRITERIA),
                        help="what a channel is worth by (default magnitude: no samples)")  # fmt: skip
    parser.add_argument("--scope", metavar="|".join(SCOPES), type=choice(SCOPES),
                        help="the least worthy of all layers, or an equal share of each")  # fmt: skip
    parser.add_argument("--floor", metavar="SHARE", type=number(float, at_least=0),
                        help="of its channels that every layer keeps (default 0.25)")  # fmt: skip
    parser.add_argument("--multiple", metavar="N", type=number(int, at_least=1),
                        help="channels that are left are a multiple of this (default 8)")  # fmt: skip
    parser.add_argument("--keep", metavar="GLOB", action="append", default=[],
                        help="names of layers that lose nothing; may be repeated")  # fmt: skip
    parser.add_argument("--pruning-steps", metavar="N", type=number(int, at_least=1),
                        help="remove it in N steps, training after each (default 1)")  # fmt: skip
    parser.add_argument("--max-drop", metavar="X", type=number(float, at_least=0),
                        help="stop before the score is worse by more (points for rates)")  # fmt: skip
    parser.add_argument(
        "--compensation", metavar="|".join(COMPENSATIONS), type=choice(COMPENSATIONS),
        help="before training, predict what is gone from what stays (default least-squares)",
    )  # fmt: skip
    parser.add_argument("--labels-only", action="store_true", help="learn from labels, not from the network")
    add_deadline(parser)
    add_training(parser, required=False)
    parser.add_argument("--preprocessing", metavar="SPEC", default="",
                        help="the sample spec (.toml) that says how samples are prepared")  # fmt: skip
    add_model(parser)


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit prune`."""
    from edgekit import api
    from edgekit.cli.progress import show_progress
    from edgekit.core.codec import encode
    from edgekit.core.pruning import PruningOptions

    given: dict[str, Any] = {
        "method": arguments.method,
        "remove": arguments.remove,
        "measure": arguments.measure,
        "target": arguments.target,
        "criterion": arguments.criterion,
        "scope": arguments.scope,
        "floor": arguments.floor,
        "multiple": arguments.multiple,
        "steps": arguments.pruning_steps,
        "max_drop": arguments.max_drop,
        "compensation": arguments.compensation,
        "learn_from": "labels" if arguments.labels_only else None,
        "recovery": training_of(arguments) if arguments.training else None,
        "distill": distillation_of(arguments),
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    options = PruningOptions(keep=tuple(arguments.keep), **chosen)
    with show_progress(quiet=arguments.quiet) as listener:
        model = api.prune(
            arguments.source, out=arguments.output, options=options, **model_of(arguments),
            deadline_s=arguments.deadline, on_event=listener,
        )  # fmt: skip
    lines = [*model.notes, f"the pruned network: {model.path}"]
    return Answer(value=encode(model), text="\n".join(lines))
