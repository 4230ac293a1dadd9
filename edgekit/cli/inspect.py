"""`edgekit inspect`: what a model or an artifact is."""

from __future__ import annotations

import argparse
from typing import Any

from edgekit.cli.answer import Answer, table

__all__ = ["DESCRIPTION", "EXAMPLE", "SUMMARY", "add_arguments", "execute"]

SUMMARY = "signature, operators and size of an ONNX file, an artifact or an output folder"
DESCRIPTION = """\
Say what FILE is: for an ONNX file its signature, operators and multiply-adds; for an artifact folder what its
manifest says, its files verified; for a folder that `edgekit convert` wrote, every artifact in it."""
EXAMPLE = "example: edgekit inspect model.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit inspect`."""
    parser.add_argument("file", metavar="FILE", help="an ONNX file, an artifact folder or an output folder")


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit inspect`."""
    from pathlib import Path

    from edgekit.errors import UsageError

    path = Path(arguments.file)
    if path.is_dir():
        return _inspect_folder(path)
    if not path.exists():
        raise UsageError("no such file or folder", where=str(path))
    return _inspect_model(path)


def _inspect_model(path: Any) -> Answer:
    raise NotImplementedError


def _inspect_folder(path: Any) -> Answer:
    raise NotImplementedError


_ = table
