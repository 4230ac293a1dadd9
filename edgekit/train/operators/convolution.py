"""Convolutions: nn.Conv1d to 3d and nn.ConvTranspose1d to 3d."""

from __future__ import annotations

from typing import Any

from edgekit.core.packages import require
from edgekit.train.layers import filled
from edgekit.train.module_graph import Emitter, Op

__all__ = ["OPERATORS", "window_pads"]


def window_pads(op: Op, kernel: list[int], strides: list[int], dilations: list[int]) -> list[int]:
    """The pads of a window operator, begins then ends, whatever `auto_pad` says."""
    rank = len(kernel)
    mode = op.attribute("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return [int(p) for p in op.attribute("pads", [0] * 2 * rank)]
    if mode == "VALID":
        return [0] * 2 * rank
    begins, ends = [], []
    for size, k, s, d in zip(op.shape(0)[2:], kernel, strides, dilations, strict=True):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def _window(op: Op, spatial: list[int]) -> tuple[list[int], list[int]]:
    ones = [1] * len(spatial)
    return list(op.attribute("strides", ones)), list(op.attribute("dilations", ones))


def conv(op: Op) -> Any:
    weight = op.constant(1)
    if weight is None:
        return _computed_conv(op)
    nn = require("torch").nn
    kernel = list(weight.shape[2:])
    strides, dilations = _window(op, kernel)
    pads = window_pads(op, kernel, strides, dilations)
    x, (begins, ends) = op.tensor(0), (pads[: len(kernel)], pads[len(kernel) :])
    if begins != ends:
        pairs = [p for both in zip(begins[::-1], ends[::-1], strict=True) for p in both]
        x, begins = op.call("nn.functional.pad", x, pairs), [0] * len(kernel)
    if len(kernel) not in (1, 2, 3):
        raise op.refuse(f"a convolution over {len(kernel)} axes; 1 to 3 are known")
    if op.has(2) and op.constant(2) is None:
        raise op.refuse("its bias is computed, not a constant")
    group = op.attribute("group", 1)
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1]
    module = kind(
        weight.shape[1] * group, weight.shape[0], tuple(kernel), stride=tuple(strides), padding=tuple(begins),
        dilation=tuple(dilations), groups=group, bias=op.has(2),
    )  # fmt: skip
    return filled(op, module, x, kind="conv")


def _computed_conv(op: Op) -> Any:
    kernel = list(op.shape(1)[2:])
    strides, dilations = _window(op, kernel)
    pads = window_pads(op, kernel, strides, dilations)
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    pairs = [p for both in zip(begins[::-1], ends[::-1], strict=True) for p in both]
    if len(kernel) not in (1, 2, 3):
        raise op.refuse(f"a convolution over {len(kernel)} axes; 1 to 3 are known")
    padded = op.call("nn.functional.pad", op.tensor(0), pairs)
    return op.call(
        f"nn.functional.conv{len(kernel)}d", padded, op.tensor(1), op.tensor(2), strides, 0, dilations,
        op.attribute("group", 1),
    )  # fmt: skip


def conv_transpose(op: Op) -> Any:
    kernel = list(op.shape(1)[2:])
    rank = len(kernel)
    if rank not in (1, 2, 3):
        raise op.refuse(f"a convolution over {rank} axes; 1 to 3 are known")
    strides, dilations = _window(op, kernel)
    before, wanted = op.shape(0)[2:], op.output_shape()[2:]
    rows = zip(before, strides, dilations, kernel, strict=True)
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in rows]
    begins = _transpose_begins(op, full, list(wanted))
    extra = [w + 2 * b - f for w, b, f in zip(wanted, begins, full, strict=True)]
    fits = all(0 <= e < max(s, d) for e, s, d in zip(extra, strides, dilations, strict=True))
    padding, output_padding = (begins, extra) if fits else ([0] * rank, [0] * rank)
    y = _transposed(op, strides, padding, output_padding, dilations)
    if fits:
        return y
    if any(b + w > f for b, w, f in zip(begins, wanted, full, strict=True)):
        raise op.refuse("its output padding is larger than its stride", "export it with a smaller output")
    for axis, (begin, size) in enumerate(zip(begins, wanted, strict=True)):
        y = op.call("narrow", y, axis + 2, begin, size)
    return y


def _transposed(
    op: Op, strides: list[int], padding: list[int], output_padding: list[int], dilations: list[int]
) -> Any:
    """The module, or the function where weights or bias are computed."""
    rank, group, weight = len(strides), op.attribute("group", 1), op.constant(1)
    if weight is None or (op.has(2) and op.constant(2) is None):
        return op.call(
            f"nn.functional.conv_transpose{rank}d", op.tensor(0), op.tensor(1), op.tensor(2), strides,
            padding, output_padding, group, dilations,
        )  # fmt: skip
    nn = require("torch").nn
    kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
    module = kind(
        weight.shape[0], weight.shape[1] * group, tuple(weight.shape[2:]), stride=tuple(strides),
        padding=tuple(padding), output_padding=tuple(output_padding), dilation=tuple(dilations), groups=group,
        bias=op.has(2),
    )  # fmt: skip
    return filled(op, module, op.tensor(0), kind="conv")


def _transpose_begins(op: Op, full: list[int], wanted: list[int]) -> list[int]:
    """How much is cut off in front, along each axis (operator ConvTranspose, `pads` and `output_shape`)."""
    rank = len(full)
    mode = op.attribute("auto_pad", "NOTSET")
    if op.attribute("output_shape") is None and mode in ("NOTSET", "VALID", ""):
        return [int(p) for p in op.attribute("pads", [0] * 2 * rank)[:rank]]
    added = op.attribute("output_padding", [0] * rank)
    totals = [max(f + a - w, 0) for f, a, w in zip(full, added, wanted, strict=True)]
    upper = mode == "SAME_UPPER"
    return [t // 2 if upper else t - t // 2 for t in totals]


OPERATORS: dict[str, Emitter] = {"Conv": conv, "ConvTranspose": conv_transpose}
