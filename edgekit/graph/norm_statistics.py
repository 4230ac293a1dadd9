"""A small graph that tells what the first BatchNormalization nodes of a network are fed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.graph import dead_code
from edgekit.graph.canonical import save_model
from edgekit.graph.walk import attribute, constants, dimensions, node_reads

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Floats = NDArray[np.float64]

__all__ = ["FIRST_NORMS", "statistics_graph", "write_statistics"]

FIRST_NORMS = 4  # layers: more tell no more, and cost more
_EPSILON = 1e-5  # the default of the operator's specification


def write_statistics(model: str, out: str) -> bool:
    """Write `statistics_graph` of the unfolded canonical ONNX file to `out`; False: there is none."""
    onnx = require("onnx")
    made = statistics_graph(onnx.load(model))
    if made is None:
        return False
    save_model(made, Path(out))
    return True


def statistics_graph(model: ModelProto) -> ModelProto | None:
    """The part of the network up to its first BatchNormalization nodes, which answers with their statistics.

    For each, "<name>/first" and "<name>/second", [N, channels] in float32: mean over the positions of
    d = (x - running mean) / sqrt(running variance + epsilon), and of d squared plus epsilon / (running
    variance + epsilon), so that second - first**2 is the ratio of variances, epsilon counted in both (it is
    what a channel that is dead has). None when no BatchNormalization in inference mode with constant
    parameters depends on an input. Changes `model`.
    """
    onnx = require("onnx")
    found = _first_norms(model)
    if not found:
        return None
    graph = model.graph
    ranks = {v.name: dimensions(v) for v in (*graph.value_info, *graph.input)}
    del graph.output[:]
    for number, (node, mean, variance) in enumerate(found):
        _measure(model, node, mean, variance, f"norm{number}", len(ranks[node.input[0]] or ()))
    model = dead_code.apply(model).model
    read = {name for node in model.graph.node for name in node_reads(node)}
    for value in [v for v in model.graph.input if v.name not in read]:
        model.graph.input.remove(value)
    del model.graph.value_info[:]
    for value in model.graph.input:  # samples of a dynamic network come in other sizes
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    onnx.checker.check_model(model)
    return model


def _first_norms(model: ModelProto) -> list[tuple[NodeProto, Floats, Floats]]:
    """The nodes, each with its running mean and variance."""
    graph = model.graph
    known = constants(graph)
    shapes = {v.name: dimensions(v) for v in (*graph.value_info, *graph.input)}
    live = {value.name for value in graph.input}
    found: list[tuple[NodeProto, Floats, Floats]] = []
    for node in graph.node:
        if not live & node_reads(node):
            continue
        live.update(node.output)
        if node.op_type != "BatchNormalization" or node.domain or attribute(node, "training_mode", 0):
            continue
        if shapes.get(node.input[0]) and all(name in known for name in node.input[3:5]):
            mean, variance = (known[name].astype(np.float64) for name in node.input[3:5])
            found.append((node, mean, variance))
        if len(found) == FIRST_NORMS:
            break
    return found


def _measure(
    model: ModelProto, norm: NodeProto, mean: Floats, variance: Floats, name: str, rank: int
) -> None:
    onnx = require("onnx")
    graph, helper = model.graph, onnx.helper
    shape = (1, -1, *[1] * (rank - 2))
    epsilon = attribute(norm, "epsilon", _EPSILON)
    factor = 1 / np.sqrt(variance + epsilon)
    weights: dict[str, Any] = {
        "mean": mean.reshape(shape).astype(np.float32),
        "factor": factor.reshape(shape).astype(np.float32),
        "share": (epsilon / (variance + epsilon)).reshape(1, -1).astype(np.float32),
        "axes": np.arange(2, rank, dtype=np.int64),
    }
    own = {key: f"edgekit/{name}/{key}" for key in (*weights, "data", "centred", "scaled", "square", "power")}
    nodes = [
        helper.make_node("Cast", [norm.input[0]], [own["data"]], to=onnx.TensorProto.FLOAT),
        helper.make_node("Sub", [own["data"], own["mean"]], [own["centred"]]),
        helper.make_node("Mul", [own["centred"], own["factor"]], [own["scaled"]]),
        helper.make_node("Mul", [own["scaled"], own["scaled"]], [own["square"]]),
    ]
    first, second = f"{name}/first", f"{name}/second"
    for source, output in (("scaled", first), ("square", own["power"])):
        mode = {"keepdims": 0, "noop_with_empty_axes": 1}
        nodes.append(helper.make_node("ReduceMean", [own[source], own["axes"]], [output], **mode))
    nodes.append(helper.make_node("Add", [own["power"], own["share"]], [second]))
    for output in (first, second):
        graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [None, mean.size]))
    for node in nodes:
        node.name = f"edgekit/{node.output[0]}"
    graph.node.extend(nodes)
    graph.initializer.extend(onnx.numpy_helper.from_array(v, own[k]) for k, v in weights.items())
