"""The version of each builtin operator: the lowest that has what it uses.

Source: LiteRT's operator versioning (tensorflow/compiler/mlir/lite/tools/versioning/op_version.cc).
The runtime only refuses versions that are too high for it: the lowest right one loads in the most of them.
"""

from __future__ import annotations

from collections.abc import Callable

from edgekit.backends.tflite.ir import Operator, Tensor

__all__ = ["operator_version"]

_INT8_IS_2 = frozenset(
    (
        "ADD",
        "ARG_MAX",
        "ARG_MIN",
        "AVERAGE_POOL_2D",
        "BATCH_MATMUL",
        "CONCATENATION",
        "DEPTH_TO_SPACE",
        "EQUAL",
        "EXP",
        "GATHER",
        "GELU",
        "GREATER",
        "GREATER_EQUAL",
        "LESS",
        "LESS_EQUAL",
        "LOG",
        "LOGISTIC",
        "LOG_SOFTMAX",
        "MAXIMUM",
        "MAX_POOL_2D",
        "MEAN",
        "MINIMUM",
        "MIRROR_PAD",
        "NOT_EQUAL",
        "PAD",
        "PADV2",
        "REDUCE_MAX",
        "REDUCE_MIN",
        "REDUCE_PROD",
        "RELU",
        "RELU6",
        "RSQRT",
        "SLICE",
        "SOFTMAX",
        "SPACE_TO_DEPTH",
        "SPLIT",
        "SPLIT_V",
        "SQRT",
        "SQUARED_DIFFERENCE",
        "STRIDED_SLICE",
        "SUB",
        "SUM",
        "TANH",
        "TRANSPOSE",
    )
)
_DATA = {"TRANSPOSE_CONV": 2, "SPLIT": 1}  # the input that holds the data
_CAST = {"uint32": 2, "int8": 3, "uint16": 4, "float16": 5, "bfloat16": 7}
_RANK_5 = {"PAD": 4, "PADV2": 4, "SLICE": 5, "STRIDED_SLICE": 4, "TRANSPOSE": 4}
_BROADCAST_5 = {"SUB": 3, "DIV": 2, "MAXIMUM": 3, "MINIMUM": 3}
_INT64 = {"ADD": 4, "SUB": 4, "MUL": 5}
_INT16 = {
    "ADD": 3,
    "BROADCAST_TO": 3,
    "CONCATENATION": 3,
    "GATHER": 4,
    "GATHER_ND": 3,
    "LEAKY_RELU": 2,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MIRROR_PAD": 3,
    "MUL": 4,
    "PAD": 3,
    "PADV2": 3,
    "QUANTIZE": 2,
    "REDUCE_MAX": 3,
    "RESIZE_BILINEAR": 4,
    "RESIZE_NEAREST_NEIGHBOR": 4,
    "SLICE": 4,
    "SPLIT": 4,
    "SUB": 5,
    "TRANSPOSE": 5,
}
_BOOL = {"GATHER": 3, "STRIDED_SLICE": 3, "TRANSPOSE": 3, "PAD": 5, "PADV2": 5}


def operator_version(op: Operator) -> int:
    """The version this operator needs."""
    x = _first(op)
    special: dict[str, Callable[[Operator], int]] = {
        "CONV_2D": _conv,
        "DEPTHWISE_CONV_2D": _depthwise,
        "FULLY_CONNECTED": _fully_connected,
        "TRANSPOSE_CONV": _transpose_conv,
        "MUL": _mul,
        "DEQUANTIZE": _dequantize,
        "RESIZE_BILINEAR": _resize_bilinear,
        "RESIZE_NEAREST_NEIGHBOR": _resize_nearest,
        "CAST": lambda op: max(_CAST.get(x.dtype, 1), _CAST.get(op.output.dtype, 1)),
        "BROADCAST_TO": lambda op: 3 if x.dtype in ("int8", "int16") else 2,
        "SIGN": lambda op: 2 if x.dtype == "int32" else 1,
        "ABS": lambda op: 5 if x.dtype == "int32" else 1,
    }
    rule = special.get(op.kind)
    return rule(op) if rule is not None else _common(op, x)


def _common(op: Operator, x: Tensor) -> int:
    version = 2 if op.kind in _INT8_IS_2 and x.dtype == "int8" else 1
    if x.dtype == "int16" or (op.kind == "QUANTIZE" and op.output.dtype == "int16"):
        version = _INT16.get(op.kind, 1)
    if x.dtype == "int64":
        version = max(version, _INT64.get(op.kind, 1))
    if x.dtype == "bool":
        version = max(version, _BOOL.get(op.kind, 1))
    shapes = [t.shape for t in op.inputs if t is not None]
    if len(x.shape) > 4:
        version = max(version, _RANK_5.get(op.kind, 1))
    if op.kind == "TRANSPOSE" and len(x.shape) > 5:
        version = 6
    if len(set(shapes)) > 1 and max(map(len, shapes)) > 4:
        version = max(version, _BROADCAST_5.get(op.kind, 1))
    return version


def _first(op: Operator) -> Tensor:
    tensor = op.inputs[_DATA.get(op.kind, 0)]
    assert tensor is not None
    return tensor


def _weight(op: Operator) -> Tensor:
    weight = op.inputs[1]
    assert weight is not None
    return weight


def _conv(op: Operator) -> int:
    x, weight = _first(op), _weight(op)
    if weight.shape[3] != x.shape[3]:
        return 6
    if weight.dtype == "int8" and x.dtype == "float32":
        return 5
    return {"int8": 3, "int16": 4}.get(x.dtype, 1)


def _depthwise(op: Operator) -> int:
    if _first(op).dtype in ("int8", "int16"):
        return 3 if _first(op).dtype == "int8" else 5
    return 2 if (op.options["dilation_h_factor"], op.options["dilation_w_factor"]) != (1, 1) else 1


def _fully_connected(op: Operator) -> int:
    if _weight(op).dtype == "int8" and _first(op).dtype == "float32":
        return 12
    if _first(op).dtype == "int16":
        return 7
    if len(op.inputs) == 2:
        return 6
    if op.options.get("keep_num_dims"):
        return 5
    return 4 if _first(op).dtype == "int8" else 1


def _transpose_conv(op: Operator) -> int:
    if op.options.get("fused_activation_function", "NONE") != "NONE":
        return 4
    if len(op.inputs) == 4:
        return 3
    return 2 if _first(op).dtype == "int8" else 1


def _mul(op: Operator) -> int:
    x, other, y = _first(op), _weight(op), op.output
    if x.dtype == "int16" and x.quant is not None:
        return _INT16["MUL"]
    if x.quant is not None and other.quant is not None and y.quant is not None:
        return 3 if x.quant.scale * other.quant.scale / y.quant.scale >= 1 else 2
    return _INT64["MUL"] if x.dtype == "int64" else 1


def _dequantize(op: Operator) -> int:
    x = _first(op)
    if x.dtype in ("float16", "int16"):
        return 3
    if x.dtype == "int4":
        return 6
    return 5 if x.quant is not None and len(x.quant.scales) > 1 else 2


def _resize_bilinear(op: Operator) -> int:
    if _first(op).dtype == "int16":
        return _INT16["RESIZE_BILINEAR"]
    return 3 if op.options["half_pixel_centers"] else 2 if _first(op).dtype == "int8" else 1


def _resize_nearest(op: Operator) -> int:
    if _first(op).dtype == "int16":
        return _INT16["RESIZE_NEAREST_NEIGHBOR"]
    moved = op.options["half_pixel_centers"] or op.options["align_corners"]
    return 3 if moved else 2 if _first(op).dtype == "int8" else 1
