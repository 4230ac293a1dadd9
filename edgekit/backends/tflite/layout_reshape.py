"""When a RESHAPE may come before a TRANSPOSE, or pass its order on to the weights behind it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgekit.backends.tflite.ir import Operator, Tensor, size_of
from edgekit.backends.tflite.op import inverse

__all__ = ["flatten_readers", "group_axes", "moves_only_ones", "permute_columns"]

_UNARY = frozenset(
    (
        "ABS",
        "DEQUANTIZE",
        "ELU",
        "EXP",
        "GELU",
        "HARD_SWISH",
        "LEAKY_RELU",
        "LOGISTIC",
        "NEG",
        "QUANTIZE",
        "RELU",
        "RELU6",
        "RELU_N1_TO_1",
        "RSQRT",
        "SQRT",
        "SQUARE",
        "TANH",
    )
)


def moves_only_ones(shape: Sequence[int], perm: Sequence[int]) -> bool:
    """Whether a transpose of this shape leaves the elements in their order in memory."""
    kept = [axis for axis in perm if shape[axis] != 1]
    return kept == sorted(kept)


def permute_columns(
    before: Sequence[int], after: Sequence[int], perm: Sequence[int]
) -> NDArray[np.intp] | None:
    """For x = y.transpose(perm) of shape `before` flattened to `after` (N, K): each y column's column of x.

    None when the RESHAPE is not such a flattening.
    """
    if len(after) != 2 or perm[0] != 0 or after[0] != before[0]:
        return None
    order = np.arange(size_of(before[1:])).reshape((1, *before[1:]))
    return order.transpose(inverse(perm)).ravel()


def flatten_readers(
    tensor: Tensor, readers: Mapping[Tensor, Sequence[Operator]], ports: Collection[Tensor]
) -> list[Operator] | None:
    """The FULLY_CONNECTED operators with constant weights that are all that (elementwise) reads `tensor`."""
    found: list[Operator] = []
    waiting = [tensor]
    while waiting:
        value = waiting.pop()
        if value in ports or not readers.get(value):
            return None
        for op in readers[value]:
            if op.kind == "FULLY_CONNECTED" and op.inputs[0] is value and _constant_weights(op):
                found.append(op)
            elif op.kind in _UNARY or _scalar_binary(op, value):
                waiting.append(op.output)
            else:
                return None
    return list(dict.fromkeys(found))


def _constant_weights(op: Operator) -> bool:
    weight = op.inputs[1]
    if weight is None or weight.data is None:
        return False
    return weight.quant is None or len(weight.quant.scales) == 1 or weight.quant.axis == 0


def _scalar_binary(op: Operator, value: Tensor) -> bool:
    if op.kind not in ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"):
        return False
    other = op.inputs[1] if op.inputs[0] is value else op.inputs[0]
    return other is not None and other.data is not None and other.size == 1


def group_axes(
    before: Sequence[int], after: Sequence[int], perm: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """RESHAPE(y.transpose(perm)) as RESHAPE(y.transpose(gather), shape).transpose(axes).

    A RESHAPE splits or merges runs of neighbouring axes. `gather` brings the axes of each run together, in
    its order, and leaves the runs as they lie in y: the identity where they lie side by side. Returns
    (gather, shape, axes), or None where nothing is left to do behind the RESHAPE.
    """
    groups = _groups(before, after)
    if groups is None:
        return None
    placed = sorted(([perm[axis] for axis in source], target) for source, target in groups)
    gather = tuple(axis for source, _ in placed for axis in source)
    order = [axis for _, target in placed for axis in target]
    if order == list(range(len(after))):
        return None
    return gather, tuple(after[axis] for axis in order), inverse(order)


def _groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]] | None:
    """The smallest runs of axes of `before` and `after` with equal numbers of elements."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) and j < len(after):
        left, right = [i], [j]
        size_left, size_right = before[i], after[j]
        while size_left != size_right:
            if size_left < size_right:
                i += 1
                if i == len(before):
                    return None
                left.append(i)
                size_left *= before[i]
            else:
                j += 1
                if j == len(after):
                    return None
                right.append(j)
                size_right *= after[j]
        groups.append((left, right))
        i, j = i + 1, j + 1
    if not groups:
        return None
    groups[-1][0].extend(range(i, len(before)))
    groups[-1][1].extend(range(j, len(after)))
    if size_of(before[i:]) != 1 or size_of(after[j:]) != 1:
        return None
    return groups
