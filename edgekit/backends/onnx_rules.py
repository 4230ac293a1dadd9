"""Constructs that an engine reads without a word and then answers wrongly, as a table of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.errors import Reason

__all__ = ["Rule", "Site", "broken_rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One node and what is known about its surroundings.

    `constants` are the names of the graph's initializers, `read` every name that a node or an output reads,
    `dtypes` the ONNX element types of the tensors that have one, `infinite` says whether a constant of the
    graph holds an infinity, `inner` whether the node is in a branch or loop.
    """

    node: Any
    attributes: dict[str, Any]
    constants: frozenset[str]
    read: frozenset[str]
    dtypes: Mapping[str, int]
    infinite: bool
    inner: bool = False

    def has(self, index: int) -> bool:
        """Whether the node has this input."""
        return len(self.node.input) > index and bool(self.node.input[index])

    def computed(self, index: int) -> bool:
        """Whether the node has this input and it is no constant."""
        return self.has(index) and self.node.input[index] not in self.constants

    def uses(self, index: int) -> bool:
        """Whether anything reads this output."""
        return len(self.node.output) > index and self.node.output[index] in self.read


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """`op` is wrong in the engine where `applies`; `seen` is what was measured, `hint` what would help."""

    op: str
    applies: Callable[[Site], bool]
    seen: str
    hint: str = ""


def broken_rules(graph: Any, rules: Iterable[Rule], *, engine: str) -> list[Reason]:
    """A reason for every node of a GraphProto, subgraphs included, that a rule refuses.

    `engine` is the engine and the version in which the fault was seen.
    """
    table: dict[str, list[Rule]] = {}
    for rule in rules:
        table.setdefault(rule.op, []).append(rule)
    return [
        Reason(node=node.name or node.output[0], why=f"{engine}: {rule.seen}", hint=rule.hint)
        for site in _sites(graph)
        for node in (site.node,)
        for rule in table.get(node.op_type, ())
        if rule.applies(site)
    ]


def _sites(graph: Any, outside: frozenset[str] = frozenset(), *, inner: bool = False) -> Iterator[Site]:
    onnx = require("onnx")
    constants = outside | {tensor.name for tensor in graph.initializer}
    read, dtypes = _reads(graph), _dtypes(graph)
    infinite = any(_is_infinite(onnx.numpy_helper.to_array(t)) for t in graph.initializer)
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        yield Site(
            node=node,
            attributes=attributes,
            constants=constants,
            read=read,
            dtypes=dtypes,
            infinite=infinite,
            inner=inner,
        )
        for value in attributes.values():
            if isinstance(value, onnx.GraphProto):
                yield from _sites(value, constants, inner=True)


def _is_infinite(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f" and bool(np.isinf(values).any())


def _dtypes(graph: Any) -> dict[str, int]:
    values = (*graph.input, *graph.value_info, *graph.output)
    found = {v.name: v.type.tensor_type.elem_type for v in values if v.type.HasField("tensor_type")}
    return found | {t.name: t.data_type for t in graph.initializer}


def _reads(graph: Any) -> frozenset[str]:
    names = {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input)
        for item in node.attribute:
            if item.HasField("g"):
                names |= _reads(item.g)
    return frozenset(names)
