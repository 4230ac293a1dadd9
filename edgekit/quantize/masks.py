"""Attention masks: a mark that stands for minus infinity spans every scale, so that 8 bits lose the scores.

Frameworks mask a score by adding the least float32, or -10000, or by choosing it. One scale for scores and
marks leaves the scores no codes, and for the least float32 its sums overflow. What makes a mask, joins it to
the scores and takes their softmax stays in float32; the products before and after it do not.
"""

from __future__ import annotations

from typing import Any

from edgekit.quantize.graph_index import GraphIndex

__all__ = ["masks"]

_MARK = -1000.0  # exp(-1000) is 0 in float32: what is so far below the other scores is no score
_CARRIES = (
    "Add", "Concat", "Div", "Expand", "Gather", "Identity", "Max", "Min", "Mul", "Reshape", "Slice",
    "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where",
)  # fmt: skip
_SOFTMAX = ("LogSoftmax", "Softmax")


def masks(index: GraphIndex) -> set[str]:
    """The nodes between a constant that marks what is masked and the softmax that it is for."""
    nodes = list(index.model.graph.node)
    marked: set[str] = set()
    for node in nodes:
        if node.op_type in _CARRIES and any(i in marked or _is_mark(index, i) for i in node.input):
            marked.update(node.output)
    awaited: set[str] = set()
    found: set[str] = set()
    for node in reversed(nodes):
        ends = node.op_type in _SOFTMAX and node.input[0] in marked
        leads_on = bool(marked & awaited & set(node.output))
        if ends or leads_on:
            found.add(node.name)
            awaited.update(i for i in node.input if i in marked)
    return found


def _is_mark(index: GraphIndex, name: str) -> bool:
    constant: Any = index.constants.get(name)
    if constant is None or constant.dtype.kind != "f" or not constant.size:
        return False
    return bool(constant.min() <= _MARK)
