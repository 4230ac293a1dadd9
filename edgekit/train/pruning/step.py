"""The step: a canonical ONNX file in, the pruned one out."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from edgekit.core.codec import decode, encode
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.pruning import PruningOptions
from edgekit.train.data import training_data
from edgekit.train.pruning.latency import LatencyMeter
from edgekit.train.pruning.sparsity import prune_sparse
from edgekit.train.pruning.structured import Pruned, prune_structured

__all__ = ["prune_file"]


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
        samples = chosen.recovery.data[0] if chosen.recovery is not None else None
        with ExitStack() as closing:
            measure = None
            if chosen.measure == "latency":
                measure = closing.enter_context(LatencyMeter(chosen.target, wanted, samples))
            done = prune_structured(Path(model), Path(out), place, chosen, data, measure)
    return _as_json(done)


def _as_json(done: Pruned) -> dict[str, Any]:
    value: dict[str, Any] = encode(done)
    return value

