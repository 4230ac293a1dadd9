"""Lowering for OpenVINO: an IR (model.xml, model.bin) whose quantizers become integer kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekit.backends.dynamic import opened
from edgekit.backends.onnx_graph import (
    IOScale,
    integer_io,
    nothing_stored,
    refused_dtypes,
    stored_notes,
    tensor_ios,
)
from edgekit.backends.onnx_kept import keep_averages
from edgekit.backends.onnx_rules import broken_rules
from edgekit.backends.onnx_saturation import saturation_notes
from edgekit.backends.openvino_rules import RULES, SEEN_IN, changed_ports, precision_notes
from edgekit.backends.request import Request
from edgekit.core.artifact import Artifact
from edgekit.core.dynamic import dynamic_of
from edgekit.core.packages import installed_version, require
from edgekit.core.target import STORED, Precision, Target
from edgekit.errors import Reason, Unsupported

__all__ = ["lower", "why_not"]


def why_not(model: Path, target: Target, precision: Precision) -> list[Reason]:
    """Why OpenVINO cannot run this graph as ONNX means it; empty means go.

    The constructs it is known to compute wrongly, its own word on reading and compiling, and the ports of
    what it compiled.
    """
    onnx = require("onnx", needed_for=f"target {target.name}")
    return _refused(onnx.load(str(model)), model, target)


def _refused(graph: Any, path: Path, target: Target) -> list[Reason]:
    openvino = require("openvino", needed_for=f"target {target.name}")
    if reasons := refused_dtypes(graph) + broken_rules(graph.graph, RULES, engine=SEEN_IN):
        return reasons
    try:
        compiled = _compile(openvino, _read(openvino, path))
    except RuntimeError as err:  # every OpenVINO exception is one
        return [Reason(why=_first_lines(err))]
    inputs, outputs = tensor_ios(graph)
    engine = f"OpenVINO {installed_version('openvino')}"
    return changed_ports(compiled, inputs, outputs, engine=engine)


def lower(request: Request) -> Artifact:
    """Write `out/model.xml`, `out/model.bin` and the manifest; raises `Unsupported` with the reason."""
    target, precision = request.target, request.precision
    onnx = require("onnx", needed_for=f"target {target.name}")
    openvino = require("openvino", needed_for=f"target {target.name}")
    graph = onnx.load(str(request.model))
    dynamic = dynamic_of(graph)
    scales: dict[str, IOScale] = {}
    if precision == "int8" and request.quantized_io:
        graph, scales = integer_io(graph)
    if precision in STORED and (missing := nothing_stored(graph, precision)):
        raise Unsupported(f"{target.name} has no use for {precision} here", reasons=missing)
    if precision == "int8":
        keep_averages(graph)
    caps = target.int8 is not None and target.int8.multiply_add == "saturating"
    saturating = saturation_notes(graph) if caps else ()
    graph = opened(graph)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(graph.SerializeToString(deterministic=True))
        if reasons := _refused(graph, source, target):
            raise Unsupported(f"{target.name} cannot run this model", reasons=reasons)
        network = _read(openvino, source)
        openvino.save_model(network, str(request.out / "model.xml"), compress_to_fp16=precision == "float16")
    inputs, outputs = tensor_ios(graph, scales)
    return request.answer(
        "model.xml",
        inputs=inputs,
        outputs=outputs,
        dynamic=dynamic,
        options=target.weight_options if precision in STORED else None,
        notes=(*(stored_notes(graph) if precision in STORED else saturating), *precision_notes(graph)),
        versions={"onnx": installed_version("onnx"), "openvino": installed_version("openvino")},
    )


def _read(openvino: Any, path: Path) -> Any:
    """The network, its TopK made stable: ONNX wants the lowest index of equal values, OpenVINO any."""
    network = openvino.Core().read_model(str(path))
    for op in network.get_ops():
        if op.get_type_name() == "TopK":
            op.set_attribute("sort", "value")
            op.set_attribute("stable", True)
    return network


def _compile(openvino: Any, network: Any) -> Any:
    return openvino.Core().compile_model(network, "CPU")


def _first_lines(err: RuntimeError) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return "OpenVINO does not take it: " + " ".join(lines[-3:])
