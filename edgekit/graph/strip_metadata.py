"""Nothing in the file that the network does not compute with."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    before = model.SerializeToString(deterministic=True)
    for field in _OF_THE_FILE:
        if field in model.DESCRIPTOR.fields_by_name:
            model.ClearField(field)
    model.producer_name, model.producer_version = "edgekit", __version__
    model.graph.name = "model"
    for graph in all_graphs(model.graph):
        _strip(graph)
        graph.ClearField("quantization_annotation")
        for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            _strip(item)
        for node in graph.node:
            _strip(node)
            for attribute in node.attribute:
                attribute.ClearField("doc_string")
                for tensor in (attribute.t, *attribute.tensors) if attribute.HasField("t") else ():
                    _strip(tensor)
    return PassResult(model=model, modified=model.SerializeToString(deterministic=True) != before)


def _strip(message: object) -> None:
    for field in ("doc_string", "metadata_props", "device_configurations"):
        if field in message.DESCRIPTOR.fields_by_name:  # type: ignore[attr-defined]
            message.ClearField(field)  # type: ignore[attr-defined]
