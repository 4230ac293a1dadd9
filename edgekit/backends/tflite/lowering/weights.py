"""Biases as LiteRT's kernels want them."""

from __future__ import annotations

import numpy as np

from edgekit.backends.tflite.ir import Array, Quant, Tensor
from edgekit.backends.tflite.op import Op, Refusal, Weight

__all__ = ["bias_tensor"]

_SCALE_TOLERANCE = 1e-4  # relative; the kernel ignores the declared scale and uses s_x * s_w


def bias_tensor(op: Op, index: int, *, x: Tensor, weight: Weight, count: int) -> Tensor:
    """The bias of `count` outputs: float32, or integers at scale s_x * s_w (a float one is rounded to it):
    int32, or int64 beside int16 activations (an int32 one is read as if it had 64 bits).

    Zeros where ONNX has none: CONV needs one. Raises `Refusal` when it is computed, or quantized at another
    scale than the kernel uses.
    """
    name = op.node.inputs[index] if op.has(index) else f"{op.name}/bias"
    values = op.constant(index)
    if values is None and op.has(index):
        raise Refusal("the bias is computed", "fold it into a constant, or write it as an Add")
    real = np.zeros(count, np.float32) if values is None else values.astype(np.float32).ravel()
    real = np.broadcast_to(real, (count,)) if real.size == 1 else real
    if not op.integer:
        return op.const(np.ascontiguousarray(real), name=name)
    assert x.quant is not None
    assert weight.quant is not None
    scales = np.float32(x.quant.scale) * np.asarray(weight.quant.scales, np.float32)
    codes = _stored_codes(op, index, scales)
    if codes is None:
        codes = np.rint(real.astype(np.float64) / scales)
    dtype = "int64" if op.codes == "int16" else "int32"
    if np.any(np.abs(codes) > np.iinfo(np.int32).max):
        raise Refusal("the bias does not fit int32 at scale s_x * s_w", "keep this node in float")
    quant = Quant(scales=tuple(float(s) for s in scales), codes=dtype)
    return op.const(np.broadcast_to(codes, (count,)).astype(dtype), quant, name=name)


def _stored_codes(op: Op, index: int, scales: Array) -> Array | None:
    source = op.builder.source
    writer = source.writers.get(op.node.inputs[index]) if op.has(index) else None
    if writer is None or writer.op_type != "DequantizeLinear":
        return None
    quantizer = source.quantizer(writer)
    if quantizer is None or quantizer.quant.codes != "int32":
        return None
    declared = np.asarray(quantizer.quant.scales, np.float32)
    if quantizer.quant.zero_point != 0 or not np.allclose(declared, scales, rtol=_SCALE_TOLERANCE, atol=0):
        raise Refusal(
            f"the bias is quantized with scale {declared.flat[0]!r}, LiteRT computes with s_x * s_w = "
            f"{scales.flat[0]!r}",
            "quantize the bias with the product of the scales of input and weights, zero point 0",
        )
    return source.constants[writer.inputs[0]].ravel()
