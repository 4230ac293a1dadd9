"""Units of a graph that can only be removed together: channels of layers that feed each other, or heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require

__all__ = ["Cut", "Group", "arrays", "with_arrays", "without_places"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Where units lie in a constant of the graph.

    `units` [size of `axis`] says to which unit each place on that axis belongs (-1: to none). `side`: the
    places make the units' values ("out"), or read them ("in").
    """

    constant: str
    axis: int
    units: NDArray[np.int64]
    side: Literal["out", "in"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`count` units named after the layer that makes them.

    `shapes`: name of a Reshape or Split -> the axis of its output whose size falls with the units, where that
    cannot be told from sizes. `products`: nodes without constants whose multiply-adds fall with them.
    """

    name: str
    kind: Literal["channels", "heads"]
    count: int
    cuts: tuple[Cut, ...]
    shapes: Mapping[str, int] = field(default_factory=dict)
    products: tuple[str, ...] = ()


def arrays(model: Any) -> dict[str, NDArray[Any]]:
    """The constants of an ONNX model by name."""
    from edgekit.graph.walk import constants

    return dict(constants(model.graph))


def with_arrays(model: Any, changed: Mapping[str, NDArray[Any]]) -> Any:
    """A copy of an ONNX model with these initializers instead of those of the same names."""
    onnx = require("onnx", needed_for="pruning")
    copy = type(model)()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(onnx.numpy_helper.from_array(changed[tensor.name], tensor.name))
    return copy


def without_places(
    values: NDArray[Any], axis: int, gone: NDArray[np.bool_], *, zeroed: bool = False
) -> NDArray[Any]:
    """The constant without these places of an axis; with `zeroed`, they stay and hold zeros."""
    if not zeroed:
        return np.ascontiguousarray(np.compress(~gone, values, axis=axis))
    places: list[Any] = [np.s_[:]] * values.ndim
    places[axis] = gone
    changed = values.copy()
    changed[tuple(places)] = 0
    return changed
