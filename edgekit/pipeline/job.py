"""What every step of one conversion needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.core.about import About
from edgekit.core.model import Model
from edgekit.core.recipe import Recipe
from edgekit.pipeline.steps import StepRunner

__all__ = ["Job"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One conversion: `model` is the canonical graph, `out` the answer's folder, `work` a scratch one."""

    recipe: Recipe
    model: Model
    out: Path
    work: Path
    runner: StepRunner
    about: About
