"""The network's own judgement of samples: do they look like those its BatchNorm layers were trained on?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import decode
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.recipe import DataSource
from edgekit.core.samples import Samples, open_samples
from edgekit.core.samples.images import ImageRows
from edgekit.core.samples.preprocessing import (
    Fit,
    Moments,
    Preparation,
    fit,
    is_picture,
    prepared_by,
    suspicion,
)

__all__ = ["check_samples", "judge_samples"]

_MOST_SAMPLES = 32
_FEWEST_SAMPLES = 8
_MOST_BYTES = 64 << 20  # of samples held at once

Arrays = dict[str, NDArray[Any]]


def check_samples(statistics: str, data: dict[str, Any], signature: dict[str, Any]) -> dict[str, Any]:
    """The step: let the graph that `write_statistics` wrote judge up to 32 of the samples that `data` names.

    Returns {"samples": how many were looked at, "suspicion": what looks wrong and what would fit, or "",
    "variance", "distance": see `Fit`}.
    """
    source, known = decode(DataSource, data, where="data"), decode(Signature, signature, where="model")
    return judge_samples(statistics, open_samples(source, known))


def judge_samples(statistics: str, samples: Samples) -> dict[str, Any]:
    """As `check_samples`, on samples that are open."""
    session = _session(statistics)
    names = [value.name for value in session.get_inputs()]
    calls = [{name: call.inputs[name] for name in names} for call in _some(samples).calls()]
    shapes = {spec.name: spec.shape for spec in samples.specs}
    pictures = [n for n in names if is_picture(shapes[n]) and calls[0][n].dtype.kind == "f"]
    picture = pictures[0] if pictures else ""
    axis = (is_picture(shapes[picture]) or 0) if picture else 0

    def fits(given: Preparation | None = None, way: Preparation | None = None) -> Fit:
        if given is None or way is None:
            return fit(_moments(session, calls))
        changed = [{**call, picture: given.convert(call[picture], way, axis)} for call in calls]
        return fit(_moments(session, changed))

    values = np.concatenate([call[picture] for call in calls]) if picture else None
    rows = samples.rows[picture] if picture else None
    known = prepared_by(rows.options) if isinstance(rows, ImageRows) and rows.options.scale else None
    found, text = suspicion(fits, values, axis, known)
    return {
        "samples": found.samples,
        "suspicion": text,
        "variance": found.variance,
        "distance": found.distance,
    }


def _some(samples: Samples) -> Samples:
    """Up to 32 of the samples, evenly spread over all, and no more than fit the memory set aside."""
    size = sum(
        int(np.prod(samples.rows[s.name].shape[1:], dtype=np.int64)) * np.dtype(s.dtype).itemsize
        for s in samples.specs
    )
    count = min(samples.count, _MOST_SAMPLES, max(_FEWEST_SAMPLES, _MOST_BYTES // max(1, size)))
    count = max(samples.model_batch, count - count % samples.model_batch)
    places = np.linspace(0, samples.count - 1, count).round().astype(np.int64)
    return replace(samples, order=samples.order[places])


def _moments(session: Any, calls: Sequence[Mapping[str, NDArray[Any]]]) -> list[Moments]:
    names = [value.name for value in session.get_outputs()]
    rows = [session.run(names, dict(call)) for call in calls]
    whole = [np.concatenate(parts).astype(np.float64) for parts in zip(*rows, strict=True)]
    return [Moments(first=whole[i], second=whole[i + 1]) for i in range(0, len(whole), 2)]


def _session(path: str) -> Any:
    ort = require("onnxruntime", needed_for="checking the samples")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 2
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
