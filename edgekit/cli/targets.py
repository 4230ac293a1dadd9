"""`edgekit targets`: the target profiles that edgekit ships."""

from __future__ import annotations

import argparse

from edgekit.cli.answer import Answer, table

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = "List the target profiles, the precisions each offers, and what it refuses and why."
EXAMPLE = "example: edgekit targets --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`edgekit targets` takes no options of its own."""


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit targets`."""
    from edgekit.core.codec import encode
    from edgekit.core.target import list_targets

    targets = list_targets()
    rows: list[tuple[str, ...]] = [("target", "engine", "precisions", "what it is")]
    for target in targets:
        rows.append((target.name, target.engine, ",".join(target.precisions), target.summary))
        rows.extend(("", "", f"no {precision}", why) for precision, why in target.refuse.items())
    return Answer(value={"targets": encode(targets)}, text=table(rows))
