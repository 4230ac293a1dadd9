"""GELU that was written out with Erf or Tanh is one node again."""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING, Any

from edgekit.core.packages import require
from edgekit.graph.result import PassResult
from edgekit.graph.walk import constants, node_reads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply"]

_CLOSE = 1e-6  # relative: constants in float32, and in float16 that was exact, are closer


def apply(model: ModelProto) -> PassResult:
    """Recognize what exporters without this operator write; every engine has a faster one of its own.

    Before: x * (Erf(x / sqrt(2)) + 1) * 0.5, the factors in any order, divisions written as products or not
    After: Gelu(x)
    Before: the same with Tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)), the cube a product or a Pow
    After: Gelu(x, approximate="tanh")
    Must not change: an intermediate value that something else reads; names of outputs.

    Source: Hendrycks and Gimpel, https://arxiv.org/abs/1606.08415. Needs an opset from 20 on.
    """
    if not any(e.domain in ("", "ai.onnx") and e.version >= 20 for e in model.opset_import):
        return PassResult(model=model, modified=False)
    graph = _Graph(model.graph)
    changes = [graph.restore(n) for n in list(model.graph.node) if n.op_type in ("Erf", "Tanh")]
    return PassResult(model=model, modified=any(changes))


class _Graph:
    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.constants: dict[str, NDArray[Any]] = constants(graph)
        self.outputs = {value.name for value in graph.output}
        known = (*graph.value_info, *graph.input, *graph.output)
        self.ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in known}

    def restore(self, erf: NodeProto) -> bool:
        add = self.reader(erf.output[0])
        x, inner = self.argument(erf)
        if x is None or add is None or add.op_type != "Add" or self.other(add, erf.output[0]) != 1.0:
            return False
        product = self.product(add.output[0], x)
        if product is None:
            return False
        last = product[-1]
        last.op_type = "Gelu"
        del last.attribute[:], last.input[:]
        last.input.append(x)
        if erf.op_type == "Tanh":
            last.attribute.append(require("onnx").helper.make_attribute("approximate", "tanh"))
        for node in (add, erf, *product[:-1]):
            self.graph.node.remove(node)
        for node in inner:
            self.drop(node)
        for node in [n for n in self.graph.node if self.scaled(n, 0.5) == x]:
            self.drop(node)
        return True

    def argument(self, node: NodeProto) -> tuple[str | None, list[NodeProto]]:
        """The x of this Erf or Tanh, and the nodes between them, last one first."""
        scaled = self.writer(node.input[0])
        if node.op_type == "Erf":
            return self.scaled(scaled, 1 / sqrt(2)), [scaled] if scaled is not None else []
        total = self.writer(self.scaled(scaled, sqrt(2 / pi)) or "")
        if scaled is None or total is None or total.op_type != "Add":
            return None, []
        for x, cube in (tuple(total.input), tuple(reversed(total.input))):
            number, factors, nodes = self.factorized(cube, x)
            if factors == [x] * 3 and abs(number / 0.044715 - 1) < _CLOSE:
                return x, [scaled, total, *nodes]
        return None, []

    def factorized(self, value: str, x: str) -> tuple[float, list[str], list[NodeProto]]:
        """`value` as a number times tensors, x or others; and the nodes that multiply, last one first."""
        number, node = self.number(value, beside=x), self.writer(value)
        if number is not None:
            return number, [], []
        if value == x or node is None:
            return 1.0, [value], []
        if node.op_type == "Pow" and self.number(node.input[1], beside=x) == 3:
            return 1.0, [node.input[0]] * 3, [node]
        if node.op_type != "Mul":
            return 1.0, [value], []
        parts = [self.factorized(name, x) for name in node.input]
        return parts[0][0] * parts[1][0], parts[0][1] + parts[1][1], [node, *parts[0][2], *parts[1][2]]

    def product(self, value: str, x: str) -> list[NodeProto] | None:
        """The nodes that multiply `value` by x and by one half; None where they do something else."""
        wanted, nodes = {x, 0.5}, []
        while wanted:
            node = self.reader(value)
            if node is None or node.op_type not in ("Mul", "Div"):
                return None
            found = self.factors(node, value, x)
            if not found or not found <= wanted:
                return None
            wanted -= found
            nodes.append(node)
            value = node.output[0]
        return nodes

    def factors(self, node: NodeProto, value: str, x: str) -> set[str | float]:
        """Which of x and one half this node multiplies `value` by."""
        if self.scaled(node, 0.5) == value:
            return {0.5}
        if node.op_type != "Mul" or sorted(node.input) == [value, value]:
            return set()
        name = next(n for n in node.input if n != value)
        return {x} if name == x else {x, 0.5} if self.scaled(self.writer(name), 0.5) == x else set()

    def scaled(self, node: NodeProto | None, factor: float) -> str | None:
        """What this node multiplies by `factor`, or divides by its inverse."""
        if node is None or node.op_type not in ("Mul", "Div"):
            return None
        if node.op_type == "Div":
            number = self.number(node.input[1], beside=node.input[0])
            return node.input[0] if number and abs(1 / number / factor - 1) < _CLOSE else None
        for name, constant in (tuple(node.input), tuple(reversed(node.input))):
            number = self.number(constant, beside=name)
            if number is not None and abs(number / factor - 1) < _CLOSE:
                return str(name)
        return None

    def other(self, node: NodeProto, value: str) -> float | None:
        """The number beside `value` among the inputs of a node."""
        return next((self.number(name, beside=value) for name in node.input if name != value), None)

    def number(self, name: str, *, beside: str) -> float | None:
        """A constant of one element that adds no dimension to the value beside it."""
        value = self.constants.get(name)
        if value is None or value.size != 1 or value.ndim > max(1, self.ranks.get(beside, 0)):
            return None
        return float(value.item())

    def writer(self, value: str) -> NodeProto | None:
        return next((n for n in self.graph.node if value in n.output), None)

    def reader(self, value: str) -> NodeProto | None:
        """The only node that reads an inner value."""
        readers = [n for n in self.graph.node if value in node_reads(n)]
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def drop(self, node: NodeProto | None) -> None:
        """Remove a node that nothing reads any more."""
        if node is None or node.output[0] in self.outputs:
            return
        if not any(node.output[0] in node_reads(n) for n in self.graph.node):
            self.graph.node.remove(node)
