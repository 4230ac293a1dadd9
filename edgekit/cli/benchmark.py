"""`edgekit benchmark`: time every artifact beside the float source, interleaved."""

from __future__ import annotations

import argparse

from edgekit.cli.answer import Answer, report_answer
from edgekit.cli.beside_options import add_beside, beside_of
from edgekit.cli.options import add_deadline, number

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Time every artifact under OUT and the float source, each in a process of its own, rounds interleaved: median,
p90, p99, size and peak memory. Updates OUT's report."""
EXAMPLE = "example: edgekit benchmark build/model --threads 2 --min-speedup 1.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit benchmark`."""
    parser.add_argument("output", metavar="OUT", help="a folder that `edgekit convert` wrote")
    parser.add_argument(
        "--rounds", metavar="N", type=number(int), help="interleaved rounds of every artifact"
    )
    parser.add_argument(
        "--warmup", metavar="N", type=number(int), help="untimed calls before the first round"
    )
    parser.add_argument("--threads", metavar="N", type=number(int), help="threads of each engine (default 1)")
    parser.add_argument(
        "--max-latency-ms",
        metavar="X",
        type=number(float, at_least=0),
        help="fail when a median is above this",
    )
    parser.add_argument(
        "--min-speedup", metavar="X", type=number(float, at_least=0),
        help="fail when the speed-up over float32 on the same engine is below this",
    )  # fmt: skip
    add_beside(parser)
    add_deadline(parser)


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit benchmark`."""
    from edgekit import api
    from edgekit.cli.progress import show_progress
    from edgekit.core.recipe import BenchmarkOptions

    chosen = {name: getattr(arguments, name) for name in ("rounds", "warmup", "threads")}
    options = BenchmarkOptions(**{name: value for name, value in chosen.items() if value is not None})
    beside = beside_of(arguments)
    with show_progress(quiet=arguments.quiet) as listener:
        report = api.benchmark(
            arguments.output,
            options=options,
            max_latency_ms=arguments.max_latency_ms,
            min_speedup=arguments.min_speedup,
            beside=beside,
            deadline_s=arguments.deadline,
            on_event=listener,
        )
    return report_answer(report, arguments.output)
