"""`Op`: what a lowering function works with, and the small vocabulary around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from edgekit.backends.tflite.ir import Array, OptionValue, Quant, Tensor, reshape
from edgekit.backends.tflite.plan import Activation, Step

if TYPE_CHECKING:
    from edgekit.backends.tflite.builder import Builder

__all__ = ["DTYPES", "MAX_RANK", "Op", "Refusal", "Weight", "inverse", "permuted"]

T = TypeVar("T")
DTYPES = ("float32", "int8", "int32", "int64", "bool", "uint8", "int16", "uint16", "uint32", "float16")
MAX_RANK = 6


class Refusal(Exception):
    """Raised by a lowering: why this node cannot be lowered, and what would help."""

    def __init__(self, why: str, hint: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.hint = hint


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A constant operand: int8 codes with their quantization, or float32 values without one."""

    values: Array
    quant: Quant | None = None

    def transpose(self, axes: Sequence[int]) -> Weight:
        """The same weight with its axes permuted; the axis of the scales follows."""
        quant = self.quant
        if quant is not None and len(quant.scales) > 1:
            quant = replace(quant, axis=tuple(axes).index(quant.axis))
        return Weight(values=np.ascontiguousarray(self.values.transpose(axes)), quant=quant)

    def reshape(self, shape: Sequence[int], axis: int) -> Weight:
        """The same weight in another shape, its scales along `axis` of that shape."""
        quant = self.quant
        if quant is not None and len(quant.scales) > 1:
            quant = replace(quant, axis=axis)
        return Weight(values=np.ascontiguousarray(self.values.reshape(shape)), quant=quant)


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    result = [0] * len(perm)
    for position, axis in enumerate(perm):
        result[axis] = position
    return tuple(result)


def permuted(shape: Sequence[int], perm: Sequence[int]) -> tuple[int, ...]:
    """The shape after a transpose by `perm`."""
    return tuple(shape[axis] for axis in perm)


class Op:
    """One step being lowered: reads attributes and operands, emits operators, declares results.

    In integer mode activations are tensors of `codes` (int8 or int16) and results carry `quant`; otherwise
    everything is float.
    """

    def __init__(self, builder: Builder, step: Step) -> None:
        self.builder = builder
        self.step = step
        self.node = step.node
        self.integer = step.integer
        self._pending: Activation = step.activation

    # -- the ONNX side ------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the first value this step computes."""
        return next(name for name in self.step.outputs if name)

    @property
    def quant(self) -> Quant | None:
        """The quantization of the results; None in float mode."""
        return self.step.quant if self.integer else None

    @property
    def codes(self) -> str:
        """The dtype of the codes that an integer step computes: int8, or int16."""
        return self.step.quant.codes if self.step.quant is not None else "int8"

    def attr(self, name: str, default: T) -> T:
        """An attribute, or `default`; lists become tuples."""
        value = self.node.attributes.get(name, default)
        return tuple(value) if isinstance(value, list) else value  # type: ignore[return-value]

    def has(self, index: int) -> bool:
        """Whether input `index` is given."""
        return index < len(self.node.inputs) and self.node.inputs[index] != ""

    def shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of input `index`, in the source's layout."""
        return self.builder.source.shapes[self.node.inputs[index]]

    def dtype(self, index: int = 0) -> str:
        """The ONNX dtype of input `index`."""
        return self.builder.source.dtypes[self.node.inputs[index]]

    def out_shape(self, index: int = 0) -> tuple[int, ...]:
        """The shape of output `index`, in the source's layout."""
        return self.builder.source.shapes[self.step.outputs[index]]

    def out_dtype(self, index: int = 0) -> str:
        """The ONNX dtype of output `index`."""
        return self.builder.source.dtypes[self.step.outputs[index]]

    def constant(self, index: int) -> Array | None:
        """The values of input `index` when it is constant (dequantized when it is quantized)."""
        return self.builder.source.constants.get(self.node.inputs[index]) if self.has(index) else None

    def known(self, index: int) -> bool:
        """Whether input `index` is constant; floats of a quantized one are not computed for the question."""
        return self.has(index) and self.node.inputs[index] in self.builder.source.constants

    def ints(self, index: int, default: Sequence[int] | None = None) -> tuple[int, ...]:
        """Input `index` as constant whole numbers; refuses when it is computed."""
        if not self.has(index) and default is not None:
            return tuple(default)
        values = self.constant(index)
        if values is None:
            name = self.node.inputs[index] if self.has(index) else f"#{index}"
            raise Refusal(
                f"{self.node.op_type} with computed {name!r}", "make it constant: fix the input shapes"
            )
        return tuple(int(v) for v in values.ravel())

    # -- operands -----------------------------------------------------------------------------------------

    def input(self, index: int = 0) -> Tensor:
        """Operand `index` in this step's mode: codes in integer mode, else as ONNX has it."""
        name = self.node.inputs[index]
        if not self.integer:
            return self.builder.value(name)
        known = self.builder.integers.get(name)
        if known is not None:
            return known
        weight = self.weight(index)
        return self.const(weight.values, weight.quant, name=name)

    def weight(self, index: int) -> Weight:
        """Constant operand `index`: codes and scales in integer mode, else values."""
        source, name = self.builder.source, self.node.inputs[index]
        if not self.integer:
            return Weight(values=source.constants[name])
        writer = source.writers[name]
        quantizer = source.quantizer(writer)
        if quantizer is None:
            raise Refusal(f"the quantizer of {name!r} is not constant")
        codes = source.constants[writer.inputs[0]]
        if quantizer.shift:
            codes = (codes.astype(np.int16) - quantizer.shift).astype(np.int8)
        return Weight(values=codes, quant=quantizer.quant)

    def const(self, data: Array, quant: Quant | None = None, *, name: str = "") -> Tensor:
        """A constant tensor."""
        data = np.ascontiguousarray(data).reshape(np.shape(data))
        return Tensor(
            name=name or f"{self.name}/const", shape=data.shape, dtype=str(data.dtype), data=data, quant=quant
        )

    def indices(self, values: Sequence[int]) -> Tensor:
        """A constant int32 vector (axes, sizes, paddings)."""
        return self.const(np.asarray(values, np.int32))

    def scalar(self, value: float) -> Tensor:
        """A constant float32 scalar."""
        return self.const(np.asarray(value, np.float32))

    # -- operators ----------------------------------------------------------------------------------------

    @property
    def activation(self) -> Activation:
        """The fused activation; reading it promises that the operator being emitted applies it."""
        taken, self._pending = self._pending, "NONE"
        return taken

    def emit(
        self,
        kind: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        *,
        dtype: str = "",
        **options: OptionValue,
    ) -> Tensor:
        """An operator with one new output: codes with `quant` in integer mode, else float32 or `dtype`."""
        if not dtype:
            dtype = self.codes if self.integer else "float32"
        quant = self.quant if dtype == self.codes else None
        output = Tensor(name=self.name, shape=tuple(shape), dtype=dtype, quant=quant)
        self.builder.operator(kind, inputs, [output], origin=self.node.name, options=options)
        return output

    def move(
        self, kind: str, x: Tensor, shape: Sequence[int], *parameters: Tensor, **options: OptionValue
    ) -> Tensor:
        """An operator that moves values of `x`: dtype and quantization stay."""
        output = Tensor(name=self.name, shape=tuple(shape), dtype=x.dtype, quant=x.quant)
        self.builder.operator(kind, [x, *parameters], [output], origin=self.node.name, options=options)
        return output

    def transpose(self, x: Tensor, perm: Sequence[int]) -> Tensor:
        """x.transpose(perm)."""
        if tuple(perm) == tuple(range(len(x.shape))):
            return x
        return self.move("TRANSPOSE", x, permuted(x.shape, perm), self.indices(perm))

    def reshape(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """x.reshape(shape)."""
        if tuple(shape) == x.shape:
            return x
        output = Tensor(name=self.name, shape=tuple(shape), dtype=x.dtype, quant=x.quant)
        self.builder.graph.operators.append(reshape(x, output, origin=self.node.name))
        return output

    def expand(self, x: Tensor, rank: int) -> Tensor:
        """`x` with leading dimensions of 1 up to `rank`, as ONNX broadcasting sees it; constants directly."""
        if len(x.shape) >= rank:
            return x
        shape = (1,) * (rank - len(x.shape)) + x.shape
        if x.data is not None:
            return self.const(x.data.reshape(shape), x.quant, name=x.name)
        return self.reshape(x, shape)

    def result(self, tensor: Tensor, index: int = 0) -> None:
        """Declare `tensor` (in the source's layout) the value of output `index`."""
        name = self.step.outputs[index]
        if tensor.shape != self.out_shape(index):
            raise AssertionError(
                f"{self.node.name}: lowered to shape {tensor.shape}, ONNX says {self.out_shape(index)}"
            )
        if (pending := self.activation) != "NONE":
            tensor = self._activate(tensor, pending)
        if not self.integer:
            self.builder.values[name] = tensor
            return
        if self.step.clip is not None:
            tensor = self._clip(tensor, *self.step.clip)
        self.builder.integers[name] = tensor

    def _activate(self, tensor: Tensor, activation: Activation) -> Tensor:
        if not self.integer:
            return self.emit(activation, [tensor], tensor.shape)
        bounds = {"RELU": (0.0, float("inf")), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}[activation]
        return self._clip(tensor, *bounds)

    def _clip(self, codes: Tensor, low: float, high: float) -> Tensor:
        """Clip codes in a float island: XNNPACK has no int8 clip, requantizing to equal scales is exact."""
        shape = codes.shape
        value = self.emit("DEQUANTIZE", [codes], shape, dtype="float32")
        if low > -float("inf"):
            value = self.emit("MAXIMUM", [value, self.scalar(low)], shape, dtype="float32")
        if high < float("inf"):
            value = self.emit("MINIMUM", [value, self.scalar(high)], shape, dtype="float32")
        return self.emit("QUANTIZE", [value], shape)
