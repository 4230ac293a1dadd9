"""Dynamic dimensions of a canonical ONNX file: opened for engines that take names, fixed in another size."""

from __future__ import annotations

from typing import Any

from edgekit.core.dynamic import Dynamic, dynamic_of, name_dimensions

__all__ = ["fixed_at", "opened"]


def opened(model: Any) -> Any:
    """The ModelProto with its dynamic dimensions named; itself when it has none."""
    dynamic = dynamic_of(model)
    if dynamic is None:
        return model
    copy = type(model).FromString(model.SerializeToString())
    name_dimensions(copy, dynamic)
    return copy


def fixed_at(model: Any, dynamic: Dynamic, variant: int) -> Any:
    """The ModelProto in set `variant` of the sizes of `dynamic`; what lies between inputs and outputs is left
    to be inferred.
    """
    copy = type(model).FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    for value in copy.graph.output:
        for dim, name in zip(value.type.tensor_type.shape.dim, dynamic.outputs[value.name], strict=True):
            if name:
                dim.Clear()
    for value in copy.graph.input:
        dims = value.type.tensor_type.shape.dim
        shape = dynamic.shape(value.name, tuple(d.dim_value for d in dims), variant)
        for dim, size in zip(dims, shape, strict=True):
            dim.dim_value = size
    return copy
