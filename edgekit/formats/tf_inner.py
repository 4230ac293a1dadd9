"""What a source of TensorFlow's family computes inside: the values by which a wrong reading is located."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.formats.tf_export import frozen
from edgekit.formats.tf_source import TfSource

__all__ = ["InnerValues", "inner_values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InnerValues:
    """`values` in the order of execution, by the name of what computed them: a `kind` of things.

    `reads`: name -> the names its value is made from; empty where that is not known.
    """

    kind: str
    values: dict[str, NDArray[Any]]
    reads: dict[str, list[str]] = field(default_factory=dict)


def inner_values(source: TfSource, arrays: Mapping[str, NDArray[Any]]) -> InnerValues:
    """What the layers of a Keras model answer, or the operations of another source's graph."""
    if not hasattr(source.owner, "_flatten_layers"):
        return _operations(source, arrays)
    listener = _Listener(values={}, reads={})
    with listener.attached(source.owner):
        source.answers(arrays)
    return InnerValues(kind="layer", values=listener.values, reads=listener.reads)


@dataclass(slots=True, kw_only=True)
class _Listener:
    """Notes what every layer below a model answers while the model is called, the inner ones first."""

    values: dict[str, NDArray[Any]]
    reads: dict[str, list[str]]
    path: list[str] = field(default_factory=list)
    inside: list[list[str]] = field(default_factory=lambda: [[]])  # names noted within each layer of the path
    made: dict[int, tuple[Any, str]] = field(default_factory=dict)  # a tensor's id -> itself, its name

    @contextmanager
    def attached(self, model: Any) -> Iterator[None]:
        """Listen to the layers of the model."""
        layers = [layer for layer in model._flatten_layers() if layer is not model]
        before = [(layer, layer.__dict__.get("call")) for layer in layers]
        for layer in layers:
            object.__setattr__(layer, "call", self._heard(layer, layer.call))
        try:
            yield
        finally:
            for layer, own in before:
                if own is None:
                    object.__delattr__(layer, "call")
                else:
                    object.__setattr__(layer, "call", own)

    def _heard(self, layer: Any, call: Any) -> Any:
        tf = require("tensorflow")

        @functools.wraps(call)
        def answer(*args: Any, **kwargs: Any) -> Any:
            self.path.append(layer.name)
            self.inside.append([])
            try:
                got = call(*args, **kwargs)
            finally:
                name, within = "/".join(self.path), self.inside.pop()
                self.path.pop()
            given = tf.nest.flatten((args, kwargs))
            read = [*within, *(self.made[id(t)][1] for t in given if id(t) in self.made)]
            for value in tf.nest.flatten(got):
                if tf.is_tensor(value) and hasattr(value, "numpy"):
                    unique = _add(self.values, f"{name!r} ({type(layer).__name__})", np.asarray(value))
                    self.reads[unique] = read
                    self.made[id(value)] = value, unique
                    within = [*within, unique]
            self.inside[-1] += within
            return got

        return answer


def _operations(source: TfSource, arrays: Mapping[str, NDArray[Any]]) -> InnerValues:
    """The float tensors of the frozen graph, in its order, those in loops left out."""
    tf = require("tensorflow")
    specs = {
        name: tf.TensorSpec(arrays[name].shape if name in arrays else spec.shape, spec.dtype)
        for name, spec in source.inputs.items()
    }

    @tf.function(input_signature=list(specs.values()), autograph=False)  # type: ignore[untyped-decorator]
    def network(*tensors: Any) -> Any:
        return list(source.call(dict(zip(specs, tensors, strict=True))).values())

    function = frozen(network)
    made = _computed(function)
    given = [tf.constant(value) for value in source.complete(arrays).values()]
    answers = function.prune(function.inputs, list(made.values()))(*given)
    values: dict[str, NDArray[Any]] = {}
    names: dict[str, str] = {}
    reads: dict[str, list[str]] = {}
    for (key, tensor), value in zip(made.items(), answers, strict=True):
        names[key] = _add(values, f"{tensor.op.name!r} ({tensor.op.type})", np.asarray(value))
        reads[names[key]] = [names[n] for t in tensor.op.inputs if (n := _origin(t).name) in names]
    return InnerValues(kind="operation", values=values, reads=reads)


def _computed(function: Any) -> dict[str, Any]:
    """The float tensors that depend on an input, by name, in order; copies and what nobody reads left out."""
    live: set[str] = set()
    made: dict[str, Any] = {}
    for operation in function.graph.get_operations():
        if operation.type != "Placeholder" and not any(t.name in live for t in operation.inputs):
            continue
        live.update(t.name for t in operation.outputs)
        if operation.type not in ("Placeholder", "Identity"):
            made.update((t.name, t) for t in operation.outputs if t.dtype.is_floating and t.consumers())
    return made


def _origin(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _add(values: dict[str, NDArray[Any]], name: str, value: NDArray[Any]) -> str:
    """Add a value under a name of its own: what answers again is numbered."""
    unique, count = name, 1
    while unique in values:
        count += 1
        unique = f"{name}, answer {count}"
    values[unique] = value
    return unique
