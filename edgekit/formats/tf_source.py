"""A source of TensorFlow's family, loaded: named inputs, named outputs, and a function that can be traced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.errors import Unsupported, UsageError, nearest

__all__ = ["TfSource", "check_numbers", "unique_names"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TfSource:
    """`inputs`: a tf.TensorSpec by name, in the model's order, None for a dynamic dimension.

    `call` takes tensors by input name and gives tensors by output name, in the model's order; it can be
    traced into a graph. `owner` holds the variables of `call`, which itself may hold them weakly. `notes`
    are for the reader of the report.
    """

    inputs: dict[str, Any]
    call: Callable[[dict[str, Any]], dict[str, Any]]
    owner: Any = None
    notes: tuple[str, ...] = ()

    def answers(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What the framework itself answers, by output name."""
        tf = require("tensorflow")
        given = self.complete(arrays)
        tensors = {n: tf.constant(given[n], dtype=spec.dtype) for n, spec in self.inputs.items()}
        return {name: np.asarray(value) for name, value in self.call(tensors).items()}

    def complete(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The arrays of all inputs in order; zeros for one that the graph dropped, as nothing reads it."""
        return {n: arrays[n] if n in arrays else _zeros(spec) for n, spec in self.inputs.items()}

    def with_shapes(self, shapes: Mapping[str, Sequence[int]], *, batch: bool, where: str) -> dict[str, Any]:
        """The specs of the inputs with `shapes` in them; a dynamic first dimension stays when `batch`.

        Raises `UsageError` for shapes that do not fit or are not known.
        """
        tf = require("tensorflow")
        if unknown := sorted(shapes.keys() - self.inputs.keys()):
            what = f"--shape names {unknown[0]!r}, which is no input of the model"
            raise UsageError(f"{what}; {nearest(unknown[0], self.inputs)}", where=where)
        specs: dict[str, Any] = {}
        problems = []
        for name, spec in self.inputs.items():
            own = list(spec.shape) if spec.shape.rank is not None else [None] * len(shapes.get(name, ()))
            asked = shapes.get(name, own)
            if len(asked) != len(own) or any(o not in (a, None) for a, o in zip(asked, own, strict=True)):
                problems.append(f"{name}: got {tuple(asked)}, the model has {tuple(own)}")
                continue
            dims = list(asked)
            if dims and own[0] is None:
                dims[0] = None if batch else asked[0] or 1
            if None in dims[1:]:
                problems.append(f"{name} is {tuple(own)}: give it a size, --shape {name}={_example(own)}")
            specs[name] = tf.TensorSpec(dims, spec.dtype, name=f"input_{len(specs)}")
        if problems:
            raise UsageError("the shapes do not fit the model", where=where, problems=problems)
        return specs


def _example(shape: Sequence[int | None]) -> str:
    return ",".join(str(d or (16 if i else 1)) for i, d in enumerate(shape)) or "1,16"


def _zeros(spec: Any) -> NDArray[Any]:
    return np.zeros([d or 1 for d in spec.shape], spec.dtype.as_numpy_dtype)


def check_numbers(inputs: Mapping[str, Any], where: str) -> None:
    """Raise `Unsupported` for an input that no tensor of numbers can be: text, ragged or sparse tensors."""
    tf = require("tensorflow")
    for name, spec in inputs.items():
        if not isinstance(spec, tf.TensorSpec):
            what = f"is a {type(spec).__name__.removesuffix('Spec')}"
        elif spec.dtype in (tf.string, tf.resource, tf.variant):
            what = f"is {spec.dtype.name}" if spec.dtype != tf.string else "holds text"
        else:
            continue
        raise Unsupported(
            f"the input {name!r} {what}, numbers in a plain tensor are needed",
            where=where,
            hint="cut that part off the model and do it before the network",
        )


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, a repeated one with _1, _2 … behind it."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        count = seen.get(name, 0)
        seen[name] = count + 1
        unique.append(f"{name}_{count}" if count else name)
    return unique
