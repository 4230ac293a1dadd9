"""Every input gets a fixed shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgekit.errors import UsageError, nearest
from edgekit.graph.result import PassResult
from edgekit.graph.walk import dimensions

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

__all__ = ["apply"]


def apply(model: ModelProto, shapes: Mapping[str, tuple[int, ...]] | None = None) -> PassResult:
    """Fix the dimensions of the inputs: to `shapes` (by input name), else a dynamic first one to 1.

    Before: inputs with named or unknown dimensions, initializers listed as inputs.
    After: inputs are the real ones, every dimension a number. A name that two inputs share ("batch") gets
    one value. Shapes of outputs and of everything between are cleared where they were not fixed: they
    follow from the inputs.
    Must not change: nodes, weights, names, types, order of inputs and outputs, dimensions already fixed.

    Raises `UsageError` that lists every dimension still open, with the option that would fix it, every
    shape that contradicts the file and every unknown input name.
    """
    asked = dict(shapes or {})
    modified = _drop_weights_from_inputs(model)
    inputs = list(model.graph.input)
    names = [value.name for value in inputs]
    unknown = [name for name in asked if name not in names]
    problems = [f"--shape names {n!r}, no input of the model; {nearest(n, names)}" for n in unknown]
    bound: dict[str, int] = {}
    for value in inputs:
        if value.name in asked:
            problems += _bind(value, asked[value.name], bound)
    if problems:
        raise UsageError("the shapes do not fit the model's inputs", problems=problems)
    notes: list[str] = []
    for value in inputs:
        dims = dimensions(value)
        if value.name not in asked and dims and isinstance(dims[0], str) and dims[0] not in bound:
            bound.update({dims[0]: 1} if dims[0] else {})
            notes.append(f"the first dimension of the input {value.name!r} was dynamic and is fixed to 1")
    open_dims: list[str] = []
    for value in inputs:
        fixed, still_open = _fixed(value, asked.get(value.name), bound)
        open_dims += still_open
        if not still_open and fixed != dimensions(value):
            modified = True
            _set_shape(value, fixed)
    if open_dims:
        raise UsageError("the model has dynamic dimensions: give them a size", problems=open_dims)
    if modified:
        _clear_derived(model)
    return PassResult(model=model, modified=modified, notes=tuple(notes))


def _drop_weights_from_inputs(model: ModelProto) -> bool:
    weights = {t.name for t in model.graph.initializer}
    kept = [v for v in model.graph.input if v.name not in weights]
    if len(kept) == len(model.graph.input):
        return False
    copies = [type(v).FromString(v.SerializeToString()) for v in kept]
    del model.graph.input[:]
    model.graph.input.extend(copies)
    return True


def _bind(value: ValueInfoProto, shape: tuple[int, ...], bound: dict[str, int]) -> list[str]:
    dims = dimensions(value)
    given = ",".join(map(str, shape))
    if any(size < 1 for size in shape):
        return [f"{value.name}={given}: every size must be at least 1"]
    if dims is None:
        return []
    if len(dims) != len(shape):
        return [f"{value.name}={given}: {len(shape)} dimensions, the input has {len(dims)} ({_shown(dims)})"]
    problems = []
    for i, (dim, size) in enumerate(zip(dims, shape, strict=True)):
        if isinstance(dim, int):
            if dim != size:
                problems.append(f"{value.name}={given}: dimension {i} is {dim} in the file and cannot change")
        elif dim and bound.setdefault(dim, size) != size:
            problems.append(f"{value.name}={given}: {dim!r} is {bound[dim]} at another input, not {size}")
    return problems


def _fixed(
    value: ValueInfoProto, asked: tuple[int, ...] | None, bound: Mapping[str, int]
) -> tuple[tuple[int, ...], list[str]]:
    dims = dimensions(value)
    if asked is not None:
        return tuple(asked), []
    if dims is None:
        return (), [f"{value.name}: not even the number of dimensions is known: --shape {value.name}=1,..."]
    sizes: list[int] = []
    open_dims: list[str] = []
    for i, dim in enumerate(dims):
        if isinstance(dim, int):
            sizes.append(dim)
        elif i == 0 or dim in bound:
            sizes.append(bound.get(dim, 1) if dim else 1)
        else:
            name = f" ({dim!r})" if dim else ""
            option = f"--shape {value.name}={_example(dims, bound)}"
            open_dims.append(f"{value.name}: dimension {i}{name} is dynamic: {option}")
    return tuple(sizes), open_dims


def _example(dims: tuple[int | str, ...], bound: Mapping[str, int]) -> str:
    """The value of --shape with a word for each size that only the user knows."""
    words = []
    for i, dim in enumerate(dims):
        if isinstance(dim, int):
            words.append(str(dim))
        elif dim in bound or i == 0:
            words.append(str(bound.get(dim, 1)))
        else:
            words.append(dim.upper() if dim.isidentifier() else "SIZE")
    return ",".join(words)


def _set_shape(value: ValueInfoProto, shape: tuple[int, ...]) -> None:
    target = value.type.tensor_type.shape
    target.Clear()
    for size in shape:
        target.dim.add().dim_value = size
    if not shape:
        value.type.tensor_type.shape.SetInParent()


def _clear_derived(model: ModelProto) -> None:
    del model.graph.value_info[:]
    for value in model.graph.output:
        dims = dimensions(value) or ()
        for i, dim in enumerate(dims):
            if not isinstance(dim, int):
                value.type.tensor_type.shape.dim[i].Clear()


def _shown(dims: tuple[int | str, ...]) -> str:
    return ",".join(str(d) if d != "" else "?" for d in dims)
