"""Nothing in the file that the network does not compute with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit import __version__
from edgekit.graph.result import PassResult
from edgekit.graph.walk import all_graphs

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["apply"]

_OF_THE_FILE = (
    "doc_string", "metadata_props", "domain", "model_version", "training_info", "configuration",
)  # fmt: skip


def apply(model: ModelProto) -> PassResult:
    """Remove doc strings, metadata and the exporter's name: they hold paths and change between runs.

    Before: `doc_string`, `metadata_props`, `producer_*`, `domain`, `model_version` and the graph's name as
    the exporter left them, training and sharding information.
    After: the same file wherever and whenever the same network was exported.
    Must not change: nodes, names, weights, types, shapes.
    """
    named = (model.producer_name, model.producer_version, model.graph.name)
    modified = _clear(model, *_OF_THE_FILE) or named != ("edgekit", __version__, "model")
    model.producer_name, model.producer_version = "edgekit", __version__
    model.graph.name = "model"
    for graph in all_graphs(model.graph):
        items = [graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node]
        attributes = [attribute for node in graph.node for attribute in node.attribute]
        items += [t for a in attributes if a.HasField("t") for t in (a.t, *a.tensors)]
        cleared = [_clear(item, "doc_string", "metadata_props", "device_configurations") for item in items]
        cleared += [_clear(attribute, "doc_string") for attribute in attributes]
        modified = _clear(graph, "quantization_annotation") or any(cleared) or modified
    return PassResult(model=model, modified=modified)


def _clear(message: Any, *fields: str) -> bool:
    """Clear the fields, where the message has them; whether anything was in them."""
    present = {field.name for field, _ in message.ListFields()}.intersection(fields)
    for name in present:
        message.ClearField(name)
    return bool(present)
