"""Shape parameters that follow a dynamic dimension: computed in the file from the shape of the operand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgekit.backends.tflite.ir import Array, Operator, OptionValue, Tensor

__all__ = ["Follows", "compute", "follows", "operand"]

# Element `index` of a parameter may follow dimension `index + offset` of the operand. RESHAPE takes any.
_OFFSETS = {
    ("TRANSPOSE_CONV", 0): 0,
    ("RESIZE_BILINEAR", 1): 1,
    ("RESIZE_NEAREST_NEIGHBOR", 1): 1,
    ("SLICE", 2): 0,
}
_OPERANDS = {"TRANSPOSE_CONV": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Follows:
    """parameter[i] = shape[axes[i]] * factors[i] + offsets[i]; a fixed element has the factor 0."""

    axes: tuple[int, ...]
    factors: tuple[int, ...]
    offsets: tuple[int, ...]


def operand(op: Operator) -> Tensor:
    """The tensor whose shape a parameter of `op` may follow."""
    tensor = op.inputs[_OPERANDS.get(op.kind, 0)]
    assert tensor is not None
    return tensor


def follows(
    kind: str, place: int, values: Sequence[Array], shapes: Sequence[tuple[int, ...]]
) -> Follows | None:
    """How input `place` of an operator follows its operand, from both in every size; None when it does not.

    Only the dimension that the element stands for is asked, so no size is taken for another that happens to
    grow with it; a RESHAPE takes over dimensions as they are, and leaves at most one to be worked out.
    """
    found: list[tuple[int, int, int]] = []
    for index, column in enumerate(zip(*(value.tolist() for value in values), strict=True)):
        if len(set(column)) == 1:
            found.append((0, 0, int(column[0])))
        elif kind == "RESHAPE" and place == 1:
            axis = next((a for a, dims in enumerate(zip(*shapes, strict=True)) if dims == column), None)
            found.append((0, 0, -1) if axis is None else (axis, 1, 0))
        elif (kind, place) in _OFFSETS:
            axis = index + _OFFSETS[kind, place]
            line = _line([dims[axis] for dims in shapes], column)
            if line is None:
                return None
            found.append((axis, *line))
        else:
            return None
    if sum(element == (0, 0, -1) for element in found) > 1:
        return None
    axes, factors, offsets = zip(*found, strict=True)
    return Follows(axes=axes, factors=factors, offsets=offsets)


def _line(sizes: Sequence[int], values: Sequence[int]) -> tuple[int, int] | None:
    """The whole (factor, offset) with values = factor * sizes + offset, at three sizes or more."""
    if len(set(sizes)) < 3:
        return None
    rise, run = values[1] - values[0], sizes[1] - sizes[0]
    if run == 0 or rise % run:
        return None
    factor = rise // run
    offset = values[0] - factor * sizes[0]
    fits = all(factor * size + offset == value for size, value in zip(sizes, values, strict=True))
    return (factor, offset) if fits else None


def compute(rule: Follows, x: Tensor, old: Tensor, *, origin: str) -> tuple[Tensor, list[Operator]]:
    """The parameter in place of the constant `old`, and the operators that compute it from `x`'s shape."""
    operators: list[Operator] = []

    def emit(kind: str, inputs: list[Tensor], shape: tuple[int, ...], **options: OptionValue) -> Tensor:
        y = Tensor(name=f"{old.name}/{kind.lower()}", shape=shape, dtype="int32")
        operators.append(Operator(kind=kind, inputs=[*inputs], outputs=[y], options=options, origin=origin))
        return y

    def constant(name: str, values: tuple[int, ...]) -> Tensor:
        data = np.asarray(values, np.int32)
        return Tensor(name=f"{old.name}/{name}", shape=data.shape, dtype="int32", data=data)

    count = (len(rule.axes),)
    value = emit("SHAPE", [x], (len(x.shape),), out_type="int32")
    value = emit("GATHER", [value, constant("axes", rule.axes)], count, axis=0, batch_dims=0)
    if set(rule.factors) != {1}:
        factors = constant("factors", rule.factors)
        value = emit("MUL", [value, factors], count, fused_activation_function="NONE")
    if set(rule.offsets) != {0}:
        offsets = constant("offsets", rule.offsets)
        value = emit("ADD", [value, offsets], count, fused_activation_function="NONE")
    return value, operators
