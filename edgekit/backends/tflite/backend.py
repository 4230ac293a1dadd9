"""`why_not` and `lower`: from the ONNX file to the artifact."""

from __future__ import annotations

from pathlib import Path

from edgekit.backends import refusal
from edgekit.backends.tflite.builder import Builder
from edgekit.backends.tflite.checks import check_graph
from edgekit.backends.tflite.cleanup import (
    drop_dead,
    half_weights,
    merge_reshapes,
    separate_ports,
    transpose_codes,
)
from edgekit.backends.tflite.ir import Graph, Port
from edgekit.backends.tflite.layout import move_transposes
from edgekit.backends.tflite.layout_ports import choose_port_layouts
from edgekit.backends.tflite.lowering import OPERATORS
from edgekit.backends.tflite.onnx_graph import read_graph
from edgekit.backends.tflite.writer import serialize
from edgekit.core.about import NOTHING, About
from edgekit.core.artifact import Artifact, write_artifact
from edgekit.core.files import atomic_file
from edgekit.core.packages import installed_version
from edgekit.core.target import Precision, Target
from edgekit.errors import Reason, Unsupported
from edgekit.runtime.manifest import TensorIO

__all__ = ["build_graph", "lower", "why_not"]

MODEL_NAME = "model.tflite"


def why_not(model: Path, target: Target, precision: Precision) -> list[Reason]:
    """Why this ONNX file cannot become a .tflite file of this precision; empty means go."""
    if reasons := refusal(target, precision):
        return reasons
    return build_graph(model, target=target, precision=precision)[1]


def lower(
    model: Path,
    *,
    target: Target,
    precision: Precision,
    out: Path,
    source_digest: str,
    quantized_io: bool = False,
    about: About = NOTHING,
) -> Artifact:
    """Write `out/model.tflite` and its manifest.

    `model` is an ONNX file of static shapes: the float graph for float32 and float16, for int8 the QDQ graph,
    whose scales and zero points are those of the file. With `quantized_io` inputs and outputs that have a
    quantizer are int8. The file and the manifest carry what `about` says. Raises `Unsupported` with every
    reason found.
    """
    reasons = refusal(target, precision)
    graph = Graph()
    if not reasons:
        graph, reasons = build_graph(model, target=target, precision=precision, quantized_io=quantized_io)
    if reasons:
        raise Unsupported(f"LiteRT cannot run this model in {precision}", reasons=reasons)
    notes = []
    if precision == "float16" and (left := half_weights(graph)):
        notes.append(f"kept in float32, beyond the range of float16: {', '.join(left)}")
    check_graph(graph)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / MODEL_NAME) as temporary:
        temporary.write_bytes(serialize(graph, about=about))
    return write_artifact(
        out,
        target=target,
        precision=precision,
        model=MODEL_NAME,
        inputs=tuple(_tensor_io(port) for port in graph.inputs),
        outputs=tuple(_tensor_io(port) for port in graph.outputs),
        source_digest=source_digest,
        about=about,
        versions={"ai-edge-litert": installed_version("ai-edge-litert")},
        notes=tuple(notes),
    )


def build_graph(
    model: Path, *, target: Target, precision: Precision, quantized_io: bool = False
) -> tuple[Graph, list[Reason]]:
    """The graph to write, in the target's layout, and the reasons why it is not complete."""
    source, reasons = read_graph(model, OPERATORS)
    if source is None:
        return Graph(), reasons
    if precision == "int8" and not any(node.op_type == "QuantizeLinear" for node in source.nodes):
        why = "int8 needs a QDQ graph, this one has no QuantizeLinear"
        return Graph(), [Reason(why=why, hint="quantize it first: edgekit convert --calibration DATA")]
    builder = Builder(source, OPERATORS, quantized_io=quantized_io)
    graph = builder.build()
    if builder.reasons:
        return graph, builder.reasons
    drop_dead(graph)
    if target.layout == "nhwc":
        choose_port_layouts(graph)
    move_transposes(graph)
    drop_dead(graph)
    transpose_codes(graph)
    merge_reshapes(graph)
    drop_dead(graph)
    separate_ports(graph)
    return graph, []


def _tensor_io(port: Port) -> TensorIO:
    quant = port.tensor.quant
    return TensorIO(
        name=port.name,
        engine_name=port.name,
        dtype=port.tensor.dtype,
        shape=port.tensor.shape,
        axes=port.axes,
        scale=quant.scale if quant else 0.0,
        zero_point=quant.zero_point if quant else 0,
    )
