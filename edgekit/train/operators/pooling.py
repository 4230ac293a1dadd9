"""Pooling over windows and over everything."""

from __future__ import annotations

from math import prod
from typing import Any

from edgekit.train.module_graph import Emitter, Op
from edgekit.train.operators.convolution import window_pads

__all__ = ["OPERATORS", "average_windows", "max_windows"]


def _window(op: Op) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, pads (begins, then ends) and, after them, pads that rounding up adds."""
    kernel = list(op.attribute("kernel_shape"))
    ones = [1] * len(kernel)
    strides = list(op.attribute("strides", ones))
    dilations = list(op.attribute("dilations", ones))
    if len(kernel) not in (1, 2, 3):
        raise op.refuse(f"windows over {len(kernel)} axes; 1 to 3 are known")
    pads = window_pads(op, kernel, strides, dilations)
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    extra = []
    rows = zip(op.shape(0)[2:], op.output_shape()[2:], kernel, strides, dilations, begins, ends, strict=True)
    for size, out, k, s, d, begin, end in rows:
        extra.append(max((out - 1) * s + (k - 1) * d + 1 - size - begin - end, 0))
    return kernel, strides, dilations, pads, extra


def _pairs(begins: list[int], ends: list[int]) -> list[int]:
    return [p for both in zip(begins[::-1], ends[::-1], strict=True) for p in both]


def max_windows(x: Any, pairs: list[int], kernel: list[int], strides: list[int], dilations: list[int]) -> Any:
    """The largest value of each window; pads never win."""
    from torch.nn import functional

    pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[len(kernel) - 1]
    return pool(functional.pad(x, pairs, value=float("-inf")), kernel, strides, 0, dilations)


def max_pool(op: Op) -> Any:
    kernel, strides, dilations, pads, extra = _window(op)
    if len(op.node.output) > 1 and op.node.output[1]:
        raise op.refuse("the indices of a MaxPool are not followed")
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    even = begins == ends and not any(extra) and all(2 * b <= k for b, k in zip(begins, kernel, strict=True))
    if even:
        name = f"nn.functional.max_pool{len(kernel)}d"
        return op.call(name, op.tensor(0), kernel, strides, begins, dilations)
    pairs = _pairs(begins, [e + x for e, x in zip(ends, extra, strict=True)])
    return op.call(max_windows, op.tensor(0), pairs, kernel, strides, dilations)


def average_windows(
    x: Any, pairs: list[int], extra: list[int], kernel: list[int], strides: list[int], count_pads: bool
) -> Any:
    """Means of windows over what is no pad, or with `count_pads` over all but what rounding up added."""
    import torch
    from torch.nn import functional

    pool = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1]
    ones = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
    padded = functional.pad(functional.pad(x, pairs), extra)
    counted = functional.pad(functional.pad(ones, pairs, value=float(count_pads)), extra)
    return pool(padded, kernel, strides) / pool(counted, kernel, strides)


def average_pool(op: Op) -> Any:
    kernel, strides, dilations, pads, extra = _window(op)
    if any(d != 1 for d in dilations):
        raise op.refuse("an AveragePool with dilations")
    begins, ends = pads[: len(kernel)], pads[len(kernel) :]
    counted = bool(op.attribute("count_include_pad", 0))
    even = begins == ends and not any(extra) and all(2 * b <= k for b, k in zip(begins, kernel, strict=True))
    if even:
        name = f"nn.functional.avg_pool{len(kernel)}d"
        return op.call(name, op.tensor(0), kernel, strides, begins, False, counted)
    added = _pairs([0] * len(kernel), extra)
    pairs = _pairs(begins, ends)
    return op.call(average_windows, op.tensor(0), pairs, added, kernel, strides, counted)


def global_pool(op: Op) -> Any:
    axes = list(range(2, len(op.shape(0))))
    name = "mean" if op.type == "GlobalAveragePool" else "amax"
    return op.call(name, op.tensor(0), axes, True)


def lp_pool(op: Op) -> Any:
    kernel, strides, dilations, pads, extra = _window(op)
    if any(d != 1 for d in dilations) or any(extra):
        raise op.refuse("an LpPool with dilations or sizes rounded up")
    p = op.attribute("p", 2)
    pairs = _pairs(pads[: len(kernel)], pads[len(kernel) :])
    powers = op.call("pow", op.call("abs", op.call("nn.functional.pad", op.tensor(0), pairs)), p)
    means = op.call(f"nn.functional.avg_pool{len(kernel)}d", powers, kernel, strides)
    return op.call("pow", op.call("mul", means, prod(kernel)), 1.0 / p)


OPERATORS: dict[str, Emitter] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "LpPool": lp_pool,
}
