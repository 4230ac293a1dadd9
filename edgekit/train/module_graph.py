"""Building a `torch.fx` graph from an ONNX graph: a value is a node, a weight-bearing node is a module."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.errors import Reason, Unsupported
from edgekit.graph.walk import attribute, constants, dimensions

if TYPE_CHECKING:
    from onnx import NodeProto

__all__ = ["Emitter", "Later", "Layer", "ModuleGraph", "Op"]

Emitter = Callable[["Op"], Any]  # gives the fx node of the first output, or a list: one for each output


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One node of the ONNX graph whose constants became parameters.

    `path` is the submodule that holds them ("" and `kind` "parameter": the parameter `name` of the root).
    `kind` says how they lie there (`edgekit.train.layers`). `initializers` names, by input position, the
    graph's constants ("" where an input is absent or no constant). `options` are what the layout depends on.
    """

    node: str
    path: str
    kind: str
    initializers: tuple[str, ...]
    options: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Later:
    """A value that is made when it is first read: what it depends on is further down the graph."""

    make: Callable[[], Any]


class ModuleGraph:
    """An fx graph that grows node by node of an ONNX graph, with the modules and constants it refers to."""

    def __init__(self, model: Any, learned: Collection[str] = ()) -> None:
        torch = require("torch", needed_for="training")
        self.root = torch.nn.Module()
        self.graph = torch.fx.Graph()
        self.model = model
        self.learned = frozenset(learned)
        self.constants = constants(model.graph)
        infos = [*model.graph.input, *model.graph.output, *model.graph.value_info]
        self.shapes: dict[str, tuple[int | str, ...]] = {v.name: dimensions(v) or () for v in infos}
        self.shapes |= {name: array.shape for name, array in self.constants.items()}
        self.values: dict[str, Any] = {}  # tensor name -> fx node
        self.producers = {o: n for n in model.graph.node for o in n.output if o}
        self.layers: list[Layer] = []
        self.parameters: dict[tuple[str, str], Any] = {}  # (initializer, layout) -> the parameter it became
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        """A Python identifier like `name` that no submodule, parameter or buffer of the root has."""
        word = re.sub(r"\W+", "_", name).strip("_") or "value"
        word = f"_{word}" if word[0].isdigit() else word
        candidate, number = word, 1
        while candidate in self._taken or hasattr(self.root, candidate):
            number += 1
            candidate = f"{word}_{number}"
        self._taken.add(candidate)
        return candidate

    def value(self, name: str) -> Any:
        """The fx node of a tensor; a constant becomes a buffer, or a parameter if it is to be learned."""
        if isinstance(self.values.get(name), Later):
            self.values[name] = self.values[name].make()
        if name not in self.values:
            if name in self.learned:
                return self.parameter(name, node="", position=0)
            torch = require("torch")
            path = self.unique(name)
            self.root.register_buffer(path, torch.from_numpy(np.array(self.constants[name])))
            self.values[name] = self.graph.get_attr(path)
        return self.values[name]

    def parameter(self, name: str, *, node: str, position: int) -> Any:
        """The fx node of a constant that is a parameter of the root, laid out as in the graph."""
        if name in self.values and name in {i for layer in self.layers for i in layer.initializers}:
            return self.values[name]
        torch = require("torch")
        path = self.unique(name)
        values = torch.from_numpy(np.array(self.constants[name]))
        self.root.register_parameter(path, torch.nn.Parameter(values))
        self.values[name] = self.graph.get_attr(path)
        blanks = ("",) * position
        layer = Layer(node=node, path=path, kind="parameter", initializers=(*blanks, name))
        self.layers.append(layer)
        return self.values[name]


@dataclass(frozen=True, slots=True)
class Op:
    """One ONNX node while it is turned into fx nodes."""

    builder: ModuleGraph
    node: NodeProto

    @property
    def type(self) -> str:
        """The operator's name."""
        return str(self.node.op_type)

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value; text comes as str."""
        value = attribute(self.node, name, default)
        return value.decode() if isinstance(value, bytes) else value

    def has(self, position: int) -> bool:
        """Whether the node has an input at this position."""
        return len(self.node.input) > position and bool(self.node.input[position])

    def name(self, position: int) -> str:
        """The name of an input, "" where there is none."""
        return str(self.node.input[position]) if self.has(position) else ""

    def tensor(self, position: int) -> Any:
        """The fx node of an input; None where there is none."""
        return self.builder.value(self.name(position)) if self.has(position) else None

    def tensors(self) -> list[Any]:
        """The fx nodes of all inputs."""
        return [self.tensor(i) for i in range(len(self.node.input))]

    def constant(self, position: int) -> NDArray[Any] | None:
        """The array of an input that is a constant of the graph, else None."""
        return self.builder.constants.get(self.name(position)) if self.has(position) else None

    def integers(self, position: int) -> list[int]:
        """The integers of a constant input. Raises `Unsupported` when the graph computes them."""
        found = self.constant(position)
        if found is None:
            raise self.refuse(f"its input {position} ({self.name(position)!r}) is computed, not a constant")
        return [int(v) for v in found.reshape(-1)]

    def number(self, position: int, default: float) -> float:
        """The one value of a constant input, `default` where it is absent."""
        if not self.has(position):
            return default
        found = self.constant(position)
        if found is None or found.size != 1:
            raise self.refuse(f"its input {position} ({self.name(position)!r}) is not one constant number")
        return float(found.reshape(-1)[0])

    def shape(self, position: int = 0) -> tuple[int, ...]:
        """The static shape of an input."""
        return self._static(self.name(position))

    def output_shape(self, position: int = 0) -> tuple[int, ...]:
        """The static shape of an output."""
        return self._static(str(self.node.output[position]))

    def _static(self, name: str) -> tuple[int, ...]:
        dims = self.builder.shapes.get(name)
        if dims is None or not all(isinstance(d, int) for d in dims):
            raise self.refuse(f"the shape of {name!r} is not fixed in the file", "read it by edgekit.open")
        return tuple(int(d) for d in dims)

    def call(self, function: str | Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of a function: one of torch by its dotted name, or a function of ours."""
        target: Any = function
        if isinstance(function, str):
            target = require("torch")
            for part in function.split("."):
                target = getattr(target, part)
        return self.builder.graph.call_function(target, args, kwargs)

    def module(self, module: Any, *args: Any, kind: str, inputs: Sequence[int], **options: int) -> Any:
        """A call of a new submodule that holds the constants of `inputs`; it is listed among the layers."""
        builder = self.builder
        path = builder.unique(self.node.name)
        builder.root.add_module(path, module)
        names = tuple(self.name(i) if i in inputs else "" for i in range(len(self.node.input)))
        layer = Layer(node=self.node.name, path=path, kind=kind, initializers=names, options=options)
        builder.layers.append(layer)
        return builder.graph.call_module(path, args)

    def refuse(self, why: str, hint: str = "") -> Unsupported:
        """The error to raise when this node cannot be followed."""
        reason = Reason(node=f"{self.node.name} ({self.type})", why=why, hint=hint)
        return Unsupported("the graph has no trainable form", reasons=[reason])
