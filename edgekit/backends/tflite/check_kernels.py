"""Rules on the shapes and dtypes of one operator."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit.backends.tflite.ir import Operator, Tensor

__all__ = ["kernel_problems"]

_WINDOWED = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D"))
_WEIGHTED = frozenset(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"))
_SAME_DTYPE = frozenset(
    (
        "ADD",
        "SUB",
        "MUL",
        "DIV",
        "MAXIMUM",
        "MINIMUM",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "BATCH_MATMUL",
        "MAX_POOL_2D",
        "AVERAGE_POOL_2D",
        "POW",
    )
)


def kernel_problems(op: Operator) -> Iterator[str]:
    """What is wrong with the shapes and dtypes of this operator."""
    if op.kind in _SAME_DTYPE:
        operands = [t for t in op.inputs[:2] if t is not None]
        if op.kind == "CONCATENATION":
            operands = [t for t in op.inputs if t is not None]
        dtypes = {t.dtype for t in (*operands, op.output)}
        mixed = op.kind in _WEIGHTED and operands[1:] and operands[1].dtype == "int8"
        if mixed and operands[0].dtype == op.output.dtype in ("int16", "float32"):
            dtypes = set()  # int8 weights beside int16 activations, or beside floats quantized at run time
        if len(dtypes) > 1:
            yield f"operands of {', '.join(sorted(dtypes))}; they must be of one dtype"
    if op.kind in _WINDOWED:
        yield from _windows(op)
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        yield from _convolution(op)
    if op.kind == "FULLY_CONNECTED":
        yield from _fully_connected(op)
    if op.kind == "TRANSPOSE_CONV":
        yield from _transpose_conv(op)
    if op.kind == "RESHAPE":
        x = op.inputs[0]
        if x is not None and x.size != op.output.size:
            yield f"{x.shape} and {op.output.shape} hold different numbers of elements"
    if op.kind == "TRANSPOSE":
        yield from _transpose(op)


def _shape(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tensor.shape


def _windows(op: Operator) -> Iterator[str]:
    """The output the kernel will compute from padding, stride and kernel is the one declared."""
    x, y = _shape(op.inputs[0]), op.output.shape
    if op.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        weight = _shape(op.inputs[1])
        kernel = (weight[1], weight[2])
        dilations = (op.options["dilation_h_factor"], op.options["dilation_w_factor"])
    else:
        kernel = (int(op.options["filter_height"]), int(op.options["filter_width"]))  # type: ignore[arg-type]
        dilations = (1, 1)
    strides = (op.options["stride_h"], op.options["stride_w"])
    for axis in range(2):
        stride, dilation = int(strides[axis]), int(dilations[axis])  # type: ignore[arg-type]
        extent = (kernel[axis] - 1) * dilation + 1
        size = x[axis + 1]
        out = -(-size // stride) if op.options["padding"] == "SAME" else (size - extent) // stride + 1
        if out != y[axis + 1]:
            yield f"axis {axis + 1} of the output has {y[axis + 1]} elements, the kernel computes {out}"


def _bias(bias: Tensor | None, count: int, *, needed: bool) -> Iterator[str]:
    """A short bias is read out of bounds."""
    if bias is None:
        if needed:
            yield "the kernel needs a bias"
    elif bias.shape != (count,):
        yield f"the bias has shape {bias.shape}, ({count},) is needed"


def _convolution(op: Operator) -> Iterator[str]:
    x, weight, y = _shape(op.inputs[0]), _shape(op.inputs[1]), op.output.shape
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    yield from _bias(bias, y[3], needed=True)
    if op.kind == "CONV_2D":
        if weight[0] != y[3] or x[3] % weight[3] or y[3] % (x[3] // weight[3]):
            yield f"weights {weight} (O, H, W, I) do not fit input {x} and output {y} (N, H, W, C)"
    elif weight[0] != 1 or weight[3] != y[3] or y[3] != x[3] * int(op.options["depth_multiplier"]):  # type: ignore[arg-type]
        yield f"weights {weight} (1, H, W, O) do not fit input {x} and output {y} (N, H, W, C)"


def _fully_connected(op: Operator) -> Iterator[str]:
    x, weight, y = _shape(op.inputs[0]), _shape(op.inputs[1]), op.output.shape
    bias = op.inputs[2] if len(op.inputs) > 2 else None
    yield from _bias(bias, y[-1], needed=False)
    if len(weight) != 2 or weight[1] != x[-1] or weight[0] != y[-1]:
        yield f"weights {weight} (outputs, inputs) do not fit input {x} and output {y}"


def _transpose_conv(op: Operator) -> Iterator[str]:
    size, weight, x, y = op.inputs[0], _shape(op.inputs[1]), _shape(op.inputs[2]), op.output.shape
    bias = op.inputs[3] if len(op.inputs) > 3 else None
    yield from _bias(bias, y[3], needed=False)
    if weight[0] != y[3] or weight[3] != x[3]:
        yield f"weights {weight} (O, H, W, I) do not fit input {x} and output {y} (N, H, W, C)"
    computed = size is not None and size.data is None and bool(op.output.signature)
    if not computed and (size is None or size.data is None or tuple(np.ravel(size.data)) != y):
        yield f"the declared output size is not the output's shape {y}"


def _transpose(op: Operator) -> Iterator[str]:
    x, perm = op.inputs[0], op.inputs[1]
    if x is None or perm is None or perm.data is None:
        yield "the permutation must be constant"
        return
    axes = [int(axis) for axis in perm.data]
    if sorted(axes) != list(range(len(x.shape))) or tuple(x.shape[axis] for axis in axes) != op.output.shape:
        yield f"{x.shape} transposed by {tuple(axes)} is not {op.output.shape}"
