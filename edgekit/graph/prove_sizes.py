"""Whether one graph with named dimensions answers like the static graphs it was made of, each in its size."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgekit.core.arrays import load_arrays
from edgekit.errors import Reason, Unsupported
from edgekit.graph.compare import first_difference
from edgekit.graph.evaluate import evaluate
from edgekit.graph.generate import generate_files

__all__ = ["prove_sizes"]


def prove_sizes(models: list[str], opened: str) -> None:
    """The step: run every file of `models` and `opened` on generated inputs of that file's sizes.

    Raises `Unsupported` with the first output that differs, or that ONNX Runtime cannot compute.
    """
    with tempfile.TemporaryDirectory(prefix="edgekit-prove-") as folder:
        for number, static in enumerate(models):
            inputs = str(Path(folder) / f"{number}.inputs.npz")
            outputs = [Path(folder) / f"{number}.{name}.npz" for name in ("static", "opened")]
            generate_files(static, [inputs])
            for model, path in zip((static, opened), outputs, strict=True):
                evaluate(model, [inputs], [str(path)])
            difference = first_difference(*(load_arrays(path) for path in outputs))
            if difference is not None:
                raise Unsupported(
                    "the dynamic graph does not answer like the static one",
                    reasons=[Reason(why=f"size {number + 1} of {len(models)}: {difference}")],
                )
