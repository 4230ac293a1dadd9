"""A small TensorFlow Lite graph in memory: tensors, operators, and the ports of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Graph", "Operator", "OptionValue", "Port", "Quant", "Tensor", "reshape", "size_of"]

Array = NDArray[Any]
OptionValue = int | float | bool | str | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quant:
    """real = scale * (integer - zero_point); one scale, or one for each index along `axis`.

    Scales are float32 values held as Python floats, so equality is exact. `codes`: their integers' dtype.
    """

    scales: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0
    codes: str = "int8"

    @property
    def scale(self) -> float:
        """The scale of a tensor quantized as a whole."""
        (value,) = self.scales
        return value

    def __str__(self) -> str:
        if len(self.scales) > 1:
            return f"{len(self.scales)} scales along axis {self.axis}"
        return f"scale {self.scales[0]!r}, zero point {self.zero_point}"


@dataclass(slots=True, kw_only=True, eq=False)
class Tensor:
    """A value. `name` is that of the ONNX value it holds, in whatever layout; the writer makes names unique.

    `dtype` is a numpy name, or "int4". `data` is set for a constant and has the tensor's shape and dtype
    (int8 for int4: the writer packs two to a byte). `signature` is the shape with -1 for
    each dynamic dimension, empty when there is none.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    data: Array | None = None
    quant: Quant | None = None
    signature: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """The number of elements."""
        return size_of(self.shape)


@dataclass(slots=True, kw_only=True, eq=False)
class Operator:
    """One builtin operator.

    `kind` is its name in the schema (CONV_2D), `options` its option table in snake case (stride_w), `origin`
    the ONNX node it was lowered from. An optional input that is left out is None.
    """

    kind: str
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    origin: str = ""

    @property
    def output(self) -> Tensor:
        """The only output."""
        (tensor,) = self.outputs
        return tensor


@dataclass(slots=True, kw_only=True)
class Port:
    """An input or output of the model.

    `name` is the ONNX name; `axes` the permutation from the source's layout (artifact is
    source.transpose(axes)), empty when the layout is the source's.
    """

    name: str
    tensor: Tensor
    axes: tuple[int, ...] = ()


@dataclass(slots=True, kw_only=True)
class Graph:
    """Operators in the order in which they run, the ports, and what the manifest has to say of them."""

    operators: list[Operator] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def producers(self) -> dict[Tensor, Operator]:
        """The operator that writes each tensor."""
        return {tensor: op for op in self.operators for tensor in op.outputs}

    def consumers(self) -> dict[Tensor, list[Operator]]:
        """The operators that read each tensor (twice when twice)."""
        readers: dict[Tensor, list[Operator]] = {}
        for op in self.operators:
            for tensor in op.inputs:
                if tensor is not None:
                    readers.setdefault(tensor, []).append(op)
        return readers

    def count(self, kind: str) -> int:
        """How many operators of this kind there are."""
        return sum(op.kind == kind for op in self.operators)


def reshape(x: Tensor, output: Tensor, *, origin: str) -> Operator:
    """RESHAPE of `x` to the shape of `output`."""
    shape = np.asarray(output.shape, np.int32)
    if not output.shape:  # a scalar: an empty constant is none to the engine, this is its old spelling
        return Operator(
            kind="RESHAPE", inputs=[x], outputs=[output], options={"new_shape": (0,)}, origin=origin
        )
    parameter = Tensor(name=f"{output.name}/shape", shape=shape.shape, dtype="int32", data=shape)
    options = {"new_shape": output.shape}
    return Operator(kind="RESHAPE", inputs=[x, parameter], outputs=[output], options=options, origin=origin)


def size_of(shape: Sequence[int]) -> int:
    """The number of elements of a shape."""
    total = 1
    for dim in shape:
        total *= dim
    return total
