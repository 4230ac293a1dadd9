"""Tuning: the algorithms that look at samples through the quantized network, in the order that pays.

First the ranges of activations, then the codes of weights, then the biases, which take up what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edgekit.core.codec import decode
from edgekit.core.files import atomic_file
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.recipe import CalibrationOptions, QuantizationOptions
from edgekit.core.target import Int8Policy
from edgekit.quantize.algorithms.empirical_bias import correct_biases
from edgekit.quantize.algorithms.equalization import Equalized, equalize, smooth
from edgekit.quantize.calibrate import Calibration, read_calibration
from edgekit.quantize.held_out import Levels, is_lower, levels_of, teaching
from edgekit.quantize.qdq import code_weights, quantize
from edgekit.quantize.rounding import learn_rounding
from edgekit.quantize.weight_coding import CodedWeight
from edgekit.quantize.widths import quantize_widths

if TYPE_CHECKING:
    from edgekit.core.samples import Samples

__all__ = ["Tuning", "even_out", "even_out_file", "quantize_file", "tune"]

_POOR_DB = 15.0  # of the outputs' signal over noise: below, answers differ from those in float
_GLANCE = 4  # samples held out that tell whether answers are poor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What `quantize` takes: ranges that may have changed, and the weights of nodes by name (None: plain)."""

    calibration: Calibration
    coded: dict[str, CodedWeight] | None = field(default=None)


def quantize_file(
    *,
    model: str,
    calibration: str,
    policy: dict[str, Any],
    options: dict[str, Any],
    samples: dict[str, Any],
    signature: dict[str, Any],
    out: str,
    wide: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Step: write the QDQ graph of `model` to `out`; says how many tensors and weights were quantized.

    `wide` is the policy of nodes that keep int16x8, where the target has one.
    `samples` are the `CalibrationOptions` by which `calibration` was made; they are read again only where
    `options` ask for an algorithm that needs them.
    """
    from edgekit.core.samples import open_samples

    onnx = require("onnx", needed_for="quantization")
    chosen = decode(QuantizationOptions, options, where="quantization")
    source = decode(CalibrationOptions, samples, where="calibration")
    rules = decode(Int8Policy, policy, where="policy")
    graph = onnx.load(model)
    tuned = Tuning(calibration=read_calibration(Path(calibration)))
    if chosen.looks_at_samples(tuned.calibration.samples):
        opened = open_samples(source.data, decode(Signature, signature, where="signature"))
        tuned = tune(graph, _Again(opened), calibration=tuned.calibration, policy=rules, options=chosen)
    result, placement = quantize_widths(
        graph,
        calibration=tuned.calibration,
        policy=rules,
        wide=decode(Int8Policy, wide, where="wide") if wide else None,
        options=chosen,
        coded=tuned.coded,
    )
    with atomic_file(Path(out)) as temporary:
        temporary.write_bytes(result.SerializeToString(deterministic=True))
    return {"tensors": len(placement.tensors), "weights": len(placement.weighted)}


def even_out_file(*, model: str, calibration: str, options: dict[str, Any], out: str) -> dict[str, Any]:
    """Step: write `model` with its channels evened out to `out`; says which activations were scaled."""
    onnx = require("onnx", needed_for="quantization")
    chosen = decode(QuantizationOptions, options, where="quantization")
    even = even_out(onnx.load(model), read_calibration(Path(calibration)), chosen)
    with atomic_file(Path(out)) as temporary:
        temporary.write_bytes(even.model.SerializeToString(deterministic=True))
    return {"tensors": list(even.tensors)}


def even_out(model: Any, calibration: Calibration, options: QuantizationOptions) -> Equalized:
    """A ModelProto of the same function, equalized and smoothed as `options` say; calibrate it again."""
    even = Equalized(model=model, tensors=())
    if options.equalize:
        even = equalize(model, calibration.channels)
    if options.smooth:
        smoothed = smooth(even.model, calibration.channels, largest_share=options.smooth)
        even = Equalized(model=smoothed.model, tensors=(*even.tensors, *smoothed.tensors))
    return even


class _Again:
    """The calls of samples, from the start each time they are iterated."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        return (batch.inputs for batch in self._samples.calls())


def tune(
    model: Any,
    batches: Iterable[Mapping[str, NDArray[Any]]],
    *,
    calibration: Calibration,
    policy: Int8Policy,
    options: QuantizationOptions,
) -> Tuning:
    """Run what `options` ask for on a float ModelProto; the same inputs give the same answer.

    `batches` yields input name -> array for one call and can be iterated again; the first 128 are used at
    most. Raises `UsageError` when there are none.
    """
    coded = None
    if options.learns_rounding(calibration.samples):
        coded = learn_rounding(model, batches, calibration=calibration, policy=policy, options=options)
    tries = options.may_correct_by_answers(calibration.samples)
    if not tries and options.bias_correction != "empirical":
        return Tuning(calibration=calibration, coded=coded)
    plain = coded or code_weights(model, calibration=calibration, policy=policy, options=options)

    def graph_of(codes: dict[str, CodedWeight]) -> Any:
        return quantize(model, calibration=calibration, policy=policy, options=options, coded=codes)[0]

    if tries and not _is_poor(levels_of(model, [graph_of(plain)], batches, most=_GLANCE)):
        return Tuning(calibration=calibration, coded=coded)
    seen = teaching(batches) if tries else batches
    corrected = correct_biases(model, seen, plain, calibration=calibration, policy=policy, options=options)
    if tries and not is_lower(levels_of(model, [graph_of(plain), graph_of(corrected)], batches).noise):
        return Tuning(calibration=calibration, coded=coded)
    return Tuning(calibration=calibration, coded=corrected)


def _is_poor(levels: Levels) -> bool:
    """Whether the one graph of `levels` answers so that its mistakes show."""
    found = levels.signal - levels.noise[0]
    return bool(found.size and found.mean() < _POOR_DB)
