"""`why_not` and `lower`: from the ONNX file to the artifact."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgekit.backends import refusal
from edgekit.backends.request import Request
from edgekit.backends.tflite.builder import Builder
from edgekit.backends.tflite.checks import check_graph
from edgekit.backends.tflite.cleanup import (
    drop_dead,
    half_weights,
    merge_reshapes,
    narrow_splits,
    pick_parts,
    separate_ports,
    transpose_codes,
)
from edgekit.backends.tflite.dynamic import build_in_every_size
from edgekit.backends.tflite.fold_weights import fold_weights
from edgekit.backends.tflite.ir import Graph, Port
from edgekit.backends.tflite.layout import move_transposes
from edgekit.backends.tflite.layout_ports import choose_port_layouts
from edgekit.backends.tflite.lowering import OPERATORS
from edgekit.backends.tflite.onnx_graph import OnnxGraph, read_graph
from edgekit.backends.tflite.stored_weights import store_precision, store_recurrent
from edgekit.backends.tflite.writer import serialize
from edgekit.core.artifact import Artifact
from edgekit.core.dynamic import Dynamic
from edgekit.core.files import atomic_file
from edgekit.core.packages import installed_version
from edgekit.core.target import CALIBRATED, STORED, Precision, Target
from edgekit.errors import Reason, Unsupported
from edgekit.runtime.manifest import TensorIO

__all__ = ["build_graph", "lower", "tensor_io", "why_not"]

MODEL_NAME = "model.tflite"


def why_not(model: Path, target: Target, precision: Precision) -> list[Reason]:
    """Why this ONNX file cannot become a .tflite file of this precision; empty means go."""
    if reasons := refusal(target, precision):
        return reasons
    build = partial(build_graph, target=target, precision=precision)
    return build_in_every_size(model, build)[1]


def lower(request: Request) -> Artifact:
    """Write `out/model.tflite` and its manifest.

    The scales and zero points of the graph are those of the file. Raises `Unsupported` with every reason
    found.
    """
    target, precision, out = request.target, request.precision, request.out
    reasons = refusal(target, precision)
    graph, dynamic = Graph(), None
    if not reasons:
        build = partial(build_graph, target=target, precision=precision, quantized_io=request.quantized_io)
        graph, reasons, dynamic = build_in_every_size(request.model, build)
    if reasons:
        raise Unsupported(f"LiteRT cannot run this model in {precision}", reasons=reasons)
    notes = graph.notes
    if precision == "float16" and (left := half_weights(graph)):
        notes.append(f"kept in float32, beyond the range of float16: {', '.join(left)}")
    check_graph(graph)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / MODEL_NAME) as temporary:
        temporary.write_bytes(serialize(graph, about=request.about))
    return request.answer(
        MODEL_NAME,
        inputs=tuple(tensor_io(port, dynamic) for port in graph.inputs),
        outputs=tuple(tensor_io(port, dynamic) for port in graph.outputs),
        dynamic=dynamic,
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
    if reasons := _wrong_graph(source, precision):
        return Graph(), reasons
    fold_weights(source)
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
    pick_parts(graph)
    merge_reshapes(graph)
    drop_dead(graph)
    narrow_splits(graph)
    separate_ports(graph)
    if precision in STORED:
        return graph, store_precision(graph, builder.stored, precision)
    if precision == "int8":
        store_recurrent(graph, builder.stored)
    if precision == "int16x8":
        graph.notes.append("XNNPACK takes no int16 activations: builtin kernels run them, and they are slow")
    return graph, []


def _wrong_graph(source: OnnxGraph, precision: Precision) -> list[Reason]:
    """Why this graph is not the one that `precision` is lowered from; empty means go."""
    quantizers = any(node.op_type == "QuantizeLinear" for node in source.nodes)
    if precision in CALIBRATED and not quantizers:
        why = f"{precision} needs a QDQ graph, this one has no QuantizeLinear: nothing in it is quantized"
        hint = (
            "where samples were given, no operator is left that this target has integers for: all of it "
            "computes in float32, so ask for that; else give samples (--calibration)"
        )
        return [Reason(why=why, hint=hint)]
    wanted = "int16" if precision == "int16x8" else "int8"
    found = source.activation_codes()
    if found and wanted not in found:  # a mixture has both
        codes = ", ".join(sorted(found))
        other = "int16x8" if precision == "int8" else "int8"
        why = f"every quantized activation of this graph is {codes}, {precision} has {wanted}"
        return [Reason(why=why, hint=f"ask for {other}")]
    return []


def tensor_io(port: Port, dynamic: Dynamic | None) -> TensorIO:
    """The port as the manifest lists it."""
    quant = port.tensor.quant
    shape: tuple[int | str, ...] = port.tensor.shape
    if dynamic is not None:
        shape = dynamic.named(port.name, port.tensor.shape, port.axes)
    return TensorIO(
        name=port.name,
        engine_name=port.name,
        dtype=port.tensor.dtype,
        shape=shape,
        axes=port.axes,
        scale=quant.scale if quant else 0.0,
        zero_point=quant.zero_point if quant else 0,
    )
