"""The calibration pass: every sample once through the float graph, in bounded memory."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import decode, encode
from edgekit.core.files import atomic_file, write_json
from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.progress import report_progress
from edgekit.core.recipe import CalibrationOptions
from edgekit.core.target import Int8Policy
from edgekit.errors import InternalError, UsageError
from edgekit.quantize.algorithms.equalization import even_spectra
from edgekit.quantize.cut_graph import Cut
from edgekit.quantize.graph_index import GraphIndex, index_graph
from edgekit.quantize.observers import (
    CALL,
    Codes,
    Method,
    Observation,
    Range,
    add_reductions,
    add_values,
)
from edgekit.quantize.observers.session import observing_session, share_cores
from edgekit.quantize.placement import place
from edgekit.quantize.spectra import magnitudes
from edgekit.quantize.widen_halves import widen_halves

if TYPE_CHECKING:
    from edgekit.core.samples import Samples

REWRITTEN = "float32.onnx"  # the file beside a calibration

__all__ = ["REWRITTEN", "Calibration", "CalibrationRun", "calibrate", "calibrate_file", "read_calibration"]

Batches = Iterable[Mapping[str, NDArray[Any]]]
_Found = tuple[list[NDArray[Any]], dict[str, NDArray[Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one pass found over `samples` samples.

    `ranges`: tensor -> (low, high) by the method; `coded`: the same for kinds of codes whose ranges differ
    (8 bits or 16, symmetric or not: `for_policy` picks). `extremes`: the smallest and the largest value seen.
    For the data input of every node with constant weights (channels on axis 1 for convolutions, on the last
    axis for matrix products): `means`, tensor -> mean of each channel; `channels`, tensor -> (lowest, highest
    value seen of each channel), the lowest as 0 behind an operator that gives nothing negative.
    """

    ranges: dict[str, Range]
    means: dict[str, tuple[float, ...]]
    samples: int
    method: str
    channels: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = field(default_factory=dict)
    extremes: dict[str, Range] = field(default_factory=dict)
    coded: dict[str, dict[str, Range]] = field(default_factory=dict)

    def for_policy(self, policy: Int8Policy) -> Calibration:
        """The same with `ranges` for the codes of `policy`, and no others."""
        return replace(self, ranges=self.coded.get(_codes(policy).kind, self.ranges), coded={})


def calibrate_file(
    *,
    model: str,
    policies: list[Any],
    options: dict[str, Any],
    signature: dict[str, Any],
    out: str,
    leave_float: bool = True,
    state: str = "",
    keep_every_s: float = 10.0,
) -> dict[str, Any]:
    """Step: calibrate the ONNX file `model` for all `policies`, write a `Calibration` as JSON to `out`.

    A model that computes in float16 is calibrated as the graph that computes in float32, one with a spectrum
    with its frequencies evened out; that graph is written beside `out` as `REWRITTEN`. `leave_float` is that
    of the `QuantizationOptions` of the graphs that are to be quantized. With `state`, what was seen is kept
    in that file every `keep_every_s` seconds, and a run that finds it goes on from there to the same bytes.
    The caller names it by everything that decides the result.
    """
    from edgekit.core.samples import open_samples

    chosen = decode(CalibrationOptions, options, where="calibration")
    samples = open_samples(chosen.data, decode(Signature, signature, where="signature"))
    onnx = require("onnx", needed_for="calibration")
    proto = onnx.load(model)
    rules = [decode(Int8Policy, p, where="policy") for p in policies]
    rewritten = widen_halves(proto)
    if rewritten:
        proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    if leave_float and any(rule.even_spectra for rule in rules):
        rewritten = bool(_evened(proto, samples)) or rewritten
    if rewritten:
        with atomic_file(Path(out).with_name(REWRITTEN)) as temporary:
            temporary.write_bytes(proto.SerializeToString(deterministic=True))
    run = CalibrationRun(
        proto,
        policies=rules,
        method=Method(name=chosen.method, percentile=chosen.percentile),
        batch=samples.model_batch,
        leave_float=leave_float,
    )
    kept = Path(state) if state else None
    if kept and run.observation.restore(kept):
        samples = replace(samples, order=samples.order[run.observation.samples :])
    left = (batch.inputs for batch in samples.calls()) if samples.count else iter(())
    run.feed(left, total=run.observation.samples + samples.count, keep=kept, keep_every_s=keep_every_s)
    found = run.result()
    write_json(Path(out), encode(found))
    if kept:
        kept.unlink(missing_ok=True)
    return {"samples": found.samples}


def _evened(model: Any, samples: Samples) -> list[str]:
    """Even out the magnitudes of spectra in a ModelProto, in place; says which."""
    index = index_graph(model)
    found = magnitudes(index)
    if not found or not samples.count:
        return []
    part, seen = Cut(model, found), dict[str, tuple[NDArray[Any], NDArray[Any]]]()
    for call, batch in enumerate(samples.calls(), start=1):
        for name, values in part.run(batch.inputs).items():
            axis = _channel_axis(index.readers[name][0], values.ndim)
            rest = tuple(a for a in range(values.ndim) if a != axis)
            highest, power = values.max(axis=rest), np.square(values, dtype=np.float64).mean(axis=rest)
            most, mean = seen.get(name, (highest, power))
            seen[name] = np.maximum(highest, most), mean + (power - mean) / call
    sound = {t: both for t, both in seen.items() if all(np.isfinite(v).all() for v in both)}
    return even_spectra(model, sound)


def read_calibration(path: Path) -> Calibration:
    """Read what `calibrate_file` wrote."""
    return decode(Calibration, json.loads(path.read_text(encoding="utf-8")), where=str(path))


def calibrate(
    model: Any,
    batches: Batches,
    *,
    policies: list[Int8Policy],
    method: Method | None = None,
    total: int = 0,
    batch: int = 1,
    threads: int = 0,
    leave_float: bool = True,
) -> Calibration:
    """Observe every tensor that any of `policies` quantizes, over `batches` of `batch` samples each.

    `batches` yields input name -> array with the shape of the model's input. Memory does not grow with their
    number. `method` is min-max when left out, `threads` as many as there are cores. Raises `UsageError` for
    no samples, an array of another shape or an activation that is not finite.
    """
    run = CalibrationRun(
        model,
        policies=policies,
        method=method or Method(name="minmax"),
        batch=batch,
        threads=threads,
        leave_float=leave_float,
    )
    run.feed(batches, total=total)
    return run.result()


class CalibrationRun:
    """One pass: the observed graph in a session, and the observation so far."""

    def __init__(
        self,
        model: Any,
        *,
        policies: list[Int8Policy],
        method: Method,
        batch: int = 1,
        threads: int = 0,
        leave_float: bool = True,
    ) -> None:
        index = index_graph(model)
        if any(o and o not in index.shapes for node in model.graph.node for o in node.output):
            raise InternalError("the graph carries no shapes: run onnx.shape_inference.infer_shapes first")
        tensors, weighted = _what_to_observe(index, policies, leave_float)
        reduced = add_reductions(index, list(dict.fromkeys([*tensors, *weighted])), weighted)
        self.values = add_values(reduced, index, tensors) if method.counts_values else {}
        self.weighted = list(weighted)
        self.observation = Observation(tensors, reduced.layout, method, batch)
        self.codes = {codes.kind: codes for codes in map(_codes, policies)}
        self.shapes = {name: index.shapes[name] for name in index.inputs}
        made = {o.name for o in reduced.model.graph.output}
        self.reduced = reduced.outputs
        self.names = [n for n in dict.fromkeys([*self.reduced, *self.values.values()]) if n in made]
        self.counts_calls = len(reduced.model.graph.input) > len(model.graph.input)
        self.workers, threads = share_cores(index, threads)
        self.session = observing_session(reduced.model, index.shapes, threads=threads)

    def feed(
        self, batches: Batches, *, total: int = 0, keep: Path | None = None, keep_every_s: float = 10.0
    ) -> None:
        """Take in `batches`: the next is read, and the last counted in their order, while the engine runs."""
        seen, saved = self.observation, time.perf_counter()
        start = seen.calls

        def take(found: _Found) -> None:
            nonlocal saved
            seen.update(*found)
            report_progress(seen.samples, total)
            if keep and seen.calls > start + 1 and time.perf_counter() - saved >= keep_every_s:
                seen.save(keep)
                saved = time.perf_counter()

        with ThreadPoolExecutor(max_workers=self.workers) as engine:
            running: deque[Future[_Found]] = deque()
            for call, inputs in enumerate(_ahead(batches), start=start):
                self._check(inputs, call)
                running.append(engine.submit(self._run, inputs, call))
                if len(running) > self.workers:
                    take(running.popleft().result())
            while running:
                take(running.popleft().result())

    def _run(self, inputs: Mapping[str, NDArray[Any]], call: int) -> _Found:
        """Minima, maxima and means of one call, and values by tensor."""
        fed = dict(inputs)
        if self.counts_calls:
            fed[CALL] = np.array([call], np.int64)
        found = self.session.run(self.names, fed) if self.names else []  # [] would fetch every output
        by_name = {**inputs, **dict(zip(self.names, found, strict=True))}
        none = np.zeros(0, np.float32)
        return [by_name.get(n, none) for n in self.reduced], {t: by_name[n] for t, n in self.values.items()}

    def _check(self, inputs: Mapping[str, NDArray[Any]], call: int) -> None:
        for name, shape in self.shapes.items():
            got = inputs[name].shape
            if len(got) != len(shape) or any(d and d != g for d, g in zip(shape, got, strict=True)):
                raise UsageError(
                    f"calibration sample {call * self.observation.batch} of {name!r} has shape {list(got)}, "
                    f"the graph takes {list(shape)}",
                    hint="bring the samples to one size, or fix another with --shape",
                )

    def result(self) -> Calibration:
        """What the samples so far give. Raises `UsageError` when there were none."""
        seen = self.observation
        if not seen.calls:
            raise UsageError("no calibration samples", hint="give at least one; 100 or more are better")
        wanted = self.codes if seen.method.by_codes else dict(list(self.codes.items())[:1])
        chosen = seen.chosen(list(wanted.values()), threads=self.workers)
        found = dict(zip(wanted, chosen, strict=True))
        return Calibration(
            ranges=next(iter(found.values()), {}),
            means={name: seen.running.means(name) for name in self.weighted},
            samples=seen.samples,
            method=seen.method.name,
            channels={name: seen.running.channels(name) for name in self.weighted},
            extremes=seen.extremes(),
            coded=found if len(found) > 1 else {},
        )


def _ahead(batches: Batches) -> Iterator[Mapping[str, NDArray[Any]]]:
    """The same batches; the next one is made while the caller works on this one."""
    source = iter(batches)
    with ThreadPoolExecutor(max_workers=1) as reader:
        pending = reader.submit(next, source, None)
        while (batch := pending.result()) is not None:
            pending = reader.submit(next, source, None)
            yield batch


def _channel_axis(node: Any, rank: int) -> int:
    """The axis, from the front, of the channels that a layer reads."""
    return 1 if node.op_type in ("Conv", "ConvTranspose") else rank - 1


def _codes(policy: Int8Policy) -> Codes:
    return Codes(dtype=policy.activation, symmetric=policy.activation_symmetric)


def _what_to_observe(
    index: GraphIndex, policies: list[Int8Policy], leave_float: bool
) -> tuple[list[str], dict[str, int]]:
    tensors: dict[str, None] = {}
    weighted: dict[str, int] = {}
    for policy in policies:
        placement = place(index, policy, leave_float=leave_float)
        tensors.update(dict.fromkeys(placement.tensors))
        for node in placement.weighted:
            weighted[node.data] = _channel_axis(node, len(index.shapes[node.data]))
    return list(tensors), weighted
