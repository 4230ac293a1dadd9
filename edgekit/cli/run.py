"""`edgekit run`: everything from one recipe."""

from __future__ import annotations

import argparse

from edgekit.cli.answer import Answer, report_answer

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Convert, validate and benchmark as the recipe says. The exit code is 0 when every budget is kept, else 1.
Relative paths in a recipe are taken from the recipe's own folder."""
EXAMPLE = "example: edgekit run recipe.toml -o build/model --overwrite"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit run`."""
    parser.add_argument("recipe", metavar="RECIPE", help="a recipe (.toml)")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="the folder to write, in place of the recipe's `output`"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit run`."""
    from dataclasses import replace
    from pathlib import Path

    from edgekit import api
    from edgekit.cli.progress import show_progress
    from edgekit.core.recipe import load_recipe

    recipe = load_recipe(Path(arguments.recipe))
    if arguments.output:
        recipe = replace(recipe, output=arguments.output)
    if arguments.overwrite:
        recipe = replace(recipe, overwrite=True)
    with show_progress(quiet=arguments.quiet) as listener:
        report = api.run(recipe, on_event=listener)
    return report_answer(report, recipe.output)
