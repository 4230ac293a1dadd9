"""The step: a canonical ONNX file in, the pruned one out."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekit.core.codec import decode, encode
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.pruning import PruningOptions
from edgekit.core.samples import open_samples
from edgekit.core.target import load_target
from edgekit.train.data import training_data
from edgekit.train.pruning.sparsity import prune_sparse
from edgekit.train.pruning.structured import Pruned, prune_structured

__all__ = ["prune_file"]

_TIMED = 12  # turns of a timed graph, of which the fastest half counts


def prune_file(
    *, model: str, out: str, work: str, options: dict[str, Any], signature: dict[str, Any]
) -> dict[str, Any]:
    """Step: prune the ONNX file `model` (BatchNormalization in place) to `out`, as `PruningOptions` say.

    What steps leave behind is kept in the folder `work` until the end, and taken from there again. Returns a
    `Pruned` as JSON values.
    """
    torch = require("torch", needed_for="pruning")
    chosen = decode(PruningOptions, options, where="prune")
    wanted = decode(Signature, signature, where="signature")
    data = None
    if chosen.recovery is not None:
        torch.set_num_threads(chosen.recovery.threads)
        data = training_data(chosen.recovery, wanted, need_labels=chosen.learn_from == "labels")
    place = Path(work)
    place.mkdir(parents=True, exist_ok=True)
    if chosen.method in ("unstructured", "2:4"):
        done = prune_sparse(Path(model), Path(out), place, chosen, data)
    else:
        measure = None
        if chosen.measure == "latency":

            def measure(path: Path) -> float:
                return _latency_ms(path, chosen.target, wanted, chosen)

        done = prune_structured(Path(model), Path(out), place, chosen, data, measure)
    return _as_json(done)


def _as_json(done: Pruned) -> dict[str, Any]:
    value: dict[str, Any] = encode(done)
    return value


def _latency_ms(path: Path, target: str, signature: Signature, options: PruningOptions) -> float:
    """The median time of one call of a graph on a target, in float32, of the faster half of its turns."""
    import numpy as np

    from edgekit.backends import lower_file
    from edgekit.devices.local import Worker
    from edgekit.graph.canonical import finish
    from edgekit.graph.generate import generate_inputs

    profile = load_target(target)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        folded, folder = Path(scratch) / "model.onnx", Path(scratch) / "artifact"
        finish(source=str(path), out=str(folded), simplified=False)
        folder.mkdir()
        lower_file(
            model=str(folded), target=encode(profile), precision="float32", out=str(folder),
            source_digest="", about={}, quantized_io=False,
        )  # fmt: skip
        inputs = dict(generate_inputs(folded, 0))
        if options.recovery is not None:
            samples = open_samples(options.recovery.data[0], signature)
            inputs = dict(next(iter(samples.calls())).inputs)
        with Worker(engine=profile.engine, label=f"time on {target}") as worker:
            worker.load(folder, threads=1, layout="source")
            turns = [np.median(worker.time(inputs, runs=20, warmup=5)) / 1e6 for _ in range(_TIMED)]
    return float(np.median(sorted(turns)[: _TIMED // 2]))
