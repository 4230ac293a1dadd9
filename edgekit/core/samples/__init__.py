"""Samples: named arrays, streamed in batches, for calibration and for evaluation."""

from edgekit.core.samples.source import LABEL_NAMES, open_samples, samples_from_arrays, samples_from_iterable
from edgekit.core.samples.spec import (
    ArrayOptions,
    AudioOptions,
    ImageOptions,
    LabelOptions,
    SampleSpec,
    TableOptions,
    load_spec,
)
from edgekit.core.samples.stream import Batch, Samples

__all__ = [
    "LABEL_NAMES",
    "ArrayOptions",
    "AudioOptions",
    "Batch",
    "ImageOptions",
    "LabelOptions",
    "SampleSpec",
    "Samples",
    "TableOptions",
    "load_spec",
    "open_samples",
    "samples_from_arrays",
    "samples_from_iterable",
]
