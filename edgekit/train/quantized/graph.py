"""The QDQ graph of a policy as a module that trains what the engine will compute."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.core.target import Int8Policy
from edgekit.errors import InternalError
from edgekit.graph.walk import attribute
from edgekit.quantize.algorithms.pair_aware import code_limits
from edgekit.quantize.graph_index import GraphIndex, index_graph
from edgekit.quantize.placement import Placement, WeightedNode
from edgekit.quantize.scales import CODE_RANGE
from edgekit.train.batch import free_batch
from edgekit.train.from_graph import build
from edgekit.train.module_graph import Later, Op
from edgekit.train.quantized.fake import activation_quantizer, bias_quantizer, weight_quantizer

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["Quantized", "Ranges", "fake_quantized"]

RECURRENT = ("LSTM", "GRU", "RNN")
_INSIDE = 0.49  # of a step around a code: rounding to nearest gives that code


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Whether scales of activations and of weights are trained, or stay as calibration chose them."""

    activations: bool = True
    weights: bool = True


@dataclass(slots=True, kw_only=True)
class Quantized:
    """A fake-quantized module and where each of its quantizers lies in the QDQ graph.

    Besides what `edgekit.train.trainable` says, its `meta` holds "values": tensor -> node of its fx graph.
    `activations`: QuantizeLinear node -> quantizer. `weights`, `biases`: DequantizeLinear node -> quantizer.
    """

    module: Any
    proto: ModelProto
    activations: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, Any] = field(default_factory=dict)
    biases: dict[str, Any] = field(default_factory=dict)

    def train_scales_alone(self) -> None:
        """Hold all still but the scales of activations that learn."""
        scales = {id(q.delta) for q in self.activations.values()}
        for parameter in self.module.parameters():
            parameter.requires_grad_(parameter.requires_grad and id(parameter) in scales)

    def enable(self, quantizing: bool) -> None:
        """Turn all fake quantizers on or off."""
        for quantizer in (*self.activations.values(), *self.weights.values(), *self.biases.values()):
            quantizer.enabled = quantizing


def fake_quantized(
    qdq: Path,
    model: ModelProto,
    placement: Placement,
    policy: Int8Policy,
    *,
    ranges: Ranges,
    shared: dict[str, Any] | None = None,
) -> Quantized:
    """The module that computes what the QDQ graph `qdq` does, with gradients.

    Before: `model`, the float graph, `placement`, the policy laid over it, and the graph that the writer made
    of both. After: each pair of quantizers is one fake quantizer (tensors that share a scale share it), each
    coded weight a parameter that is quantized in the forward pass, each bias one at the scale of its sum.
    Without `shared`, weights start within the codes they have in `qdq`: the first answers are those of the
    graph. `shared` (initializer -> parameter, filled on the way) makes several policies train the same
    weights, which then start as the float graph's. Scales that a kernel imposes are not trained, and no scale
    passes a Clip's upper end. Coded constants and stored weights of recurrent layers stay as they are.
    """
    onnx = require("onnx", needed_for="training")
    proto = onnx.shape_inference.infer_shapes(onnx.load(str(qdq)), data_prop=True)
    result = Quantized(module=None, proto=proto)
    emitters = _Emitters(result, index_graph(model), placement, policy, ranges, shared)
    frozen = emitters.fold_stored_weights()
    more = {"QuantizeLinear": emitters.quantize, "DequantizeLinear": emitters.dequantize}
    builder = build(proto, more=more, folded=frozen)
    torch = require("torch")
    module = torch.fx.GraphModule(builder.root, builder.graph, "Quantized")
    layers = tuple(la for la in builder.layers if not set(la.initializers) & set(frozen))
    for layer in builder.layers:
        if layer not in layers:
            module.get_submodule(layer.path).requires_grad_(False)
    _share_floats(module, layers, shared)
    module.meta.update(
        inputs=tuple(v.name for v in proto.graph.input),
        outputs=tuple(o.name for o in proto.graph.output),
        layers=layers,
        source=str(qdq),
        batch="",
        values={t: v.name for t, v in builder.values.items() if isinstance(v, torch.fx.Node)},
    )
    result.module = module.eval()
    result.enable(False)  # a value on the edge of two codes may fall to either side in a joint run
    free_batch(module, qdq)
    result.enable(True)
    return result


def _share_floats(module: Any, layers: tuple[Any, ...], shared: dict[str, Any] | None) -> None:
    """Let the layers that stay float hold the same parameters in every policy's module."""
    if shared is None:
        return
    for layer in layers:
        holder = module if layer.kind == "parameter" else module.get_submodule(layer.path)
        names = [layer.path] if layer.kind == "parameter" else [n for n, _ in holder.named_parameters()]
        for name in names:
            known = shared.setdefault(f"{layer.node}|{layer.path}|{name}", getattr(holder, name))
            if known.shape == getattr(holder, name).shape:
                setattr(holder, name, known)


class _Emitters:
    """What QuantizeLinear and DequantizeLinear become."""

    def __init__(
        self, result: Quantized, index: GraphIndex, placement: Placement, policy: Int8Policy, ranges: Ranges,
        shared: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        self.result, self.index, self.placement, self.policy = result, index, placement, policy
        self.ranges, self.shared = ranges, shared
        self.constants = index_graph(result.proto).constants
        self.nodes = {n.name: n for n in result.proto.graph.node}
        self.readers: dict[str, list[NodeProto]] = {}
        self.makers: dict[str, NodeProto] = {}
        for node in result.proto.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            self.makers.update(dict.fromkeys(node.output, node))
        self.weighted = {w.name: w for w in placement.weighted}
        self.groups: dict[str, Any] = {}  # representative -> its first quantizer, whose scale all share

    def fold_stored_weights(self) -> dict[str, NDArray[Any]]:
        """The dequantized weights of recurrent layers, by name: they stay as they are."""
        folded = {}
        for node in self.result.proto.graph.node:
            coded = node.op_type == "DequantizeLinear" and node.input[0] in self.constants
            if coded and self.readers[node.output[0]][0].op_type in RECURRENT:
                folded[node.output[0]] = self._dequantized(node)
        return folded

    def _dequantized(self, node: NodeProto) -> NDArray[Any]:
        codes, scale = self.constants[node.input[0]], self.constants[node.input[1]]
        zero = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros((), codes.dtype)
        shape = [1] * codes.ndim
        if scale.ndim:
            shape[attribute(node, "axis", 1)] = -1
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return np.asarray((codes.astype(np.float64) - zero.astype(np.float64)) * scale, np.float32)

    def quantize(self, op: Op) -> Any:
        """A QuantizeLinear: the fake quantizer of the tensor's group."""
        representative = self._representative(op.node)
        quantizer = self._activation(op, representative)
        first = self.groups.setdefault(representative, quantizer)
        if float(first.base) != float(quantizer.base):
            raise InternalError(f"{op.node.name}: tensors that share a scale differ in it")
        quantizer.delta = first.delta
        quantizer.sums = self._sums(op.node.input[0])
        path = op.builder.unique(f"{op.node.input[0]}_quantizer")
        op.builder.root.add_module(path, quantizer)
        self.result.activations[op.node.name] = quantizer
        return op.builder.graph.call_module(path, (op.tensor(0),))

    def _sums(self, tensor: str) -> tuple[Any, ...]:
        """Of an integer sum that makes a tensor (Relu or Clip between): its quantizers and channel axis."""
        node = self.makers.get(tensor)
        if node is not None and node.op_type in ("Relu", "Clip"):
            node = self.makers.get(node.input[0])
        if node is None or node.name not in self.weighted:
            return ()
        axis = 1 if node.op_type in ("Conv", "ConvTranspose") else -1
        return (*self._sources(node), axis)

    def _sources(self, node: NodeProto) -> tuple[Any, Any]:
        """The quantizers of a weighted node's input and weight."""
        made = self.makers[node.input[0]]  # the DequantizeLinear of the input
        weight = self.result.weights[self.makers[node.input[1]].name]
        return self.result.activations[self.makers[made.input[0]].name], weight

    def _representative(self, node: NodeProto) -> str:
        raw = str(node.input[0])
        for name in (raw, raw.removesuffix("_float")):
            if name in self.placement.group:
                return self.placement.group[name]
        pair = self.readers[node.output[0]][0]  # a second pair on one edge: the scale of the reader's output
        reader = self.readers[pair.output[0]][0]
        outputs = [str(o).removesuffix("_float") for o in reader.output]
        return self.placement.group[next(o for o in outputs if o in self.placement.group)]

    def _activation(self, op: Op, representative: str) -> Any:
        scale, zero = float(op.constant(1)), int(op.constant(2))  # type: ignore[arg-type]
        first, last = CODE_RANGE[str(op.constant(2).dtype)]  # type: ignore[union-attr]
        members = [t for t, r in self.placement.group.items() if r == representative]
        ends = [end / (last - zero) for t in members if (end := self._clipped_at(t)) and last > zero]
        learned = self.ranges.activations and representative not in self.placement.fixed
        largest = max(scale, min(ends)) if ends else float("inf")
        return activation_quantizer(scale, first - zero, last - zero, largest=largest, learned=learned)

    def _clipped_at(self, tensor: str) -> float:
        """The upper end of the Clip that makes a tensor of the float graph; 0 for any other."""
        node = self.index.producer.get(tensor)
        if node is None or node.op_type != "Clip" or len(node.input) < 3:
            return 0.0
        found = self.index.constants.get(node.input[2])
        return float(found.reshape(-1)[0]) if found is not None else 0.0

    def dequantize(self, op: Op) -> Any:
        """A DequantizeLinear: of an activation nothing, of a constant its quantizer."""
        codes = op.constant(0)
        if codes is None:
            return op.tensor(0)
        reader = self.readers[op.node.output[0]][0]
        if reader.name in self.weighted and reader.input[1] == op.node.output[0]:
            return self._call(op, "weights", self._weight(op.node, self.weighted[reader.name], reader))
        if reader.name in self.weighted and codes.dtype == np.int32:
            return Later(lambda: self._call(op, "biases", self._bias(op.node, reader)))
        op.builder.constants[op.node.output[0]] = self._dequantized(op.node)
        return op.builder.value(op.node.output[0])

    def _call(self, op: Op, kind: str, quantizer: Any) -> Any:
        path = op.builder.unique(f"{op.node.output[0]}_quantizer")
        op.builder.root.add_module(path, quantizer)
        getattr(self.result, kind)[op.node.name] = quantizer
        return op.builder.graph.call_module(path, ())

    def _weight(self, node: NodeProto, weighted: WeightedNode, reader: NodeProto) -> Any:
        torch = require("torch")
        codes, scales = self.constants[node.input[0]], self.constants[node.input[1]]
        weight = self.index.constants[weighted.weight]
        weight = np.ascontiguousarray(weight.T) if self._was_turned(weighted) else weight
        axis = attribute(node, "axis", 1) if scales.ndim else None
        limit, paired = self.policy.weight_limit, False
        if self.policy.caps_pairs:
            group = attribute(reader, "group", 1)
            limit, paired = code_limits(codes.shape, op_type=weighted.op_type, group=group, axis=axis)
        if self.shared is None:
            shape = [1] * codes.ndim
            if axis is not None:
                shape[axis] = -1
            steps = scales.reshape(shape)
            weight = np.clip(weight, (codes - _INSIDE) * steps, (codes + _INSIDE) * steps)
        parameter = torch.nn.Parameter(torch.from_numpy(np.array(weight, np.float32)))
        if self.shared is not None:
            parameter = self.shared.setdefault(weighted.weight, parameter)
        side = (0 if weighted.op_type == "MatMul" else 1) if paired else -1
        return weight_quantizer(
            parameter, torch.from_numpy(np.array(scales)), axis=axis, limit=limit, paired=side,
            learned=self.ranges.weights,
        )  # fmt: skip

    def _was_turned(self, weighted: WeightedNode) -> bool:
        source = next(n for n in self.index.model.graph.node if n.name == weighted.name)
        return weighted.op_type == "Gemm" and not attribute(source, "transB", 0)

    def _bias(self, node: NodeProto, reader: NodeProto) -> Any:
        torch = require("torch")
        activation, weight = self._sources(reader)
        values = torch.from_numpy(self._dequantized_bias(node))
        return bias_quantizer(torch.nn.Parameter(values), activation, weight)

    def _dequantized_bias(self, node: NodeProto) -> NDArray[np.float32]:
        codes, scale = self.constants[node.input[0]], self.constants[node.input[1]]
        return np.asarray(codes.astype(np.float64) * scale.astype(np.float64), np.float32)
