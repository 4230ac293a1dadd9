"""HardSigmoid and HardSwish that were written out in arithmetic are one node again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.graph.result import PassResult
from edgekit.graph.walk import attribute, constants, node_reads

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply"]

_SIXTH = 1 / 6
_CLOSE = 1e-8  # half a unit in the last place of 1/6 in float32 is 7e-9


def apply(model: ModelProto) -> PassResult:
    """Recognize what exporters without these operators write, so that no quantizer can come in between.

    Before: Clip(x + 3, 0, 6) / 6, or times 1/6
    After: HardSigmoid(x, alpha = 1/6, beta = 1/2)
    Before: x * Clip(x + 3, 0, 6) / 6, or x * HardSigmoid(x, 1/6, 1/2)
    After: HardSwish(x)
    Must not change: an intermediate value that something else reads; names of outputs.

    Source: Howard et al., https://arxiv.org/abs/1905.02244, section 5.2. Needs an opset from 14 on.
    """
    if not any(e.domain in ("", "ai.onnx") and e.version >= 14 for e in model.opset_import):
        return PassResult(model=model, modified=False)
    graph = _Graph(model.graph)
    clips = [graph.restore_sigmoid(n) for n in list(model.graph.node) if n.op_type == "Clip"]
    sigmoids = [graph.restore_swish(n) for n in list(model.graph.node) if n.op_type == "HardSigmoid"]
    return PassResult(model=model, modified=any((*clips, *sigmoids)))


class _Graph:
    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.constants: dict[str, NDArray[Any]] = constants(graph)
        self.outputs = {value.name for value in graph.output}

    def restore_sigmoid(self, clip: NodeProto) -> bool:
        moved = next((n for n in self.graph.node if clip.input[0] in n.output), None)
        if moved is None or moved.op_type != "Add" or self.reader(moved.output[0]) is None:
            return False
        x = self.operand(moved, 3.0)
        bounds = [self.number(name) for name in clip.input[1:]]
        last = self.reader(clip.output[0])
        if x is None or bounds != [0.0, 6.0] or last is None:
            return False
        chain, kind = [moved, clip, last], "HardSigmoid"
        if last.op_type == "Mul" and x in last.input:
            divided = self.reader(last.output[0])
            if divided is None:
                return False
            chain, kind = [*chain, divided], "HardSwish"
        if not self.sixth(chain[-1], chain[-2].output[0]):
            return False
        self.replace(chain, kind, x)
        return True

    def restore_swish(self, sigmoid: NodeProto) -> bool:
        known = attribute(sigmoid, "alpha", 0.2), attribute(sigmoid, "beta", 0.5)
        last = self.reader(sigmoid.output[0])
        if abs(known[0] - _SIXTH) > _CLOSE or known[1] != 0.5 or last is None or last.op_type != "Mul":
            return False
        if sorted(last.input) != sorted([sigmoid.input[0], sigmoid.output[0]]):
            return False
        self.replace([sigmoid, last], "HardSwish", sigmoid.input[0])
        return True

    def sixth(self, node: NodeProto, value: str) -> bool:
        """Whether `node` divides `value` by six."""
        if node.op_type == "Div":
            return node.input[0] == value and self.number(node.input[1]) == 6.0
        factors = [self.number(name) for name in node.input if name != value]
        return node.op_type == "Mul" and len(factors) == 1 and abs((factors[0] or 0.0) - _SIXTH) <= _CLOSE

    def reader(self, value: str) -> NodeProto | None:
        """The only node that reads an inner value."""
        readers = [n for n in self.graph.node if value in node_reads(n)]
        return readers[0] if len(readers) == 1 and value not in self.outputs else None

    def operand(self, node: NodeProto, constant: float) -> str | None:
        """The other input of a node that reads this number."""
        values = [self.number(name) for name in node.input]
        return str(node.input[1 - values.index(constant)]) if constant in values else None

    def number(self, name: str) -> float | None:
        value = self.constants.get(name)
        return float(value.item()) if value is not None and value.size == 1 and value.ndim <= 1 else None

    def replace(self, nodes: list[NodeProto], kind: str, x: str) -> None:
        """Let the last node compute `kind` of `x`, and drop the others."""
        last = nodes[-1]
        last.op_type = kind
        del last.attribute[:]
        del last.input[:]
        last.input.append(x)
        if kind == "HardSigmoid":
            for name, value in (("alpha", _SIXTH), ("beta", 0.5)):
                entry = last.attribute.add()
                entry.name, entry.type, entry.f = name, entry.FLOAT, value
        for node in nodes[:-1]:
            self.graph.node.remove(node)
