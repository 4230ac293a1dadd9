"""What can be computed without an input is computed: shapes of fixed tensors, constants of constants."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.large_tensors import is_hollow
from edgekit.core.packages import require
from edgekit.graph import infer_shapes, lift_constants
from edgekit.graph.result import PassResult
from edgekit.graph.walk import attribute, constants, dimensions, names_in, rename_reads, subgraphs

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply", "evaluated", "fold_hollow", "fold_once"]

# Their results are no larger than their inputs, also where ONNX infers no shape: that of nothing, say.
_SMALLER = frozenset(
    ("Cast", "Compress", "Concat", "Gather", "Identity", "NonZero", "Reshape", "Slice", "Split", "Squeeze",
     "Transpose", "Unique", "Unsqueeze")
)  # fmt: skip
_LARGEST = 1 << 20  # elements: a larger constant costs more in the file than its node does at run time
_AT_ONCE = 1 << 25  # bytes
_OF_HOLLOW = _SMALLER | {"MatMul"}  # a first state of zeros, say, by the weights of a recurrent layer
# Two of the same are not the same; and quantizers hold what later steps read from the graph.
_NEVER = (
    "Bernoulli", "DequantizeLinear", "Multinomial", "QuantizeLinear", "RandomNormal", "RandomNormalLike",
    "RandomUniform", "RandomUniformLike",
)  # fmt: skip


def apply(model: ModelProto) -> PassResult:
    """Fold until nothing more can be: for graphs that onnxsim fails on, and where it was not asked for.

    Before: x -> Shape -> Gather -> Concat -> Reshape; If on a condition that is a constant.
    After: Reshape with a constant shape; the nodes of the branch that is taken.
    Must not change: values; names of inputs and outputs; constants above 1 M elements stay nodes; random
    and quantizing operators stay.
    """
    modified = False
    while True:
        model = infer_shapes.apply(lift_constants.apply(model).model).model  # a branch brings its own
        changed = fold_once(model.graph)
        changed = _take_branches(model.graph) or changed
        modified = modified or changed
        if not changed:
            return PassResult(model=model, modified=modified)


def fold_hollow(graph: GraphProto) -> bool:
    """Fold, in place, nodes that make constants of hollow initializers and other constants; whether any was.

    It ends when what was made is `_AT_ONCE`, for that to be set aside before it goes on.
    """
    hollow = {tensor.name for tensor in graph.initializer if is_hollow(tensor)}
    outputs = {value.name for value in graph.output}
    if not any(node.op_type in _OF_HOLLOW and hollow.intersection(node.input) for node in graph.node):
        return False
    onnx = require("onnx")
    known = constants(graph)
    shapes = {value.name: dimensions(value) for value in graph.value_info}
    made = 0
    changed = False
    for node in list(graph.node):
        if made >= _AT_ONCE:
            break
        reads = [name for name in node.input if name]
        alone = hollow.intersection(reads) and all(name in known for name in reads)
        if not alone or node.op_type not in _OF_HOLLOW or outputs.intersection(node.output):
            continue
        values = _computed(node, known, shapes)
        if values is not None:
            for name, value in values.items():
                graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
                made += value.nbytes
            graph.node.remove(node)
            changed = True
    return changed


def fold_once(graph: GraphProto) -> bool:
    """Fold, in place, what the constants and the known shapes decide now; whether anything was."""
    onnx = require("onnx")
    known = constants(graph)
    outputs = {value.name for value in graph.output}
    shapes = {v.name: dimensions(v) for v in (*graph.value_info, *graph.input)}
    changed = False
    for node in list(graph.node):
        if any(name in outputs for name in node.output):
            continue
        values = _computed(node, known, shapes)
        if values is None:
            continue
        for name, value in values.items():
            known[name] = value
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        graph.node.remove(node)
        changed = True
    return changed


def _computed(
    node: NodeProto, known: dict[str, NDArray[Any]], shapes: dict[str, tuple[int | str, ...] | None]
) -> dict[str, NDArray[Any]] | None:
    """The outputs of a node that depends on constants alone, or None."""
    if node.domain or node.op_type in _NEVER or any(subgraphs(node)):
        return None
    if node.op_type == "Shape":
        dims = shapes.get(node.input[0])
        if dims is not None and all(isinstance(d, int) for d in dims):
            part = dims[attribute(node, "start", 0) : attribute(node, "end", None)]
            return {node.output[0]: np.array(part, dtype=np.int64)}
    inputs = [name for name in node.input if name]
    if not all(name in known for name in inputs) or not node.input:
        return None
    sizes = [shapes.get(name) for name in node.output if name]
    if node.op_type not in _SMALLER and any(
        s is None or prod(d if isinstance(d, int) else _LARGEST + 1 for d in s) > _LARGEST for s in sizes
    ):
        return None
    return evaluated(node, {name: known[name] for name in inputs})


def evaluated(node: NodeProto, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]] | None:
    """The node's outputs by the reference implementation of ONNX; None where it lacks operator or type."""
    from edgekit.core.model import CANONICAL_OPSET

    onnx = require("onnx")
    evaluator = require("onnx.reference").ReferenceEvaluator
    helper = onnx.helper
    info = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for n, v in inputs.items()
    ]
    names = [name for name in node.output if name]
    graph = helper.make_graph([node], "one", info, [helper.make_empty_tensor_value_info(n) for n in names])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", CANONICAL_OPSET)])
    try:
        values = evaluator(model).run(None, inputs)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return None  # the reference lacks this operator or type: the node stays as it is
    return {name: np.asarray(value) for name, value in zip(names, values, strict=True)}


def _take_branches(graph: GraphProto) -> bool:
    known = constants(graph)
    changed = False
    for node in [n for n in graph.node if n.op_type == "If" and n.input[0] in known]:
        taken = "then_branch" if known[node.input[0]].all() else "else_branch"
        branch: GraphProto = next(a.g for a in node.attribute if a.name == taken)
        _inline(graph, node, branch)
        changed = True
    return changed


def _inline(graph: GraphProto, node: NodeProto, branch: GraphProto) -> None:
    onnx = require("onnx")
    _rename_apart(graph, node, branch)
    place = next(i for i, n in enumerate(graph.node) if n is node or n == node)
    bridges = [
        onnx.helper.make_node("Identity", [value.name], [name])
        for value, name in zip(branch.output, node.output, strict=True)
        if name
    ]
    before, after = list(graph.node)[:place], list(graph.node)[place + 1 :]
    nodes = [type(n).FromString(n.SerializeToString()) for n in (*before, *branch.node, *bridges, *after)]
    tensors = [type(t).FromString(t.SerializeToString()) for t in branch.initializer]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _rename_apart(graph: GraphProto, node: NodeProto, branch: GraphProto) -> None:
    """Give what the branch defines a new name where the rest of the graph uses the name too.

    Branches of two If nodes may use one name; in one graph they may not.
    """
    outside = [n for n in graph.node if n != node]
    taken = {name for n in outside for name in (*n.input, *n.output)} | {t.name for t in graph.initializer}
    taken |= {name for n in outside for g in subgraphs(n) for name in names_in(g)}
    renames = {name: f"{node.output[0]}/{name}" for name in names_in(branch) & taken}
    if not renames:
        return
    rename_reads(branch, renames)
    for value in branch.output:
        value.name = renames.get(value.name, value.name)
    for tensor in branch.initializer:
        tensor.name = renames.get(tensor.name, tensor.name)
    for one in branch.node:
        for i, name in enumerate(one.output):
            one.output[i] = renames.get(name, name)
