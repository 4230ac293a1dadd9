"""Operators that move values: reshape, transpose, join, cut, pad."""

from __future__ import annotations

from math import prod
from typing import Any

from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "broadcast_to", "cat", "depth_to_space", "pad", "slices", "space_to_depth"]


def reshape(op: Op) -> Any:
    before, after = op.shape(0), op.output_shape()
    if len(after) == 2 and len(before) > 2 and after == (before[0], prod(before[1:])):
        return op.call("flatten", op.tensor(0), 1)
    return op.call("reshape", op.tensor(0), list(after))


def flatten(op: Op) -> Any:
    axis = op.attribute("axis", 1) % (len(op.shape(0)) + 1)
    if axis == 1 and len(op.shape(0)) > 1:
        return op.call("flatten", op.tensor(0), 1)
    return op.call("reshape", op.tensor(0), list(op.output_shape()))


def transpose(op: Op) -> Any:
    rank = len(op.shape(0))
    return op.call("permute", op.tensor(0), list(op.attribute("perm", range(rank - 1, -1, -1))))


def squeeze(op: Op) -> Any:
    axes = op.integers(1) if op.has(1) else [i for i, d in enumerate(op.shape(0)) if d == 1]
    rank = len(op.shape(0))
    return op.call("squeeze", op.tensor(0), [a % rank for a in axes])


def unsqueeze(op: Op) -> Any:
    rank, x = len(op.output_shape()), op.tensor(0)
    for axis in sorted(a % rank for a in op.integers(1)):
        x = op.call("unsqueeze", x, axis)
    return x


def cat(tensors: list[Any], axis: int) -> Any:
    """Tensors joined along an axis; one whose first axis is 1 is repeated to the batch of the others."""
    import torch

    batch = max(t.shape[0] for t in tensors)
    if axis and any(t.shape[0] != batch for t in tensors):
        tensors = [t if t.shape[0] == batch else t.expand(batch, *t.shape[1:]) for t in tensors]
    return torch.cat(tensors, axis)


def concat(op: Op) -> Any:
    axis = op.attribute("axis") % len(op.output_shape())
    constants = any(op.constant(i) is not None for i in range(len(op.node.input)))
    return op.call(cat if constants else "cat", op.tensors(), axis)


def split(op: Op) -> Any:
    axis = op.attribute("axis", 0) % len(op.shape(0))
    sizes = [op.output_shape(i)[axis] for i in range(len(op.node.output))]
    parts = op.call("split", op.tensor(0), sizes, axis)
    import operator

    return [op.call(operator.getitem, parts, i) for i in range(len(sizes))]


def slices(x: Any, starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> Any:
    """x cut along axes as the operator Slice does, negative steps included."""
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = x.shape[axis]
        first, last, stride = slice(start, end if end > -size - 1 or step > 0 else None, step).indices(size)
        if step > 0:
            x = x[(slice(None),) * axis + (slice(first, max(first, last), stride),)]
        else:
            begin, end = size - 1 - first, size - 1 - last  # the same places, counted from the other end
            x = x.flip(axis)[(slice(None),) * axis + (slice(begin, max(begin, end), -step),)]
    return x


def emit_slice(op: Op) -> Any:
    rank = len(op.shape(0))
    starts, ends = op.integers(1), op.integers(2)
    axes = [a % rank for a in op.integers(3)] if op.has(3) else list(range(len(starts)))
    steps = op.integers(4) if op.has(4) else [1] * len(starts)
    return op.call(slices, op.tensor(0), starts, ends, axes, steps)


def broadcast_to(x: Any, shape: list[int]) -> Any:
    """x broadcast with `shape`, as the operator Expand: sizes of 1 in `shape` ask for nothing."""
    import torch

    return x.expand(torch.broadcast_shapes(x.shape, shape))


def expand(op: Op) -> Any:
    return op.call(broadcast_to, op.tensor(0), op.integers(1))


def tile(op: Op) -> Any:
    return op.call("tile", op.tensor(0), op.integers(1))


def pad(x: Any, pairs: list[int], mode: str, value: float) -> Any:
    """x padded; `pairs` as torch counts them, the last axis first; negative ones cut."""
    from torch.nn import functional

    if mode == "constant":
        return functional.pad(x, pairs, "constant", value)
    first = min((i for i, p in enumerate(pairs[::-1]) if p), default=0) // 2  # leading axes without pads
    rank = len(pairs) // 2
    kept = pairs[: 2 * (rank - first)]
    flat = x.reshape(-1, 1, *x.shape[first:]) if first else x[None, None]
    padded = functional.pad(flat, kept, {"edge": "replicate", "reflect": "reflect", "wrap": "circular"}[mode])
    return padded.reshape(*x.shape[:first], *padded.shape[2:])


def emit_pad(op: Op) -> Any:
    rank = len(op.shape(0))
    amounts = op.integers(1)
    axes = [a % rank for a in op.integers(3)] if op.has(3) else list(range(rank))
    begins, ends = [0] * rank, [0] * rank
    for axis, begin, end in zip(axes, amounts[: len(axes)], amounts[len(axes) :], strict=True):
        begins[axis], ends[axis] = begin, end
    pairs = [p for both in zip(begins[::-1], ends[::-1], strict=True) for p in both]
    mode = op.attribute("mode", "constant")
    if mode == "constant":
        while len(pairs) > 2 and pairs[-2:] == [0, 0]:
            pairs = pairs[:-2]
    elif sum(1 for b, e in zip(begins, ends, strict=True) if b or e) > 3:
        raise op.refuse(f"{mode} pads along more than three axes")
    return op.call(pad, op.tensor(0), pairs, mode, op.number(2, 0.0))


def depth_to_space(x: Any, block: int, columns_first: bool) -> Any:
    """The operator DepthToSpace; `columns_first` is its mode CRD."""
    n, c, h, w = x.shape
    if columns_first:
        y = x.reshape(n, c // block**2, block, block, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        y = x.reshape(n, block, block, c // block**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // block**2, h * block, w * block)


def emit_depth_to_space(op: Op) -> Any:
    crd = op.attribute("mode", "DCR") == "CRD"
    return op.call(depth_to_space, op.tensor(0), op.attribute("blocksize"), crd)


def space_to_depth(x: Any, block: int) -> Any:
    """The operator SpaceToDepth."""
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // block, block, w // block, block).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * block**2, h // block, w // block)


def emit_space_to_depth(op: Op) -> Any:
    return op.call(space_to_depth, op.tensor(0), op.attribute("blocksize"))


OPERATORS: dict[str, Emitter] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Concat": concat,
    "Split": split,
    "Slice": emit_slice,
    "Expand": expand,
    "Tile": tile,
    "Pad": emit_pad,
    "DepthToSpace": emit_depth_to_space,
    "SpaceToDepth": emit_space_to_depth,
}
