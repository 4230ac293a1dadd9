"""What every step of one conversion needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.core.about import About
from edgekit.core.model import Model
from edgekit.core.recipe import Recipe
from edgekit.core.report import Rescue
from edgekit.core.target import Target
from edgekit.pipeline.steps import StepRunner

__all__ = ["Job", "Mend", "Mended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mended:
    """The int8 graph to lower, and what was done to it."""

    graph: Path
    rescue: Rescue


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One conversion: `model` is the canonical graph, `out` the answer's folder, `work` a scratch one.

    `original` is the graph before it was pruned or fine-tuned, beside which artifacts are judged
    and timed (None: `model` is as it was read).

    `mend` is asked for the int8 graph of every target in place of the plain one (None: the plain one).
    """

    recipe: Recipe
    model: Model
    out: Path
    work: Path
    runner: StepRunner
    about: About
    mend: Mend | None = None
    original: Model | None = None


Mend = Callable[[Job, Target, Path, dict[str, Any]], Mended]
