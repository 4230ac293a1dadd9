"""The ONNX file as the lowering reads it: static shapes, numpy constants, nodes that still compute."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends.tflite.ir import Array, Quant
from edgekit.backends.tflite.qlinear import expand_qlinear
from edgekit.backends.tflite.reading import read_apart
from edgekit.backends.tflite.unfold import expand_functions, unfold
from edgekit.backends.tflite.wide_floats import widen
from edgekit.core.packages import require
from edgekit.errors import Reason

__all__ = ["Node", "OnnxGraph", "Quantizer", "read_graph"]

_CODES = ("int4", "int8", "uint8", "int16", "int32")
_FOLD_LIMIT = 1 << 24  # elements: a larger constant result is left to the engine's own arithmetic


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Node:
    """One ONNX node. `name` is unique; an input that is left out is ""."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantizer:
    """The parameters of a QuantizeLinear or DequantizeLinear node; uint8 codes are shifted by 128 to int8.

    `part_of` names the constant that this is a part of; `recurrent` marks what multiplies a state.
    """

    quant: Quant
    shift: int = 0
    part_of: str = ""
    recurrent: bool = False

    @property
    def activation(self) -> bool:
        """Whether activations may be such codes: int8 or int16, with one scale."""
        return self.quant.codes in ("int8", "int16") and len(self.quant.scales) == 1


@dataclass(slots=True, kw_only=True)
class OnnxGraph:
    """Nodes in order, constants as arrays, the static shape and numpy dtype name of every value.

    `notes` say what the manifest has to tell of how the file was read.
    """

    nodes: list[Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    readers: dict[str, list[Node]] = field(default_factory=dict)
    writers: dict[str, Node] = field(default_factory=dict)
    quantizers: dict[Node, Quantizer | None] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def connect(self) -> None:
        """Find the readers and writers of every value; after nodes were changed, again."""
        self.readers.clear()
        self.writers.clear()
        for node in self.nodes:
            self.writers.update({name: node for name in node.outputs if name})
            for name in node.inputs:
                if name:
                    self.readers.setdefault(name, []).append(node)

    def quantizer(self, node: Node) -> Quantizer | None:
        """What a (de)quantizer does; None when its parameters are not constant, or of other types."""
        if node not in self.quantizers:
            self.quantizers[node] = self._read_quantizer(node)
        return self.quantizers[node]

    def _read_quantizer(self, node: Node) -> Quantizer | None:
        scale = self.constants.get(node.inputs[1])
        given = node.inputs[2] if len(node.inputs) > 2 else ""
        zero = self.constants.get(given) if given else None
        if scale is None or (given and zero is None):
            return None
        if zero is not None:
            dtype = str(zero.dtype)
        elif node.op_type == "DequantizeLinear":
            dtype = self.dtypes.get(node.inputs[0], "")
        else:
            dtype = "uint8"
        if dtype not in _CODES or scale.dtype != np.float32:
            return None
        zeros = np.zeros(1, np.int64) if zero is None else np.atleast_1d(zero).astype(np.int64).ravel()
        if np.any(zeros != zeros[0]) or scale.ndim > 1 or int(node.attributes.get("block_size", 0)):
            return None
        axis = int(node.attributes.get("axis", 1))
        rank = len(self.shapes[node.inputs[0]])
        shift = 128 if dtype == "uint8" else 0
        quant = Quant(
            scales=tuple(float(s) for s in np.atleast_1d(scale).ravel()),
            zero_point=int(zeros[0]) - shift,
            axis=axis % rank if scale.size > 1 else 0,
            codes="int8" if dtype == "uint8" else dtype,
        )
        return Quantizer(quant=quant, shift=shift)

    def activation_codes(self) -> set[str]:
        """The dtypes of the quantized activations."""
        found = [self.quantizer(node) for node in self.nodes if node.op_type == "QuantizeLinear"]
        return {quantizer.quant.codes for quantizer in found if quantizer is not None}

    def declared(self, node: Node) -> bool:
        """Whether the codes of this (de)quantizer are a tensor with a scale; else they are plain integers.

        Plain: codes that enter or leave the model, computed parameters, uint8 codes (which are kept shifted)
        that anything but their own dequantizer reads.
        """
        quantizer = self.quantizer(node)
        if node.op_type == "DequantizeLinear":
            if node.inputs[0] in self.constants:
                return True
            writer = self.writers.get(node.inputs[0])
            while writer is not None and writer.op_type != "QuantizeLinear" and writer.inputs:
                writer = self.writers.get(writer.inputs[0])
            return writer is not None and self.quantizer(writer) == quantizer and self.declared(writer)
        if quantizer is None or not quantizer.activation:
            return False
        readers = self.readers.get(node.outputs[0], [])
        return node.outputs[0] not in self.outputs and all(
            self.quantizer(reader) == quantizer
            if reader.op_type == "DequantizeLinear"
            else not quantizer.shift
            for reader in readers
        )


def read_graph(path: Path, whole: Collection[str] = ()) -> tuple[OnnxGraph | None, list[Reason]]:
    """Read an ONNX file. Reasons name what has no static shape or cannot be read; then the graph is None.

    Function operators that are not in `whole` become their bodies, decided control flow becomes plain nodes.
    """
    onnx = require("onnx", needed_for="reading the graph to lower")
    model, weights = read_apart(path)
    model, notes = widen(expand_functions(expand_qlinear(model), whole), weights)
    while True:
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        result, reasons = _read(model, weights, onnx)
        model, unfolded = unfold(model, result.constants, result.shapes)
        if unfolded:
            model = expand_functions(model, whole)
        elif not reasons or not _bake(model, result, onnx):
            break
    result.notes = notes
    return (None, reasons) if reasons else (result, [])


def _bake(model: Any, result: OnnxGraph, onnx: Any) -> bool:
    """Store what was folded, for another inference of shapes; False when there was nothing."""
    kept = {name for node in result.nodes for name in node.outputs} | {*result.outputs}
    gone = [n for n in model.graph.node if not any(name in kept for name in n.output)]
    for node in gone:
        model.graph.node.remove(node)
        tensors = [onnx.numpy_helper.from_array(result.constants[n], n) for n in node.output if n]
        model.graph.initializer.extend(tensors)
    return bool(gone)


def _read(model: Any, weights: Mapping[str, Array], onnx: Any) -> tuple[OnnxGraph, list[Reason]]:
    graph = model.graph
    constants = {
        t.name: weights[t.name] if t.name in weights else onnx.numpy_helper.to_array(t)
        for t in graph.initializer
    }
    shapes, dtypes, reasons = _value_types(graph, onnx)
    for name, array in constants.items():
        shapes[name], dtypes[name] = array.shape, str(array.dtype)
    result = OnnxGraph(
        nodes=[],
        inputs=tuple(i.name for i in graph.input if i.name not in constants),
        outputs=tuple(o.name for o in graph.output),
        constants=constants,
        shapes=shapes,
        dtypes=dtypes,
    )
    for index, proto in enumerate(graph.node):
        node = _node(proto, index, onnx)
        if folded := _fold(node, proto, result, model.opset_import, onnx):
            result.constants.update(folded)
            for name, array in folded.items():
                result.shapes[name], result.dtypes[name] = array.shape, str(array.dtype)
            continue
        missing = [name for name in node.outputs if name and name not in result.shapes]
        if missing:
            why = f"the shape of {missing[0]!r}, output of {node.op_type}, is not static"
            reasons.append(
                Reason(node=node.name, why=why, hint="fix the shapes of the inputs: --shape NAME=…")
            )
        result.nodes.append(node)
    result.connect()
    return result, reasons


def _value_types(graph: Any, onnx: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, str], list[Reason]]:
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}
    reasons = []
    constants = {t.name for t in graph.initializer}
    for info in (*graph.input, *graph.value_info, *graph.output):
        kind = info.type.tensor_type
        if kind.elem_type:
            dtypes[info.name] = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[info.name] = tuple(d.dim_value for d in kind.shape.dim)
    for info in graph.input:
        if info.name not in shapes and info.name not in constants:
            why = f"the input {info.name!r} has no static shape"
            reasons.append(Reason(why=why, hint=f"fix it: --shape {info.name}=…"))
    return shapes, dtypes, reasons


def _node(proto: Any, index: int, onnx: Any) -> Node:
    op_type = proto.op_type
    if proto.domain not in ("", "ai.onnx"):
        op_type = f"{proto.domain}::{op_type}"
    first = next((name for name in proto.output if name), str(index))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}
    return Node(
        name=proto.name or f"{op_type}({first})",
        op_type=op_type,
        inputs=tuple(proto.input),
        outputs=tuple(proto.output),
        attributes={k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()},
    )


def _fold(node: Node, proto: Any, graph: OnnxGraph, opsets: Any, onnx: Any) -> dict[str, Array]:
    """The values of a node that computes from constants or static shapes alone; empty when it does not."""
    if node.op_type == "Shape" and node.inputs[0] in graph.shapes:
        shape = graph.shapes[node.inputs[0]]
        start, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
        return {node.outputs[0]: np.asarray(shape[start:end], np.int64)}
    if node.op_type == "Size" and node.inputs[0] in graph.shapes:
        return {node.outputs[0]: np.asarray(np.prod(graph.shapes[node.inputs[0]], dtype=np.int64))}
    constant = all(not name or name in graph.constants for name in node.inputs)
    if not constant or node.op_type == "DequantizeLinear" or (not node.inputs and node.op_type != "Constant"):
        return {}
    if any(np.prod(graph.shapes.get(name, ()), dtype=np.int64) > _FOLD_LIMIT for name in node.outputs):
        return {}
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in proto.attribute):
        return {}
    inputs = [name for name in dict.fromkeys(node.inputs) if name]
    outputs = [name for name in node.outputs if name]
    blank = onnx.ValueInfoProto
    alone = onnx.helper.make_graph(
        [proto], "fold", [blank(name=n) for n in inputs], [blank(name=n) for n in outputs]
    )
    evaluator = require("onnx.reference").ReferenceEvaluator(
        onnx.helper.make_model(alone, opset_imports=opsets)
    )
    values = evaluator.run(outputs, {name: graph.constants[name] for name in inputs})
    return {name: np.asarray(value) for name, value in zip(outputs, values, strict=True)}
