"""Turns a planned ONNX graph into the TensorFlow Lite graph, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from edgekit.backends.tflite.constants import Constants
from edgekit.backends.tflite.ir import Array, Graph, Operator, OptionValue, Port, Quant, Tensor
from edgekit.backends.tflite.lowering.quantized import dequantize, quantize
from edgekit.backends.tflite.onnx_graph import OnnxGraph, Quantizer
from edgekit.backends.tflite.op import DTYPES, MAX_RANK, Op, Refusal
from edgekit.backends.tflite.plan import Lowering, Step, make_plan, quant_after
from edgekit.errors import Reason, nearest

__all__ = ["Builder"]

_INSIDE = ("bfloat16",)  # dtypes that no port has: numpy lacks them


class Builder:
    """Lowers a whole ONNX graph; `reasons` collects every node that cannot be lowered.

    `values` holds the tensor of an ONNX value as its own dtype, `integers` the tensor of codes of a
    float value that is known in quantized form, `stored` the quantizer of a constant that is.
    """

    def __init__(
        self, source: OnnxGraph, table: Mapping[str, Lowering], *, quantized_io: bool = False
    ) -> None:
        self.source = source
        self.constants = source.constants = Constants(source.constants)
        self.table = table
        self.quantized_io = quantized_io
        self.graph = Graph(notes=list(source.notes))
        self.values: dict[str, Tensor] = {}
        self.integers: dict[str, Tensor] = {}
        self.stored: dict[str, Quantizer] = {}
        self.reasons: list[Reason] = []

    def build(self) -> Graph:
        """Lower every node in order, and declare the ports (all still in the source's layout)."""
        for name in self.source.inputs:
            self._input(name)
        for step in make_plan(self.source, self.table):
            self._step(step)
        for name in self.source.outputs:
            self._check_output(name)
            tensor = self.integers.get(name) if self.quantized_io else None
            self.graph.outputs.append(Port(name=name, tensor=tensor or self.value(name)))
        return self.graph

    def _input(self, name: str) -> None:
        dtype, shape = self.source.dtypes[name], self.source.shapes[name]
        quant = quant_after(self.source, name) if self.quantized_io else None
        if quant is not None:
            tensor = Tensor(name=name, shape=shape, dtype=quant.codes, quant=quant)
            self.integers[name] = tensor
        else:
            tensor = Tensor(name=name, shape=shape, dtype=dtype)
            self.values[name] = tensor
        if dtype not in DTYPES:
            self.reasons.append(
                Reason(why=f"the input {name!r} is {dtype}; LiteRT here takes {', '.join(DTYPES)}")
            )
        self.graph.inputs.append(Port(name=name, tensor=tensor))

    def _check_output(self, name: str) -> None:
        dtype, shape = self.source.dtypes.get(name, "float32"), self.source.shapes.get(name, ())
        if dtype not in DTYPES:
            self.reasons.append(
                Reason(why=f"the output {name!r} is {dtype}", hint=f"allowed: {', '.join(DTYPES)}")
            )
        if 0 in shape:
            self.reasons.append(Reason(why=f"the output {name!r} is empty: {shape}", hint="remove it"))

    def _step(self, step: Step) -> None:
        node = step.node
        try:
            if node.op_type == "QuantizeLinear":
                self._quantize(step)
            elif node.op_type == "DequantizeLinear":
                self._dequantize(step)
            elif (lowering := self.table.get(node.op_type)) is None:
                hint = f"{nearest(node.op_type, self.table)}; the list is in edgekit.backends.tflite.lowering"
                raise Refusal(f"{node.op_type} has no lowering to LiteRT", hint)
            else:
                self._check_types(step, lowering)
                lowering.emit(Op(self, step))
        except Refusal as refusal:
            self.reasons.append(Reason(node=node.name, why=refusal.why, hint=refusal.hint))
        for name in step.outputs:  # a refused node leaves a stand-in: the nodes behind it are judged too
            if name and not any(
                name in known for known in (self.values, self.integers, self.source.constants)
            ):
                shape, dtype = self.source.shapes[name], self.source.dtypes.get(name, "float32")
                self.values[name] = Tensor(name=name, shape=shape, dtype=dtype)

    def _check_types(self, step: Step, lowering: Lowering) -> None:
        data = step.node.inputs[lowering.data]
        dtype = self.source.dtypes.get(data, "float32")
        if dtype not in lowering.dtypes:
            allowed = ", ".join(lowering.dtypes)
            raise Refusal(f"{step.node.op_type} of {dtype}", f"LiteRT's kernel takes {allowed}: cast first")
        for name in (*step.node.inputs, *step.outputs):
            if name and name not in self.source.constants and 0 in self.source.shapes.get(name, ()):
                raise Refusal(f"{name!r} is empty: {self.source.shapes[name]}", "LiteRT has no empty tensors")
            if name and self.source.dtypes.get(name, "float32") not in (*DTYPES, *_INSIDE):
                dtype = self.source.dtypes[name]
                raise Refusal(f"{name!r} is {dtype}", f"LiteRT here takes {', '.join(DTYPES)}")
            if name and len(self.source.shapes.get(name, ())) > MAX_RANK:
                raise Refusal(
                    f"{name!r} has {len(self.source.shapes[name])} dimensions, the limit is {MAX_RANK}"
                )

    def _quantize(self, step: Step) -> None:
        name, result = step.node.inputs[0], step.node.outputs[0]
        quantizer = self.source.quantizer(step.node)
        if not self.source.declared(step.node):
            quantize(Op(self, step))
            return
        if quantizer is None or not quantizer.activation:
            raise Refusal("only int8, uint8 and int16 with one constant scale are lowered")
        if quantizer.quant.codes == "int16" and quantizer.quant.zero_point:
            raise Refusal("int16 activations with a zero point", "LiteRT's int16 kernels take 0 alone")
        known = self.integers.get(name)
        if known is None or known.quant != quantizer.quant:
            value = self.value(name)
            known = Tensor(
                name=name, shape=value.shape, dtype=quantizer.quant.codes, quant=quantizer.quant
            )
            self.operator("QUANTIZE", [value], [known], origin=step.node.name)
            self.integers.setdefault(name, known)
        self.values[result] = known

    def _dequantize(self, step: Step) -> None:
        name, result = step.node.inputs[0], step.node.outputs[0]
        quantizer = self.source.quantizer(step.node)
        if not self.source.declared(step.node):
            dequantize(Op(self, step))
            return
        if quantizer is None:
            raise Refusal("the parameters are not constant, or not of 4, 8, 16 or 32 bits")
        if name in self.source.constants:
            codes = self.source.constants[name]
            floats = partial(_dequantized, codes, quantizer.quant, quantizer.shift)
            self.constants.defer(result, floats, codes)
            self.stored[result] = quantizer
            return
        known = self.values.get(name)
        if known is None or known.quant != quantizer.quant:
            raise Refusal("it reads codes that no quantizer with the same parameters wrote")
        self.integers[result] = known

    def value(self, name: str) -> Tensor:
        """The tensor of an ONNX value in its own dtype: a constant, or dequantized on demand."""
        if name in self.values:
            return self.values[name]
        if name in self.source.constants:
            data = self.source.constants[name]
            tensor = Tensor(name=name, shape=data.shape, dtype=str(data.dtype), data=data)
        else:
            codes = self.integers[name]
            tensor = Tensor(name=name, shape=codes.shape)
            self.operator("DEQUANTIZE", [codes], [tensor], origin=name)
        self.values[name] = tensor
        return tensor

    def operator(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        outputs: Sequence[Tensor],
        *,
        origin: str,
        options: Mapping[str, OptionValue] | None = None,
    ) -> None:
        """Append an operator."""
        self.graph.operators.append(
            Operator(
                kind=kind, inputs=list(inputs), outputs=list(outputs), options=options or {}, origin=origin
            )
        )


def _dequantized(codes: Array, quant: Quant, shift: int) -> Array:
    shape = [1] * codes.ndim
    if len(quant.scales) > 1:
        shape[quant.axis] = len(quant.scales)
    scales = np.asarray(quant.scales, np.float32).reshape(shape)
    centred = codes.astype(np.int64) - shift - quant.zero_point
    return (centred.astype(np.float32) * scales).astype(np.float32)
