"""Rules on the scales of one operator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit.backends.tflite.ir import Operator, Quant, Tensor
from edgekit.backends.tflite.lowering.rules import ADD_RATIO, MAX_REQUANTIZATION, MUL_RATIO

__all__ = ["scale_problems"]

_SHARED = frozenset(
    (
        "AVERAGE_POOL_2D",
        "BROADCAST_TO",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "GATHER",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MINIMUM",
        "MIRROR_PAD",
        "PACK",
        "PAD",
        "PADV2",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "RESHAPE",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "SELECT_V2",
        "SLICE",
        "SPACE_TO_DEPTH",
        "STRIDED_SLICE",
        "TRANSPOSE",
    )
)
_FIXED = {
    "LOGISTIC": Quant(scales=(1 / 256,), zero_point=-128),
    "SOFTMAX": Quant(scales=(1 / 256,), zero_point=-128),
    "TANH": Quant(scales=(1 / 128,)),
    "L2_NORMALIZATION": Quant(scales=(1 / 128,)),
    "LOG_SOFTMAX": Quant(scales=(16 / 256,), zero_point=127),
}
_WEIGHT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0}
_CONVERTS = frozenset(("QUANTIZE", "DEQUANTIZE"))


def scale_problems(op: Operator) -> Iterator[str]:
    """What is wrong with the scales of this operator, if it is an integer one."""
    if op.kind in _CONVERTS:
        yield from _conversion(op)
        return
    coded = [t for t in (*op.inputs, *op.outputs) if t is not None and t.dtype == "int8"]
    if not coded:
        return
    yield from (f"{t.name!r} is int8 without a scale" for t in coded if t.quant is None)
    if any(t.quant is None for t in coded):
        return
    if op.kind in _SHARED and len({t.quant for t in coded}) > 1:
        found = ", ".join(f"{t.name!r} ({t.quant})" for t in coded)
        yield f"inputs and output must share scale and zero point: {found}"
    if op.kind in _FIXED and op.output.quant != _FIXED[op.kind]:
        yield f"the kernel writes {_FIXED[op.kind]}, the output has {op.output.quant}"
    if op.kind in ("ADD", "SUB", "MUL"):
        yield from _ratios(op)
    if op.kind in _WEIGHT_AXIS:
        yield from _weights(op)
    if op.kind == "BATCH_MATMUL" and any(len(_quant(t).scales) > 1 for t in coded):
        yield "per-channel scales: the kernel uses the first one for all"


def _quant(tensor: Tensor) -> Quant:
    assert tensor.quant is not None
    return tensor.quant


def _conversion(op: Operator) -> Iterator[str]:
    x, y = op.inputs[0], op.output
    if x is None:
        return
    code, value = (y, x) if op.kind == "QUANTIZE" else (x, y)
    if code.quant is None and code.dtype != "float16":
        yield f"{code.name!r} is {code.dtype} without a scale"
    if value.dtype != "float32" or code.dtype not in ("int8", "float16"):
        yield f"{x.dtype} to {y.dtype}; float32 to int8, and int8 or float16 to float32 are exact"


def _ratios(op: Operator) -> Iterator[str]:
    a, b = op.inputs
    y = op.output
    if a is None or b is None or any(t.quant is None or len(t.quant.scales) > 1 for t in (a, b, y)):
        yield "one scale for each operand is needed"
        return
    out = _quant(y).scale
    if op.kind == "MUL":
        ratio = _quant(a).scale * _quant(b).scale / out
        if not MUL_RATIO[0] <= ratio < MUL_RATIO[1]:
            yield f"s_a * s_b / s_y is {ratio:g}, allowed: [2**-16, 256)"
        return
    for tensor in (a, b):
        ratio = _quant(tensor).scale / out
        if not ADD_RATIO[0] <= ratio < ADD_RATIO[1]:
            yield f"{tensor.name!r}: s_x / s_y is {ratio:g}, allowed: [1/1024, 256)"


def _weights(op: Operator) -> Iterator[str]:
    x = op.inputs[2 if op.kind == "TRANSPOSE_CONV" else 0]
    weight = op.inputs[1]
    if x is None or weight is None or x.quant is None or weight.quant is None:
        yield "input and weights must both be quantized"
        return
    if weight.quant.zero_point != 0:
        yield f"the weights have zero point {weight.quant.zero_point}; the kernels take 0"
    if weight.data is not None and weight.data.size and int(weight.data.min()) < -127:
        yield "the weights hold -128; kernels with 16-bit sums need [-127, 127]"
    axis = _WEIGHT_AXIS[op.kind]
    if len(weight.quant.scales) > 1 and weight.quant.axis != axis:
        yield f"the scales of the weights lie along axis {weight.quant.axis}, the kernel reads axis {axis}"
    ratio = x.quant.scale * max(weight.quant.scales) / _quant(op.output).scale
    if ratio >= MAX_REQUANTIZATION:
        yield f"s_x * s_w / s_y is {ratio:g}, it must stay below {MAX_REQUANTIZATION:g}"
    bias = op.inputs[3 if op.kind == "TRANSPOSE_CONV" else 2] if len(op.inputs) > 2 else None
    if bias is None or (op.kind == "TRANSPOSE_CONV" and len(op.inputs) < 4):
        return
    if bias.dtype != "int32" or bias.quant is None:
        yield f"the bias is {bias.dtype}; it must be int32 with scale s_x * s_w"
        return
    expected = np.asarray(weight.quant.scales, np.float32) * np.float32(x.quant.scale)
    declared = np.asarray(bias.quant.scales, np.float32)
    if declared.shape != expected.shape or not np.allclose(declared, expected, rtol=1e-6, atol=0):
        yield "the scale of the bias is not s_x * s_w, which is what the kernel uses"
