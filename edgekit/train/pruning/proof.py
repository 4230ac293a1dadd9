"""Proof of groups: the graph without some units must answer like the graph in which nobody reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core.packages import require
from edgekit.errors import EdgekitError, Reason
from edgekit.graph.generate import generate_inputs
from edgekit.train.pruning.cutting import Removal, cut_graph, masked_graph
from edgekit.train.pruning.groups import Group

__all__ = ["agrees", "proven"]

_RELATIVE = 1e-4  # float sums of fewer terms, in another order; a channel in the wrong place is far beyond it


def proven(model: Any, groups: Sequence[Group], path: Path) -> tuple[list[Group], list[Reason]]:
    """The groups of which a unit can be removed exactly, and why the others cannot.

    `path` is the file of `model`: inputs are generated for it. All are tried at once, then halves of those
    that do not hold. A group that holds for one unit holds for all: which places belong to a unit differs
    from unit to unit by its number alone.
    """
    good: list[Group] = []
    reasons: list[Reason] = []
    waiting = [list(groups)] if groups else []
    while waiting:
        tried = waiting.pop(0)
        why = agrees(model, tried, {g.name: np.arange(0, g.count, max(2, g.count // 4))[:-1] for g in tried
                                    if g.count > 3}, path)  # fmt: skip
        if not why:
            good += tried
        elif len(tried) == 1:
            reasons.append(Reason(node=tried[0].name, why=why))
        else:
            middle = len(tried) // 2
            waiting += [tried[:middle], tried[middle:]]
    order = {g.name: i for i, g in enumerate(groups)}
    return sorted(good, key=lambda g: order[g.name]), reasons


def agrees(model: Any, groups: Sequence[Group], removal: Removal, path: Path) -> str:
    """"" where the cut graph answers like the masked one, else what went wrong."""
    try:
        smaller = cut_graph(model, groups, removal)
    except EdgekitError as err:
        first = getattr(err, "reasons", ())
        return f"{first[0].node}: {first[0].why}" if first else err.message
    try:
        got = _answers(smaller, path)
    except Exception as err:  # ONNX Runtime has error types of its own
        return f"the cut graph does not run: {next(iter(str(err).splitlines()), type(err).__name__)}"
    wanted = _answers(masked_graph(model, groups, removal), path)
    for mine, theirs in zip(got, wanted, strict=True):
        if mine.shape != theirs.shape:
            return f"an output would change its shape from {theirs.shape} to {mine.shape}"
        scale = float(np.abs(theirs).max(initial=0.0)) or 1.0
        if not np.allclose(mine, theirs, rtol=0.0, atol=_RELATIVE * scale):
            apart = float(np.abs(mine.astype(np.float64) - theirs).max())
            return (
                f"without units it does not answer like the graph that ignores them (off by {apart:.2g} of "
                f"{scale:.2g}): their values are mixed, as in a normalization over channels"
            )
    return ""


def _answers(model: Any, path: Path) -> list[Any]:
    runtime = require("onnxruntime", needed_for="pruning")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, generate_inputs(path, 0)))
