"""Weights of a trainable module back into the graph it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.model import Model
from edgekit.core.packages import require
from edgekit.errors import UsageError
from edgekit.train.layers import arrays_of

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["write_back", "written"]


def write_back(module: Any, model: Model | str | Path, out: str | Path) -> Path:
    """Write the graph `module` was made from, with the module's weights, to the ONNX file `out`.

    `model` is what `trainable` got. Everything but the values of weights stays; what was not trained comes
    out bit by bit as it was. Nodes that shared one initializer but were trained apart get one each. Raises
    `UsageError` for a module of another graph, and for weights that are not finite.
    """
    from edgekit.graph.canonical import save_model

    onnx = require("onnx", needed_for="training")
    path = model.unfolded if isinstance(model, Model) else Path(model)
    proto = written(module, onnx.load(str(path)), where=str(path))
    save_model(proto, Path(out))
    return Path(out)


def written(module: Any, proto: ModelProto, *, where: str = "") -> ModelProto:
    """`proto`, changed to hold the module's weights."""
    layers = module.meta.get("layers")
    if layers is None:
        raise UsageError("this module is none that `trainable` made", where=where)
    old = {t.name: t for t in proto.graph.initializer}
    nodes = {n.name: n for n in proto.graph.node}
    values: dict[str, NDArray[Any]] = {}
    for layer in layers:
        for position, array in arrays_of(module, layer).items():
            name = layer.initializers[position]
            tensor = old.get(name)
            if tensor is None or (layer.node and layer.node not in nodes):
                place = layer.node or name
                raise UsageError(f"the module's {place!r} is not in this graph", where=where)
            array = _fitted(array, tensor, where)
            if name not in values:
                values[name] = array
            elif not np.array_equal(values[name], array) and layer.node:
                own = _free(f"{name}_{layer.path}", {*old, *values})
                nodes[layer.node].input[position] = own
                values[own] = array
    _replace(proto, values)
    return proto


def _fitted(array: NDArray[Any], tensor: Any, where: str) -> NDArray[Any]:
    onnx = require("onnx")
    if not np.isfinite(array).all():
        raise UsageError(
            f"the weights of {tensor.name!r} are not finite",
            where=where,
            hint="training diverged: take the last good checkpoint, and a lower learning rate",
        )
    shape = tuple(tensor.dims)
    if array.size != int(np.prod(shape)):
        raise UsageError(
            f"{tensor.name!r} has the shape {list(array.shape)}, the graph's has {list(shape)}",
            where=where,
            hint="a pruned module needs its graph pruned, too",
        )
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return array.reshape(shape).astype(dtype)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _replace(proto: ModelProto, values: dict[str, NDArray[Any]]) -> None:
    onnx = require("onnx")
    for tensor in proto.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.pop(tensor.name), tensor.name))
    made = [onnx.numpy_helper.from_array(array, name) for name, array in values.items()]
    proto.graph.initializer.extend(made)
