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
_PLAIN = frozenset(  # kernels that move or convert bytes without a scale
    (
        *("BITWISE_XOR", "BROADCAST_TO", "CAST", "CONCATENATION", "DEPTH_TO_SPACE", "GATHER", "GATHER_ND"),
        *("MIRROR_PAD", "PAD", "PADV2", "RESHAPE", "SPACE_TO_DEPTH"),
        *("REVERSE_V2", "RIGHT_SHIFT", "SELECT_V2", "SLICE", "STRIDED_SLICE", "TILE", "TRANSPOSE"),
    )
)
_CONVERTS = frozenset(("QUANTIZE", "DEQUANTIZE"))


def scale_problems(op: Operator) -> Iterator[str]:
    """What is wrong with the scales of this operator, if it is an integer one."""
    if op.kind in _CONVERTS:
        yield from _conversion(op)
        return
    coded = [t for t in (*op.inputs, *op.outputs) if t is not None and t.dtype in ("int4", "int8", "int16")]
    if not coded or (op.kind in _PLAIN and all(t.quant is None for t in coded)):
        return
    yield from (f"{t.name!r} is {t.dtype} without a scale" for t in coded if t.quant is None)
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
    allowed = ("int8", "int16") if op.kind == "QUANTIZE" else ("int4", "int8", "int16", "float16")
    if value.dtype != "float32" or code.dtype not in allowed:
        yield f"{x.dtype} to {y.dtype}; exact: float32 to int8 or int16, and back (int4 and float16 too)"


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
    if x is not None and x.dtype == "float32" and weight is not None:
        yield from _hybrid(op, weight)
        return
    if x is None or weight is None or x.quant is None or weight.quant is None:
        yield "input and weights must both be quantized"
        return
    if weight.dtype != "int8":
        yield f"the weights are {weight.dtype}; integer kernels were proven with int8"
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
    needed = "int64" if x.dtype == "int16" else "int32"
    if bias.dtype != needed or bias.quant is None:
        yield f"the bias is {bias.dtype}; beside {x.dtype} it must be {needed} with scale s_x * s_w"
        return
    expected = np.asarray(weight.quant.scales, np.float32) * np.float32(x.quant.scale)
    declared = np.asarray(bias.quant.scales, np.float32)
    if declared.shape != expected.shape or not np.allclose(declared, expected, rtol=1e-6, atol=0):
        yield "the scale of the bias is not s_x * s_w, which is what the kernel uses"


def _hybrid(op: Operator, weight: Tensor) -> Iterator[str]:
    """Coded weights beside float activations, which the kernel quantizes at run time."""
    quant = _quant(weight)
    if op.kind not in ("CONV_2D", "FULLY_CONNECTED"):
        yield "there is no hybrid kernel that answers right; unpack the weights with DEQUANTIZE"
    if weight.dtype != "int8" or quant.zero_point != 0 or len(quant.scales) != weight.shape[0] or quant.axis:
        yield "hybrid kernels take int8 weights with zero point 0 and a scale for each output, along axis 0"
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    if op.output.dtype != "float32" or (bias is not None and bias.dtype != "float32"):
        yield "hybrid kernels read a float32 bias and write float32"
    if op.kind == "FULLY_CONNECTED" and not op.options.get("asymmetric_quantize_inputs"):
        yield "XNNPACK quantizes activations with a zero point, the builtin kernel only when it is told to"
