"""The float vocabulary of operators that are composed of several.

Every function takes tensors in the source's layout and answers one. What only constants feed is computed here
in float32 and costs nothing at run time; constant weights become FULLY_CONNECTED.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgekit.backends.tflite.ir import Array, Tensor
from edgekit.backends.tflite.op import Op

__all__ = [
    "add",
    "apply",
    "chunks",
    "concat",
    "cut",
    "div",
    "linear",
    "maximum",
    "minimum",
    "mul",
    "product",
    "select",
    "sub",
    "transpose",
    "view",
]

_PRODUCT_RANK = 5  # BATCH_MATMUL takes so many dimensions
_CONCAT_AT_ONCE = 5  # XNNPACK's CONCATENATION takes five operands


def _binary(kind: str, compute: Callable[[Array, Array], Array]) -> Callable[[Op, Tensor, Tensor], Tensor]:
    def emit(op: Op, a: Tensor, b: Tensor) -> Tensor:
        if a.data is not None and b.data is not None:
            return op.const(compute(a.data, b.data).astype(a.dtype))
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = (t if not t.shape else op.expand(t, len(shape)) for t in (a, b))
        options = {} if kind in ("MAXIMUM", "MINIMUM") else {"fused_activation_function": "NONE"}
        return op.emit(kind, [a, b], shape, dtype=a.dtype, **options)

    return emit


add = _binary("ADD", np.add)
sub = _binary("SUB", np.subtract)
mul = _binary("MUL", np.multiply)
div = _binary("DIV", np.divide)
maximum = _binary("MAXIMUM", np.maximum)
minimum = _binary("MINIMUM", np.minimum)


def apply(op: Op, kind: str, x: Tensor) -> Tensor:
    """A float operator of one operand and no options: LOGISTIC, TANH, EXP …"""
    return op.emit(kind, [x], x.shape)


def select(op: Op, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`a` where the condition holds, else `b`; the condition broadcasts to them."""
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    return op.emit("SELECT_V2", [condition, a, b], shape, dtype=a.dtype)


def view(op: Op, x: Tensor, shape: Sequence[int]) -> Tensor:
    """x.reshape(shape)."""
    if x.data is not None:
        return op.const(x.data.reshape(shape), x.quant, name=x.name)
    return op.reshape(x, shape)


def transpose(op: Op, x: Tensor, perm: Sequence[int]) -> Tensor:
    """x.transpose(perm)."""
    if x.data is not None:
        return op.const(np.ascontiguousarray(x.data.transpose(perm)), name=x.name)
    return op.transpose(x, perm)


def cut(op: Op, x: Tensor, axis: int, begin: int, size: int) -> Tensor:
    """`size` elements of one axis from `begin` on."""
    axis %= len(x.shape)
    if x.data is not None:
        index = (slice(None),) * axis + (slice(begin, begin + size),)
        return op.const(x.data[index], name=x.name)
    shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
    if shape == x.shape:
        return x
    start = [begin if i == axis else 0 for i in range(len(shape))]
    return op.move("SLICE", x, shape, op.indices(start), op.indices(shape))


def chunks(op: Op, x: Tensor, count: int) -> list[Tensor]:
    """The last axis in `count` equal parts."""
    if count == 1:
        return [x]
    size = x.shape[-1] // count
    if x.data is not None or count > 4:  # XNNPACK's SPLIT makes two, three or four
        return [cut(op, x, -1, part * size, size) for part in range(count)]
    outputs = [Tensor(name=op.name, shape=(*x.shape[:-1], size), dtype=x.dtype) for _ in range(count)]
    axis = op.const(np.asarray(len(x.shape) - 1, np.int32))
    op.builder.operator("SPLIT", [axis, x], outputs, origin=op.node.name, options={"num_splits": count})
    return outputs


def concat(op: Op, parts: Sequence[Tensor], axis: int) -> Tensor:
    """The parts along an axis, a few at a time so that XNNPACK does it."""
    parts = list(parts)
    if all(part.data is not None for part in parts):
        return op.const(np.concatenate([part.data for part in parts if part.data is not None], axis))
    while len(parts) > 1:
        groups = [parts[i : i + _CONCAT_AT_ONCE] for i in range(0, len(parts), _CONCAT_AT_ONCE)]
        parts = [_concat(op, group, axis) for group in groups]
    return parts[0]


def _concat(op: Op, parts: Sequence[Tensor], axis: int) -> Tensor:
    if len(parts) == 1:
        return parts[0]
    axis %= len(parts[0].shape)
    total = sum(part.shape[axis] for part in parts)
    shape = (*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :])
    dtype = parts[0].dtype
    return op.emit("CONCATENATION", parts, shape, dtype=dtype, axis=axis, fused_activation_function="NONE")


def linear(op: Op, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, I) times weight (O, I) transposed, plus bias (O): FULLY_CONNECTED for constants."""
    shape = (*x.shape[:-1], weight.shape[0])
    if weight.data is None:
        y = product(op, x, transpose(op, weight, (1, 0)))
        return y if bias is None else add(op, y, bias)
    constant = bias is None or bias.data is not None
    y = op.emit(
        "FULLY_CONNECTED",
        [x, weight, bias] if bias is not None and constant else [x, weight],
        shape,
        keep_num_dims=len(shape) != 2,
        fused_activation_function="NONE",
    )
    return y if bias is None or constant else add(op, y, bias)


def product(op: Op, a: Tensor, b: Tensor) -> Tensor:
    """The matrix product of the last two axes, those before them broadcast; both of rank 2 or more.

    A constant matrix on the right becomes FULLY_CONNECTED. Beyond BATCH_MATMUL's rank the leading ones merge.
    """
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    if b.data is not None and _size(b.shape[:-2]) == 1:
        matrix = view(op, b, b.shape[-2:])
        return op.reshape(linear(op, a, transpose(op, matrix, (1, 0))), shape)
    rank = len(shape)
    a, b = op.expand(a, rank), op.expand(b, rank)
    if rank > _PRODUCT_RANK:
        a, b = (view(op, _spread(op, t, batch), (_size(batch), *t.shape[-2:])) for t in (a, b))
    outer = a.shape[:-2] if rank > _PRODUCT_RANK else batch
    y = op.emit("BATCH_MATMUL", [a, b], (*outer, *shape[-2:]), adj_x=False, adj_y=False)
    return op.reshape(y, shape)


def _spread(op: Op, x: Tensor, batch: Sequence[int]) -> Tensor:
    """`x` with its leading dimensions repeated up to `batch`."""
    shape = (*batch, *x.shape[-2:])
    if x.shape == shape:
        return x
    if x.data is not None:
        return op.const(np.broadcast_to(x.data, shape), x.quant, name=x.name)
    return op.move("BROADCAST_TO", x, shape, op.indices(shape))


def _size(shape: Sequence[int]) -> int:
    return int(np.prod(shape, dtype=np.int64))
