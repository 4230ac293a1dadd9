"""The command line: one file per command, and one border (`main`) that turns outcomes into exit codes."""

from __future__ import annotations

from edgekit.cli.border import main

__all__ = ["main"]
