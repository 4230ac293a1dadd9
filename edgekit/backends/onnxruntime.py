"""Lowering for ONNX Runtime: the ONNX file it fuses best, checked by loading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.backends.dynamic import opened
from edgekit.backends.onnx_dynamic import dynamic_products
from edgekit.backends.onnx_graph import (
    IOScale,
    float16_weights,
    integer_io,
    nothing_stored,
    refused_dtypes,
    stored_notes,
    tensor_ios,
)
from edgekit.backends.onnx_kept import keep_float, quantized_again
from edgekit.backends.onnx_moves import fewer_moves
from edgekit.backends.onnx_rules import Rule, broken_rules
from edgekit.backends.onnx_saturation import saturation_notes
from edgekit.backends.request import Request
from edgekit.core.artifact import Artifact
from edgekit.core.dynamic import dynamic_of
from edgekit.core.packages import installed_version, require
from edgekit.core.target import CALIBRATED, STORED, Precision, Target
from edgekit.errors import Reason, Unsupported

__all__ = ["RULES", "lower", "why_not"]

SEEN_IN = "ONNX Runtime 1.31.1"

# What it loads and then cannot run, or answers wrongly.
RULES: tuple[Rule, ...] = (
    Rule(
        op="ConvInteger",
        applies=lambda s: s.has(3),
        seen="ConvInteger fails when it runs with a weight zero point for each channel",
        hint="use one zero point for the whole weight",
    ),
    Rule(
        op="MaxUnpool",
        applies=lambda s: s.has(2),
        seen="MaxUnpool with output_shape puts the values in other places than ONNX",
        hint="leave output_shape out",
    ),
)


def why_not(model: Path, target: Target, precision: Precision) -> list[Reason]:
    """Why ONNX Runtime cannot run this graph as ONNX means it; empty means go.

    The constructs it is known to answer wrongly, and its own word: the CPU provider is asked, which has a
    kernel for every standard operator that any provider has.
    """
    onnx = require("onnx", needed_for=f"target {target.name}")
    onnxruntime = require("onnxruntime", needed_for=f"target {target.name}")
    return _known_faults(onnx.load(str(model))) or _refused_by(onnxruntime, model.read_bytes())


def _known_faults(graph: Any) -> list[Reason]:
    return refused_dtypes(graph) + broken_rules(graph.graph, RULES, engine=SEEN_IN)


def _refused_by(onnxruntime: Any, graph: bytes) -> list[Reason]:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    state = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    except (state.NotImplemented, state.InvalidGraph, state.Fail, state.InvalidArgument) as err:
        return [Reason(why=f"ONNX Runtime {onnxruntime.__version__} does not load it: {err}")]
    return []


def lower(request: Request) -> Artifact:
    """Write `out/model.onnx` and its manifest. Raises `Unsupported` with ONNX Runtime's reason."""
    target, precision = request.target, request.precision
    onnx = require("onnx", needed_for=f"target {target.name}")
    onnxruntime = require("onnxruntime", needed_for=f"target {target.name}")
    graph = onnx.load(str(request.model))
    dynamic = dynamic_of(graph)
    if reasons := _known_faults(graph):
        raise Unsupported(f"{target.name} cannot run this model", reasons=reasons)
    notes: tuple[str, ...] = ()
    scales: dict[str, IOScale] = {}
    if precision == "float16" and target.float16 == "full":
        graph = _full_float16(graph)
    elif precision == "float16":
        graph, kept = float16_weights(graph)
        notes = tuple(f"{name} leaves the range of float16 and stays float32" for name in kept)
    elif precision == "int8" and request.quantized_io:
        graph, scales = integer_io(graph)
    elif precision in STORED:
        graph, notes = _stored(graph, target, precision)
    if dynamic is None:
        fewer_moves(graph)
    if precision in CALIBRATED:
        keep_float(graph)
        if left := quantized_again(graph):
            names = ", ".join(left)
            notes += (f"ONNX Runtime quantizes the float weights of {names} by itself: one scale in all",)
    if target.int8 is not None and target.int8.multiply_add == "saturating":
        notes += saturation_notes(graph) if precision not in STORED else ()
    graph = opened(graph)
    payload = graph.SerializeToString(deterministic=True)
    if target.requires != "cuda" and (reasons := _refused_by(onnxruntime, payload)):
        raise Unsupported(f"{target.name} cannot run this model", reasons=reasons)
    (request.out / "model.onnx").write_bytes(payload)
    inputs, outputs = tensor_ios(graph, scales)
    return request.answer(
        "model.onnx",
        inputs=inputs,
        outputs=outputs,
        dynamic=dynamic,
        versions={"onnx": installed_version("onnx"), "onnxruntime": onnxruntime.__version__},
        options=target.weight_options if precision in STORED else None,
        notes=notes,
    )


def _stored(graph: Any, target: Target, precision: Precision) -> tuple[Any, tuple[str, ...]]:
    """A graph of coded weights and its notes; for dynamic-int8 its matrix products become integer ones."""
    reasons = nothing_stored(graph, precision)
    notes = stored_notes(graph)
    if not reasons and precision == "dynamic-int8":
        graph, count = dynamic_products(graph)
        if not count:
            why = "no matrix product that could quantize its activations at run time"
            reasons = [Reason(why=why, hint="use int8, which quantizes convolutions, or weight-int8")]
        notes = (
            f"{count} matrix products quantize their activations at run time; the rest is float32",
            "one scale holds for a whole tensor: in a batch, answers depend a little on the other samples",
        )
    if reasons:
        raise Unsupported(f"{target.name} has no use for {precision} here", reasons=reasons)
    return graph, notes


def _full_float16(graph: Any) -> Any:
    """The whole graph in half precision; inputs and outputs stay float32 behind a Cast."""
    float16 = require("onnxruntime.transformers.float16", needed_for="float16 on CUDA")
    return float16.convert_float_to_float16(graph, keep_io_types=True, disable_shape_infer=False)
