"""The verbs, as functions: open, prune, convert, train_quantized, validate, benchmark, analyze, run.

The command line has the same words.
"""

from __future__ import annotations

from edgekit.api.judging import analyze, benchmark, validate
from edgekit.api.making import convert, run, train_quantized
from edgekit.api.reading import open, prune

__all__ = ["analyze", "benchmark", "convert", "open", "prune", "run", "train_quantized", "validate"]
