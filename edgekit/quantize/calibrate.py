"""The calibration pass: every sample once through the float graph, in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.core.codec import decode, encode
from edgekit.core.files import write_json
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.progress import report_progress
from edgekit.core.recipe import CalibrationOptions
from edgekit.core.target import Int8Policy
from edgekit.errors import InternalError, UsageError
from edgekit.quantize.graph_index import GraphIndex, index_graph
from edgekit.quantize.observers import FloatHistogram, RunningMean, RunningRange, add_reductions
from edgekit.quantize.placement import place

__all__ = ["Calibration", "calibrate", "calibrate_file", "read_calibration"]

Batches = Iterable[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one pass found over `samples` samples.

    `ranges`: tensor -> (low, high) by the method. For the data input of every node with constant weights
    (channels on axis 1 for convolutions, on the last axis for matrix products): `means`, tensor -> mean of
    each channel; `channels`, tensor -> (lowest, highest value seen of each channel).
    """

    ranges: dict[str, tuple[float, float]]
    means: dict[str, tuple[float, ...]]
    samples: int
    method: str
    channels: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)


def calibrate_file(
    *, model: str, policies: list[Any], options: dict[str, Any], signature: dict[str, Any], out: str
) -> dict[str, Any]:
    """Step: calibrate the ONNX file `model` for all `policies`, write a `Calibration` as JSON to `out`."""
    from edgekit.core.samples import open_samples

    chosen = decode(CalibrationOptions, options, where="calibration")
    samples = open_samples(chosen.data, decode(Signature, signature, where="signature"))
    onnx = require("onnx", needed_for="calibration")
    found = calibrate(
        onnx.load(model),
        (batch.inputs for batch in samples.calls()),
        policies=[decode(Int8Policy, p, where="policy") for p in policies],
        method=chosen.method,
        percentile=chosen.percentile,
        total=samples.count,
        batch=samples.model_batch,
    )
    write_json(Path(out), encode(found))
    return {"samples": found.samples, "digest": samples.digest}


def read_calibration(path: Path) -> Calibration:
    """Read what `calibrate_file` wrote."""
    return decode(Calibration, json.loads(path.read_text(encoding="utf-8")), where=str(path))


def calibrate(
    model: Any,
    batches: Batches,
    *,
    policies: list[Int8Policy],
    method: str = "minmax",
    percentile: float = 99.99,
    total: int = 0,
    batch: int = 1,
    threads: int = 0,
) -> Calibration:
    """Observe every tensor that any of `policies` quantizes, over `batches` of `batch` samples each.

    `batches` yields input name -> array with the shape of the model's input. Memory does not grow with their
    number. Raises `UsageError` for no samples or an activation that is not finite.
    """
    onnxruntime = require("onnxruntime", needed_for="calibration")
    index = index_graph(model)
    if any(o and o not in index.shapes for node in model.graph.node for o in node.output):
        raise InternalError("the graph carries no shapes: run onnx.shape_inference.infer_shapes first")
    tensors, averaged = _what_to_observe(index, policies)
    observed = add_reductions(model, tensors, averaged)
    if method == "percentile":
        _add_outputs(observed, tensors, index)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        observed.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    observation = _Observation(tensors, tuple(averaged), method, batch)
    names = [name for name in observation.tensor_names() if name not in index.inputs]
    with ThreadPoolExecutor(max_workers=1) as counter:
        pending = None
        for call, inputs in enumerate(batches):
            fetched = session.run(names, dict(inputs)) if names else []  # [] would fetch every output
            values = {**inputs, **dict(zip(names, fetched, strict=True))}
            if pending is not None:
                pending.result()
            pending = counter.submit(observation.update, values, call)
            report_progress((call + 1) * batch, total)
        if pending is None:
            raise UsageError("no calibration samples", hint="give at least one; 100 or more are better")
        pending.result()
    return observation.result(percentile)


def _what_to_observe(index: GraphIndex, policies: list[Int8Policy]) -> tuple[list[str], dict[str, int]]:
    tensors: dict[str, None] = {}
    averaged: dict[str, int] = {}
    for policy in policies:
        placement = place(index, policy)
        tensors.update(dict.fromkeys(placement.tensors))
        for node in placement.weighted:
            rank = len(index.shapes[node.data])
            averaged[node.data] = 1 if node.op_type in ("Conv", "ConvTranspose") else rank - 1
    return list(tensors), averaged


def _add_outputs(model: Any, tensors: list[str], index: GraphIndex) -> None:
    from onnx import TensorProto, helper

    have = {o.name for o in model.graph.output} | set(index.inputs)
    for name in tensors:
        if name not in have:
            model.graph.output.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, index.shapes[name])
            )


class _Observation:
    """The running statistics of every observed tensor."""

    def __init__(self, tensors: list[str], averaged: tuple[str, ...], method: str, batch: int) -> None:
        self.tensors = tensors
        self.averaged = averaged
        self.ranges = {t: RunningRange() for t in dict.fromkeys([*tensors, *averaged])}
        self.means = {t: RunningMean() for t in averaged}
        self.method = method
        self.batch = batch
        self.histograms = {t: FloatHistogram() for t in tensors} if method == "percentile" else {}
        self.samples = 0

    def tensor_names(self) -> list[str]:
        """The tensors whose values `update` needs."""
        names = [f"{t}/{kind}" for t in self.ranges for kind in ("min", "max")]
        names += [f"{t}/mean" for t in self.averaged]
        return names + list(self.histograms)

    def update(self, values: Mapping[str, NDArray[Any]], call: int) -> None:
        """Take in the outputs of one call of the model."""
        for name, running in self.ranges.items():
            low, high = values[f"{name}/min"], values[f"{name}/max"]
            running.update(low, high, tensor=name, sample=call * self.batch)
        for name, mean in self.means.items():
            mean.update(values[f"{name}/mean"], self.batch)
        for name, histogram in self.histograms.items():
            histogram.update(values[name])
        self.samples += self.batch

    def result(self, percentile: float) -> Calibration:
        """The ranges by the method, clipped to what was seen, and the means."""
        ranges = {name: self.ranges[name].whole() for name in self.tensors}
        for name, histogram in self.histograms.items():
            low, high = histogram.percentile_range(percentile)
            seen_low, seen_high = ranges[name]
            ranges[name] = (max(low, seen_low), min(high, seen_high))
        means = {name: tuple(m.value().tolist()) for name, m in self.means.items()}
        channels = {name: self.ranges[name].channels() for name in self.averaged}
        return Calibration(
            ranges=ranges, means=means, samples=self.samples, method=self.method, channels=channels
        )
