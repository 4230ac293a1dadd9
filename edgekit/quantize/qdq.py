"""The QDQ writer: a float graph, a calibration and a policy in; a graph with explicit quantizers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import Int8Policy
from edgekit.quantize.calibrate import Calibration
from edgekit.quantize.flat_ends import trimmed
from edgekit.quantize.graph_index import GraphIndex, index_graph
from edgekit.quantize.opset import raise_opset
from edgekit.quantize.placement import Placement, WeightedNode, place
from edgekit.quantize.recurrent_weights import CHANNEL_AXIS, recurrent_weights
from edgekit.quantize.scales import (
    Affine,
    activation_affine,
    bias_codes,
    quantize_array,
    weight_codes,
)
from edgekit.quantize.weight_coding import CodedWeight, code_weight

__all__ = ["code_weights", "quantize"]


_DEFAULTS = QuantizationOptions()


def quantize(
    model: Any,
    *,
    calibration: Calibration,
    policy: Int8Policy,
    options: QuantizationOptions = _DEFAULTS,
    coded: Mapping[str, CodedWeight] | None = None,
) -> tuple[Any, Placement]:
    """The QDQ graph (a new ModelProto) and where its quantizers sit.

    Before: float32 nodes. After: every placed tensor passes QuantizeLinear and DequantizeLinear; weights are
    int8 initializers behind a DequantizeLinear with zero point 0; biases int32 at scale s_x * s_w. Must not
    change: names, order and dtypes of the model's inputs and outputs. With int16 activations the opset is 21.
    `coded` replaces the answer of `code_weights`.
    """
    import onnx

    quantized = onnx.ModelProto()
    quantized.CopyFrom(model)
    index = index_graph(quantized)
    placement = place(index, policy, keep=options.keep, leave_float=options.leave_float)
    affines = _affines(placement, trimmed(index, calibration.for_policy(policy)), policy)
    writer = _Writer(index, placement, affines, policy)
    weights = coded or code_weights(model, calibration=calibration, policy=policy, options=options)
    for node in placement.weighted:
        writer.write_weight(node, weights[node.name])
    for node, position in recurrent_weights(index, policy.stored_weight_ops, one_step=False):
        if node.name not in options.keep:
            writer.store_weight(node, position)
    for node_name, constant in placement.constants:
        writer.code_constant(node_name, constant)
    for tensor in placement.tensors:
        writer.quantize_tensor(tensor)
    for node_name, tensor in sorted(placement.requantized):
        writer.requantize_edge(node_name, tensor)
    writer.finish()
    if policy.activation == "int16":
        raise_opset(quantized)
    return quantized, placement


def code_weights(
    model: Any, *, calibration: Calibration, policy: Int8Policy, options: QuantizationOptions = _DEFAULTS
) -> dict[str, CodedWeight]:
    """The weight and bias of every node that the policy codes, by its name; each value is coded by itself."""
    index = index_graph(model)
    placement = place(index, policy, keep=options.keep, leave_float=options.leave_float)
    affines = _affines(placement, trimmed(index, calibration.for_policy(policy)), policy)
    nodes = {n.name: n for n in model.graph.node}
    means = calibration.means if options.bias_correction != "none" else {}
    return {
        node.name: code_weight(
            index,
            node,
            nodes[node.name],
            input_scale=affines[node.data].scale,
            policy=policy,
            mean=np.asarray(means[node.data]) if node.data in means else None,
            clip=options.weight_clipping == "mse",
        )
        for node in placement.weighted
    }


def _affines(placement: Placement, calibration: Calibration, policy: Int8Policy) -> dict[str, Affine]:
    """The scale and zero point of every placed tensor; a group shares the union of its ranges."""
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for tensor in placement.tensors:
        representative = placement.group[tensor]
        tensor_low, tensor_high = calibration.ranges[tensor]
        low[representative] = min(low.get(representative, 0.0), tensor_low)
        high[representative] = max(high.get(representative, 0.0), tensor_high)
    affines = {}
    for r in low:
        dtype, symmetric = _code(policy, r in placement.symmetric, signed=low[r] < 0.0)
        affines[r] = activation_affine(
            low[r] * policy.headroom, high[r] * policy.headroom, dtype=dtype, symmetric=symmetric
        )
    for representative, imposed in placement.fixed.items():
        affines[representative] = Affine(
            scale=imposed.scale, zero_point=imposed.zero_point, dtype=policy.activation
        )
    return {tensor: affines[placement.group[tensor]] for tensor in placement.tensors}


def _code(policy: Int8Policy, wants_zero: bool, *, signed: bool) -> tuple[str, bool]:
    """The dtype of a tensor's codes, and whether they are symmetric; `wants_zero`: zero point 0 is due."""
    if policy.activation == "uint8" and wants_zero:
        return ("int8", True) if signed else ("uint8", False)
    return policy.activation, policy.activation_symmetric or wants_zero


@dataclass(slots=True)
class _Insertion:
    """Nodes that belong right behind a tensor's producer."""

    tensor: str
    nodes: list[Any]


class _Writer:
    """Edits one graph; new names end in `_q`, `_dq`, `_scale`, `_zero_point`, `_codes` and are unique."""

    def __init__(
        self, index: GraphIndex, placement: Placement, affines: dict[str, Affine], policy: Int8Policy
    ) -> None:
        self.index = index
        self.graph = index.model.graph
        self.placement = placement
        self.affines = affines
        self.policy = policy
        self.nodes = {n.name: n for n in self.graph.node}
        self.insertions: list[_Insertion] = []
        self.in_front: list[Any] = []
        self.taken = {n for node in self.graph.node for n in (*node.input, *node.output)} | {
            i.name for i in self.graph.initializer
        }

    def unique(self, name: str) -> str:
        """`name`, or `name` with a number when it is taken."""
        candidate, number = name, 1
        while candidate in self.taken:
            number += 1
            candidate = f"{name}_{number}"
        self.taken.add(candidate)
        return candidate

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A new initializer; returns its name."""
        from onnx import numpy_helper

        name = self.unique(name)
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def affine_constants(self, tensor: str, affine: Affine) -> tuple[str, str]:
        """Initializers of a scale and a zero point; returns their names."""
        scale = self.constant(f"{tensor}_scale", np.array(affine.scale, np.float32))
        zero_point = self.constant(f"{tensor}_zero_point", np.array(affine.zero_point, affine.dtype))
        return scale, zero_point

    def write_weight(self, node: WeightedNode, coded: CodedWeight) -> None:
        """Replace a node's float weight and bias by codes behind DequantizeLinear."""
        proto = self.nodes[node.name]
        if node.op_type == "Gemm":
            _set_attribute(proto, "transB", 1)
        proto.input[1] = self.dequantized(node.weight, coded.codes, coded.scales, coded.axis)
        if coded.bias is None or node.op_type == "MatMul":
            return
        codes, scales = bias_codes(coded.bias, self.affines[node.data].scale, coded.scales)
        name = self.dequantized(node.bias or f"{node.name}_bias", codes, scales, 0)
        if len(proto.input) > 2:
            proto.input[2] = name
        else:
            proto.input.append(name)

    def store_weight(self, node: Any, position: int) -> None:
        """Replace a constant by codes behind DequantizeLinear: the node goes on computing in float."""
        name = node.input[position]
        codes, scales = weight_codes(self.index.constants[name], bits=8, axis=CHANNEL_AXIS)
        node.input[position] = self.dequantized(name, codes, scales, CHANNEL_AXIS)

    def dequantized(
        self, name: str, codes: NDArray[Any], scales: NDArray[np.float32], axis: int | None
    ) -> str:
        """Codes as an initializer behind DequantizeLinear; returns the float tensor's name."""
        from onnx import helper

        inputs = [self.constant(f"{name}_codes", codes), self.constant(f"{name}_scale", scales)]
        if codes.dtype != np.int32:
            inputs.append(self.constant(f"{name}_zero_point", np.zeros(scales.shape, codes.dtype)))
        output = self.unique(f"{name}_dq")
        attributes = {} if axis is None or scales.ndim == 0 else {"axis": axis}
        self.in_front.append(
            helper.make_node("DequantizeLinear", inputs, [output], name=output, **attributes)
        )
        return output

    def code_constant(self, node_name: str, constant: str) -> None:
        """Code a constant operand like an activation, one scale in all."""
        from onnx import helper

        values = self.index.constants[constant]
        affine = activation_affine(
            float(values.min()),
            float(values.max()),
            dtype=self.policy.activation,
            symmetric=self.policy.activation_symmetric,
        )
        scale, zero_point = self.affine_constants(constant, affine)
        codes = self.constant(f"{constant}_codes", quantize_array(values, affine))
        output = self.unique(f"{constant}_dq")
        self.in_front.append(
            helper.make_node("DequantizeLinear", [codes, scale, zero_point], [output], name=output)
        )
        _replace_input(self.nodes[node_name], constant, output)

    def quantize_tensor(self, tensor: str) -> None:
        """Put QuantizeLinear and DequantizeLinear behind a tensor; its readers read the second.

        Those of `plain_reads` go on reading the tensor itself.
        """
        is_output = tensor in self.index.outputs
        if is_output and tensor in self.index.producer:
            raw, result = self.unique(f"{tensor}_float"), tensor
            producer = self.index.producer[tensor]
            producer.output[list(producer.output).index(tensor)] = raw
        else:
            raw, result = tensor, self.unique(f"{tensor}_dq")
        for node in self.index.readers.get(tensor, ()):
            plain = (node.name, tensor) in self.placement.plain_reads
            _replace_input(node, tensor, raw if plain else result)
        self.insertions.append(_Insertion(raw, self.pair(raw, result, self.affines[tensor])))

    def requantize_edge(self, node_name: str, tensor: str) -> None:
        """Put a second pair, with the scale of the node's output, on one edge."""
        node = self.nodes[node_name]
        current = f"{tensor}_dq"
        result = self.unique(f"{tensor}_requantized")
        _replace_input(node, current, result)
        affine = self.affines[str(self._quantized_output(node))]
        self.insertions.append(_Insertion(current, self.pair(current, result, affine)))

    def _quantized_output(self, node: Any) -> str:
        names = [str(o).removesuffix("_float") for o in node.output]
        return next(name for name in names if name in self.affines)

    def pair(self, raw: str, result: str, affine: Affine) -> list[Any]:
        """A QuantizeLinear and a DequantizeLinear node from `raw` to `result`."""
        from onnx import helper

        scale, zero_point = self.affine_constants(raw, affine)
        codes = self.unique(f"{raw}_q")
        return [
            helper.make_node("QuantizeLinear", [raw, scale, zero_point], [codes], name=codes),
            helper.make_node("DequantizeLinear", [codes, scale, zero_point], [result], name=f"{result}/dq"),
        ]

    def finish(self) -> None:
        """Put the new nodes in topological order and drop what nothing reads."""
        after: dict[str, list[Any]] = {}
        for insertion in self.insertions:
            after.setdefault(insertion.tensor, []).extend(insertion.nodes)
        ordered: list[Any] = list(self.in_front)

        def add(tensor: str) -> None:
            for node in after.pop(tensor, ()):
                ordered.append(node)
                for output in node.output:
                    add(output)

        for name in self.index.inputs:
            add(name)
        for node in list(self.graph.node):
            ordered.append(node)
            for output in node.output:
                add(output)
        copies = [type(n).FromString(n.SerializeToString()) for n in ordered]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        read = {name for node in self.graph.node for name in node.input} | set(self.index.outputs)
        kept = [i for i in self.graph.initializer if i.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)


def _replace_input(node: Any, old: str, new: str) -> None:
    for position, name in enumerate(node.input):
        if name == old:
            node.input[position] = new


def _set_attribute(node: Any, name: str, value: int) -> None:
    from onnx import helper

    for item in list(node.attribute):
        if item.name == name:
            node.attribute.remove(item)
    node.attribute.append(helper.make_attribute(name, value))
