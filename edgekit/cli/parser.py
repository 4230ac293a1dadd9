"""The argument parser. It loads no framework and no numpy: a command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from edgekit import __version__
from edgekit.cli.options import add_common
from edgekit.errors import UsageError, nearest

__all__ = ["COMMANDS", "parse"]

# name -> what it does in a line; edgekit/cli/<name>.py (- as _) is imported when it is chosen
COMMANDS = {
    "convert": "lower a model for every target and precision you name",
    "validate": "judge every artifact beside the source model on the same samples",
    "analyze": "rank the nodes of a model by the damage that int8 does there",
    "benchmark": "latency, size and memory of every artifact beside the float source",
    "run": "everything from one recipe: convert, validate, benchmark, verdict",
    "prune": "remove channels, heads or weights of a model, and recover what it knew",
    "train-quantized": "train int8 graphs on samples, as the engines will compute them",
    "samples": "show what a model would be fed, and whether it is prepared as in training",
    "targets": "list the targets and what each can do",
    "inspect": "signature, operators and size of a model or an artifact",
    "doctor": "what is installed, what is missing and the command that adds it",
}

_GLOBAL_OPTIONS = ("-h", "--help", "--version")

_EXIT_CODES = """\
exit codes: 0 done, 1 a budget is not met (verdict fail), 2 wrong usage or bad input, 3 a package is missing,
4 refused with the reasons, 5 a step failed, crashed or timed out, 70 a defect of edgekit, 130 interrupted.
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Knows the width by itself: argparse would import shutil, with every compressor, to ask for it."""

    def __init__(self, prog: str) -> None:
        try:
            width = int(os.environ.get("COLUMNS", "")) or 80
        except ValueError:
            try:
                width = os.get_terminal_size(1).columns
            except OSError:  # not a terminal
                width = 80
        super().__init__(prog, width=max(width, 40) - 2)


class _Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, where=self.prog, hint=f"{self.prog} --help")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; `execute` in the result is the command's function.

    Raises `UsageError`: an unknown command or option names the nearest known one.
    """
    name = words[0] if words else ""
    parser, command = _build(name)
    if not words:
        known = ", ".join(COMMANDS)
        raise UsageError(f"a command is needed: {known}", where="edgekit", hint="edgekit --help")
    if name.startswith("-") and name not in _GLOBAL_OPTIONS:
        raise UsageError(
            f"unknown option {name!r} before the command; {nearest(name, _GLOBAL_OPTIONS)}",
            where="edgekit",
            hint="write the command first: edgekit COMMAND [options]",
        )
    if not name.startswith("-") and name not in COMMANDS:
        raise UsageError(
            f"unknown command {name!r}; {nearest(name, COMMANDS)}", where="edgekit", hint="edgekit --help"
        )
    if command:
        _refuse_unknown_options(command, words[1:])
    arguments, rest = parser.parse_known_args(words)
    if rest:
        place = command.prog if command else "edgekit"
        found = ", ".join(repr(word) for word in rest)
        raise UsageError(f"unexpected on the command line: {found}", where=place, hint=f"{place} --help")
    return arguments


def _build(chosen: str) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser | None]:
    """The parser and, in it, the one of the chosen command: only that one is given its options (time)."""
    parser = _Parser(
        prog="edgekit",
        description="One trained model in; small, fast artifacts out, each proven to answer like its source.",
        epilog=_EXIT_CODES,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"edgekit {__version__}")
    group = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    built: argparse.ArgumentParser | None = None
    for name, summary in COMMANDS.items():
        if name != chosen:
            group.add_parser(name, help=summary)
            continue
        module = import_module(f"edgekit.cli.{name.replace('-', '_')}")
        built = group.add_parser(
            name,
            help=summary,
            description=module.DESCRIPTION,
            epilog=module.EXAMPLE,
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        module.add_arguments(built)
        add_common(built)
        built.set_defaults(execute=module.execute)
    return parser, built


def _refuse_unknown_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """All unknown long options at once, before argparse complains of what their absence makes missing."""
    known = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", parser.format_help()))
    options = []
    for word in words:
        if word == "--":
            break
        if word.startswith("--"):
            options.append(word.partition("=")[0])
    problems = [
        f"unknown option {option!r}; {nearest(option, known)}" for option in options if option not in known
    ]
    if len(problems) == 1:
        raise UsageError(problems[0], where=parser.prog, hint=f"{parser.prog} --help")
    if problems:
        raise UsageError(
            "unknown options", where=parser.prog, problems=problems, hint=f"{parser.prog} --help"
        )
