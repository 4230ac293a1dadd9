"""Quantizers as arithmetic, where no integer kernel is behind them, and exact integer products."""

from __future__ import annotations

from edgekit.backends.tflite.ir import Tensor
from edgekit.backends.tflite.lowering.compose import add, cut, div, maximum, minimum, mul, product, sub, view
from edgekit.backends.tflite.op import Op, Refusal
from edgekit.backends.tflite.plan import Lowering

__all__ = ["OPERATORS", "dequantize", "quantize"]

_RANGES = {"int8": (-128.0, 127.0), "uint8": (0.0, 255.0)}
_EXACT = (
    256  # terms of a sum of products of (code - zero point), each below 2**16, that float32 holds exactly
)


def quantize(op: Op) -> None:
    """saturate(round(x / scale) + zero point), halves to even, as codes without a declared scale."""
    dtype = op.out_dtype()
    if dtype not in _RANGES:
        raise Refusal(f"QuantizeLinear to {dtype}", "int8 and uint8 are lowered")
    x = op.builder.value(op.node.inputs[0])
    codes = op.emit("ROUND", [div(op, x, _parameter(op, 1, x))], x.shape)
    if op.has(2):
        codes = add(op, codes, _parameter(op, 2, x))
    op.result(_cast(op, _saturated(op, codes, dtype), dtype))


def dequantize(op: Op) -> None:
    """(codes - zero point) * scale."""
    codes = op.builder.value(op.node.inputs[0])
    if codes.dtype not in (*_RANGES, "int32"):
        raise Refusal(f"DequantizeLinear of {codes.dtype}", "int8, uint8 and int32 are lowered")
    values = _cast(op, codes, "float32")
    if op.has(2):
        values = sub(op, values, _parameter(op, 2, codes))
    op.result(mul(op, values, _parameter(op, 1, codes)))


def dynamic_quantize(op: Op) -> None:
    """uint8 codes over the range of x and zero: scale = range / 255, zero point = round(-minimum / scale)."""
    x = op.input()
    axes, one = op.indices(range(len(x.shape))), (1,) * len(x.shape)
    low = minimum(op, op.emit("REDUCE_MIN", [x, axes], one, keep_dims=True), op.scalar(0.0))
    high = maximum(op, op.emit("REDUCE_MAX", [x, axes], one, keep_dims=True), op.scalar(0.0))
    scale = div(op, sub(op, high, low), op.scalar(255.0))
    zero = _saturated(op, op.emit("ROUND", [div(op, sub(op, op.scalar(0.0), low), scale)], one), "uint8")
    codes = add(op, op.emit("ROUND", [div(op, x, scale)], x.shape), zero)
    results = (_cast(op, _saturated(op, codes, "uint8"), "uint8"), scale, _cast(op, zero, "uint8"))
    for index, result in enumerate(results[: len(op.step.outputs)]):
        if op.step.outputs[index]:
            op.result(op.reshape(result, op.out_shape(index)), index)


def _saturated(op: Op, codes: Tensor, dtype: str) -> Tensor:
    low, high = _RANGES[dtype]
    return minimum(op, maximum(op, codes, op.scalar(low)), op.scalar(high))


def _parameter(op: Op, index: int, x: Tensor) -> Tensor:
    """A scale or zero point as float32, in a shape that broadcasts along the node's axis."""
    if op.attr("block_size", 0):
        raise Refusal("quantization in blocks of computed values", "one scale, or one for each channel")
    value = _cast(op, op.builder.value(op.node.inputs[index]), "float32")
    if value.size == 1:
        return view(op, value, (1,) * len(x.shape))
    axis = op.attr("axis", 1) % len(x.shape)
    return view(op, value, tuple(dim if i == axis else 1 for i, dim in enumerate(x.shape)))


def _cast(op: Op, x: Tensor, dtype: str) -> Tensor:
    if x.dtype == dtype:
        return x
    if x.data is not None:
        return op.const(x.data.astype(dtype), name=x.name)
    return op.emit("CAST", [x], x.shape, dtype=dtype, in_data_type=x.dtype, out_data_type=dtype)


def matmul_integer(op: Op) -> None:
    """Exact in float32: no sum is longer than what float32 holds, and the sums are added as int32."""
    a, b = _centred(op, 0, 2, -1), _centred(op, 1, 3, -2)
    a = view(op, a, (1, *a.shape)) if len(a.shape) == 1 else a
    b = view(op, b, (*b.shape, 1)) if len(b.shape) == 1 else b
    total: Tensor | None = None
    for begin in range(0, a.shape[-1], _EXACT):
        size = min(_EXACT, a.shape[-1] - begin)
        part = product(op, cut(op, a, -1, begin, size), cut(op, b, -2, begin, size))
        codes = _cast(op, part, "int32")
        total = codes if total is None else add(op, total, codes)
    assert total is not None
    op.result(op.reshape(total, op.out_shape()))


def _centred(op: Op, index: int, zero: int, axis: int) -> Tensor:
    """Codes minus their zero point as float32; a vector of zero points does not run along `axis`."""
    codes = op.input(index)
    values = _cast(op, codes, "float32")
    if not op.has(zero):
        return values
    point = _cast(op, op.input(zero), "float32")
    if point.size == 1:
        return sub(op, values, view(op, point, (1,) * len(values.shape)))
    if len(point.shape) == 1:
        point = view(op, point, (point.size, 1) if axis == -1 else (1, point.size))
    return sub(op, values, point)


OPERATORS = {
    "DynamicQuantizeLinear": Lowering(emit=dynamic_quantize),
    "MatMulInteger": Lowering(emit=matmul_integer, dtypes=("int8", "uint8")),
}
