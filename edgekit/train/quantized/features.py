"""Layers of the float network by name, in the module of a quantized graph, for feature distillation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.errors import UsageError
from edgekit.train.from_graph import trainable
from edgekit.train.teaching import matching_layers

__all__ = ["expose_layers"]


def expose_layers(modules: Sequence[Any], source: Path, patterns: Sequence[str]) -> None:
    """Give each module, in place, a submodule that passes on what the layer of the same name gives.

    `source` is the float graph (an ONNX file) that the modules' QDQ graphs were made from; `patterns` are
    globs over the names of its layers. Raises `UsageError` for a pattern that matches none, and for a layer
    whose output no quantized graph has: operators without weights are no nodes of their own there.
    """
    onnx, nn = require("onnx"), require("torch").nn
    network = trainable(source)
    nodes = {layer.path: layer.node for layer in network.meta["layers"]}
    outputs = {node.name: str(node.output[0]) for node in onnx.load(str(source)).graph.node}
    tensors = {name: outputs.get(nodes.get(name, ""), "") for name in matching_layers(network, patterns)}
    for module in modules:
        values = module.meta["values"]
        missing = [name for name, tensor in tensors.items() if tensor not in values]
        if missing:
            raise UsageError(
                f"features: the quantized graph has no output of the layer {missing[0]!r}",
                hint=f"layers with weights: {', '.join(nodes)}",
            )
        made = {node.name: node for node in module.graph.nodes}
        for name, tensor in tensors.items():
            module.add_submodule(name, nn.Identity())
            node = made[values[tensor]]
            with module.graph.inserting_after(node):
                module.graph.call_module(name, (node,))
        module.graph.lint()
        module.recompile()
