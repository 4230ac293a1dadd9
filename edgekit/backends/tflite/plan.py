"""What runs in integers and what is fused, decided before anything is emitted.

An operator whose data inputs are all dequantized and whose output is quantized becomes one integer operator.
Everything else is computed in float between DEQUANTIZE and QUANTIZE, which is what the QDQ graph says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgekit.backends.tflite.ir import Array, Quant
from edgekit.backends.tflite.onnx_graph import Node, OnnxGraph

if TYPE_CHECKING:
    from edgekit.backends.tflite.op import Op

__all__ = ["Activation", "Lowering", "Site", "Step", "clip_bounds", "make_plan", "quant_after"]

Activation = Literal["NONE", "RELU", "RELU6", "RELU_N1_TO_1"]
Bounds = tuple[float, float]

_INT16_OPS = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "LeakyRelu"),
        *("MaxPool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceSum", "Resize"),
        *("Concat", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Pad"),
        *("Tile", "Expand", "Gather", "GatherElements", "GatherND", "CenterCropPad", "Identity", "Dropout"),
    )
)
_FLOAT_ACTIVATIONS: dict[Bounds, Activation] = {
    (0.0, float("inf")): "RELU",
    (0.0, 6.0): "RELU6",
    (-1.0, 1.0): "RELU_N1_TO_1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """An ONNX node with the quantization of what it reads and writes; what the integer rules look at."""

    graph: OnnxGraph
    node: Node
    inputs: tuple[Quant | None, ...]
    output: Quant | None

    def constant(self, index: int) -> Array | None:
        """The stored constant behind input `index`: integer codes when it is dequantized."""
        if index >= len(self.node.inputs):
            return None
        name = self.node.inputs[index]
        writer = self.graph.writers.get(name)
        if writer is not None and writer.op_type == "DequantizeLinear":
            name = writer.inputs[0]
        return self.graph.constants.get(name)

    @property
    def codes(self) -> str:
        """The dtype of the quantized activations it reads: that of the first one."""
        read = (q for i, q in enumerate(self.inputs) if q is not None and self.constant(i) is None)
        found = next(read, self.output)
        return found.codes if found is not None else "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """How an ONNX operator is lowered.

    `emit` writes the operators. `integer` says whether the site may become an integer operator; None: never.
    `moves` marks operators that only move or pick values: they keep the quantization of their input, so they
    need no quantizer behind them. `fuses`: a following Relu or Clip belongs to it. `dtypes`: what the kernel
    takes as ONNX input number `data` when that is not quantized: others abort the engine or are wrong.
    """

    emit: Callable[[Op], None]
    integer: Callable[[Site], bool] | None = None
    moves: bool = False
    fuses: bool = False
    dtypes: tuple[str, ...] = ("float32",)
    data: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One ONNX node to lower, with its fused activation.

    `outputs` are the values it computes (those of the activation when one is fused). `quant` is the
    quantization of its outputs when `integer`. `clip` bounds an integer result that no fused activation
    expresses.
    """

    node: Node
    outputs: tuple[str, ...]
    integer: bool = False
    quant: Quant | None = None
    activation: Activation = "NONE"
    clip: Bounds | None = None


def make_plan(graph: OnnxGraph, table: Mapping[str, Lowering]) -> list[Step]:
    """The steps in order. Quantizer nodes and unknown operators become plain steps of their own."""
    views: dict[str, Quant] = {}
    fused: set[Node] = set()
    steps = []
    for node in graph.nodes:
        if node in fused:
            continue
        if node.op_type == "DequantizeLinear":
            found = graph.quantizer(node)
            if found is not None and graph.declared(node):
                views[node.outputs[0]] = found.quant
        lowering = table.get(node.op_type)
        if lowering is None:
            steps.append(Step(node=node, outputs=node.outputs))
            continue
        step, partner = _decide(graph, node, lowering, views)
        if partner is not None:
            fused.add(partner)
        if step.integer and lowering.moves and step.quant is not None:
            views.update(dict.fromkeys(step.outputs, step.quant))
        steps.append(step)
    return steps


def _decide(
    graph: OnnxGraph, node: Node, lowering: Lowering, views: Mapping[str, Quant]
) -> tuple[Step, Node | None]:
    inputs = tuple(views.get(name) for name in node.inputs)
    if lowering.moves:
        site = Site(graph=graph, node=node, inputs=inputs, output=quant_after(graph, node.outputs[0]))
        if inputs[0] is not None and _integer(site, lowering):
            return Step(node=node, outputs=node.outputs, integer=True, quant=inputs[0]), None
    partner = _activation_after(graph, node) if lowering.fuses else None
    bounds = clip_bounds(graph, partner) if partner is not None else None
    if partner is not None and bounds is not None:
        quant = quant_after(graph, partner.outputs[0])
        site = Site(graph=graph, node=node, inputs=inputs, output=quant)
        if quant is not None and _integer(site, lowering):
            activation, clip = _integer_activation(bounds, quant)
            step = Step(
                node=node,
                outputs=partner.outputs,
                integer=True,
                quant=quant,
                activation=activation,
                clip=clip,
            )
            return step, partner
        if bounds in _FLOAT_ACTIVATIONS:
            return Step(node=node, outputs=partner.outputs, activation=_FLOAT_ACTIVATIONS[bounds]), partner
    quant = quant_after(graph, node.outputs[0])
    site = Site(graph=graph, node=node, inputs=inputs, output=quant)
    if quant is not None and not lowering.moves and _integer(site, lowering):
        return Step(node=node, outputs=node.outputs, integer=True, quant=quant), None
    return Step(node=node, outputs=node.outputs), None


def _integer(site: Site, lowering: Lowering) -> bool:
    if lowering.integer is None or (site.codes == "int16" and not _int16(site)):
        return False
    if not lowering.moves and site.output is not None and site.output.codes != site.codes:
        return False  # no kernel reads codes of one width and writes another
    return lowering.integer(site)


def _int16(site: Site) -> bool:
    """Whether LiteRT's kernel is at most one step off on int16 activations; others run as float islands.

    A product of two activations is wrong, DEPTH_TO_SPACE and SPACE_TO_DEPTH do not take int16, and float
    LOGISTIC, TANH and SOFTMAX between two casts run in XNNPACK, which takes no int16.
    """
    op_type = site.node.op_type
    return op_type in _INT16_OPS and (op_type != "MatMul" or site.constant(1) is not None)


def quant_after(graph: OnnxGraph, value: str) -> Quant | None:
    """The quantization of `value` when quantizers of equal parameters are all that reads it."""
    readers = graph.readers.get(value, [])
    if not readers or value in graph.outputs:
        return None
    found: set[Quant] = set()
    for reader in readers:
        if reader.op_type != "QuantizeLinear" or reader.inputs[0] != value or not graph.declared(reader):
            return None
        quantizer = graph.quantizer(reader)
        if quantizer is None or not quantizer.activation:
            return None
        found.add(quantizer.quant)
    return found.pop() if len(found) == 1 else None


def _activation_after(graph: OnnxGraph, node: Node) -> Node | None:
    value = node.outputs[0]
    readers = graph.readers.get(value, [])
    if value in graph.outputs or len(readers) != 1 or readers[0].op_type not in ("Relu", "Clip"):
        return None
    if graph.dtypes.get(value, "float32") != "float32":
        return None  # kernels of plain integers do not apply it
    return readers[0] if readers[0].inputs[0] == value else None


def clip_bounds(graph: OnnxGraph, node: Node) -> Bounds | None:
    """The range a Relu or Clip keeps, or None when it is not constant."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    bounds = []
    for index, absent in ((1, -float("inf")), (2, float("inf"))):
        name = node.inputs[index] if index < len(node.inputs) else ""
        if name and name not in graph.constants:
            return None
        bounds.append(float(graph.constants[name].item()) if name else absent)
    return bounds[0], bounds[1]


def _integer_activation(bounds: Bounds, quant: Quant) -> tuple[Activation, Bounds | None]:
    """The fused activation that clips codes as the clip before the quantizer clips values.

    Quantization is monotone, so clip(q(x), q(low), q(high)) is q(clip(x, low, high)); a bound whose code lies
    outside their dtype does nothing.
    """
    low, high = bounds
    limits = np.iinfo(quant.codes)
    with np.errstate(over="ignore"):
        ends = np.rint(np.asarray(bounds, np.float32) / np.float32(quant.scale)) + quant.zero_point
    low_idle, high_idle = bool(ends[0] <= limits.min), bool(ends[1] >= limits.max)
    if low_idle and high_idle:
        return "NONE", None
    if low == 0 and high_idle:
        return "RELU", None
    if high == 6 and (low == 0 or (low_idle and quant.zero_point == limits.min)):
        return "RELU6", None
    if (low, high) == (-1.0, 1.0):
        return "RELU_N1_TO_1", None
    return "NONE", bounds
