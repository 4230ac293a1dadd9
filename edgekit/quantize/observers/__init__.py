"""How ranges are observed, one statistic a file, and chosen, one method a file."""

from edgekit.quantize.observers.codes import Codes
from edgekit.quantize.observers.histogram import Distribution, FloatHistogram
from edgekit.quantize.observers.methods import Method, Range
from edgekit.quantize.observers.observation import Observation
from edgekit.quantize.observers.reductions import CALL, add_reductions, add_values

__all__ = [
    "CALL", "Codes", "Distribution", "FloatHistogram", "Method", "Observation", "Range", "add_reductions",
    "add_values",
]  # fmt: skip
