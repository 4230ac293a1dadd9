"""Whether an artifact runs: loaded in its engine in a process of its own, run once, its layers read back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.artifact import Artifact
from edgekit.core.report import ArtifactReport
from edgekit.core.target import INTEGER
from edgekit.devices.local import Worker
from edgekit.errors import EdgekitError, Unsupported

__all__ = ["check_artifact"]


def check_artifact(
    artifact: Artifact, entry: ArtifactReport, example: dict[str, NDArray[Any]], *, deadline_s: float
) -> ArtifactReport:
    """The entry of an artifact that was loaded in its engine and run once on `example` (source layout).

    It says what the engine executes in integers; that the artifact fails, or cannot run here, becomes its
    status.
    """
    label = f"check {entry.target} {entry.precision}"
    try:
        with Worker(engine=artifact.manifest.engine, label=label, deadline_s=deadline_s) as worker:
            worker.load(artifact.folder, threads=1, layout="source")
            worker.run(example)
            if artifact.manifest.dynamic:
                worker.run(_in_the_next_size(artifact, example))
            matrix = [layer for layer in worker.layers() if layer.matrix]
    except Unsupported as err:
        reasons = tuple(str(r) for r in err.reasons) or (err.message,)
        return replace(entry, status="not_validated", reasons=reasons)
    except EdgekitError as err:
        return replace(entry, status="failed", reasons=(str(err),))
    integer = [layer for layer in matrix if layer.compute.startswith("int")]
    in_float = [layer.name for layer in matrix if layer not in integer]
    return replace(
        entry,
        integer_ops=len(integer),
        total_ops=len(matrix),
        integer_share=len(integer) / len(matrix) if matrix else None,
        float_nodes=tuple(in_float) if entry.precision in INTEGER else (),
    )


def _in_the_next_size(artifact: Artifact, example: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The example repeated to the next size of every dynamic dimension, in the source's layout."""
    larger = {}
    for port in artifact.manifest.inputs:
        shape = list(example[port.name].shape)
        for position, dim in enumerate(port.shape):
            if isinstance(dim, str) and (known := artifact.manifest.dynamic.get(dim)):
                axis = port.axes[position] if port.axes else position
                shape[axis] = known["size"] + known["step"]
        larger[port.name] = np.resize(example[port.name], shape)
    return larger
