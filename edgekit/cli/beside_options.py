"""The options that set files of other makers beside edgekit's own artifacts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edgekit.errors import UsageError

if TYPE_CHECKING:
    from edgekit.core.beside import Beside

__all__ = ["add_beside", "beside_of"]


def add_beside(parser: argparse.ArgumentParser) -> None:
    """--beside and --port."""
    group = parser.add_argument_group("files of other makers")
    group.add_argument(
        "--beside", metavar="[NAME=]FILE", action="append", default=[],
        help="a .tflite file of the same network, compared in a row NAME of its own; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--port", dest="ports", metavar="OURS=THEIRS", action="append", default=[],
        help="which input or output of FILE is which of the source, where names differ; THEIRS@0,2,3,1 says "
        "the order of its axes, too",
    )  # fmt: skip


def beside_of(arguments: argparse.Namespace) -> list[Beside]:
    """The files that the options name. Raises `UsageError` with all problems."""
    from edgekit.core.beside import Beside

    problems = []
    ports: dict[str, str] = {}
    for text in arguments.ports:
        ours, equals, theirs = text.partition("=")
        if not equals or not ours or not theirs:
            problems.append(f"--port: got {text!r}, OURS=THEIRS is needed")
        elif ours in ports:
            problems.append(f"--port: {ours!r} is given twice")
        ports[ours] = theirs
    if ports and not arguments.beside:
        problems.append("--port needs --beside FILE")
    files = []
    for text in arguments.beside:
        name, equals, path = text.partition("=")
        files.append(Beside(path=path, name=name, ports=ports) if equals else Beside(path=text, ports=ports))
    rows = [file.row for file in files]
    if twice := sorted({row for row in rows if rows.count(row) > 1}):
        problems.append(f"--beside: two rows are named {twice[0]!r}; NAME=FILE gives each a name")
    problems += [
        f"--beside: the name {row!r} has to be of letters, digits, dots, dashes and underscores"
        for row in rows if not row.replace("-", "").replace(".", "").replace("_", "").isalnum()
    ]  # fmt: skip
    if problems:
        raise UsageError("bad --beside or --port", problems=problems)
    return files
