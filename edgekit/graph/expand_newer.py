"""Function operators that came after the canonical opset become their bodies."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from edgekit.core.model import CANONICAL_OPSET
from edgekit.core.packages import require
from edgekit.graph import fold_constants, lift_constants
from edgekit.graph.result import PassResult
from edgekit.graph.walk import constants

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

__all__ = ["apply"]

_DOMAIN = "edgekit.expanded"


def apply(model: ModelProto) -> PassResult:
    """Replace what the canonical opset cannot say by what it can.

    Before: Attention, RMSNormalization, RotaryEmbedding, Swish … of opset 23 and later.
    After: the nodes of the bodies that ONNX defines for them.
    Must not change: operators that the canonical opset has; names, types and order of inputs and outputs. An
    operator whose body needs a type that is not known stays, and the conversion of the opset names it.
    """
    onnx = require("onnx")
    require("onnx.inliner")
    version = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    _give_defaults(model, ["MeanVarianceNormalization"], version)
    tried: set[str] = set()
    while True:
        found = {n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx")} - tried
        names = [name for name in sorted(found) if _is_newer(name, version)]
        if not names:
            if version <= CANONICAL_OPSET and not tried:
                return PassResult(model=model, modified=False)
            folded = _folded(model)  # bodies may have been written out before, by whoever made the file
            modified = bool(tried) or len(folded.graph.node) != len(model.graph.node)
            return PassResult(model=folded if modified else model, modified=modified)
        tried.update(names)
        _give_defaults(model, names, version)
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        for name in names:
            try:
                model = onnx.inliner.inline_selected_functions(
                    model, [("", name)], inline_schema_functions=True
                )
            except RuntimeError:  # it asks for the type of inputs that are left out
                model = _inlined_by_schema(model, name)
        for node in [n for n in model.graph.node if n.op_type == "Constant" and not n.attribute]:
            model.graph.node.remove(node)  # an attribute that was not given, in a body that does not use it


def _give_defaults(model: ModelProto, names: Collection[str], version: int) -> None:
    """Write down the attributes of these operators that have a default: their bodies, and ONNX's inference of
    them, read an attribute that is not given as none at all."""
    onnx = require("onnx")
    for node in [n for n in model.graph.node if n.op_type in names and n.domain in ("", "ai.onnx")]:
        given = {a.name for a in node.attribute}
        schema = onnx.defs.get_schema(node.op_type, version, "")
        node.attribute.extend(
            a.default_value for n, a in schema.attributes.items() if a.default_value.name and n not in given
        )


def _inlined_by_schema(model: ModelProto, name: str) -> ModelProto:
    """The nodes of one operator by the bodies its schema gives for them, as functions of the model's own."""
    onnx = require("onnx")
    version = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    schema = onnx.defs.get_schema(name, version, "")
    graph = model.graph
    types = {v.name: v.type for v in (*graph.input, *graph.value_info, *graph.output)}
    for tensor in graph.initializer:
        types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    blank = onnx.TypeProto()
    for index, node in enumerate(n for n in graph.node if n.op_type == name):
        given = [types.get(one, blank).SerializeToString() for one in node.input]
        body = schema.get_context_dependent_function(node.SerializeToString(), given)
        if not body:
            continue
        function = onnx.FunctionProto.FromString(body)
        function.domain, function.name = _DOMAIN, f"{name}{index}"
        node.domain, node.op_type = function.domain, function.name
        model.functions.append(function)
    if not model.functions:
        return model
    model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    inlined: ModelProto = onnx.inliner.inline_local_functions(model)
    left = [o for o in inlined.opset_import if o.domain != _DOMAIN]
    del inlined.opset_import[:]
    inlined.opset_import.extend(left)
    return inlined


def _folded(model: ModelProto) -> ModelProto:
    """What a body computes of shapes is constant; a strict inference would stumble over its Range."""
    onnx = require("onnx")
    _scalar_ranges(model.graph)
    while True:
        del model.graph.value_info[:]
        model = onnx.shape_inference.infer_shapes(lift_constants.apply(model).model)
        if not fold_constants.fold_once(model.graph) and not _drop_empty_parts(model.graph):
            return model


def _drop_empty_parts(graph: GraphProto) -> bool:
    """Before: Split into all and nothing, read by Concat (RotaryEmbedding of whole heads). After: all."""
    onnx = require("onnx")
    known = constants(graph)
    changed = False
    for node in [n for n in graph.node if n.op_type == "Split" and len(n.input) > 1 and n.input[1] in known]:
        sizes = known[node.input[1]].tolist()
        empty = {name for name, size in zip(node.output, sizes, strict=True) if size == 0}
        readers = [n for n in graph.node if empty & {*n.input}]
        if not empty or len(sizes) - len(empty) != 1 or any(n.op_type != "Concat" for n in readers):
            continue
        for reader in readers:
            left = [name for name in reader.input if name not in empty]
            del reader.input[:]
            reader.input.extend(left)
        whole = next(name for name in node.output if name not in empty)
        node.CopyFrom(onnx.helper.make_node("Identity", [node.input[0]], [whole], name=node.name))
        changed = True
    return changed


def _scalar_ranges(graph: GraphProto) -> None:
    """Make the operands of Range scalars, which ONNX asks for: the body of Attention has vectors of one."""
    onnx = require("onnx")
    ranges = [node for node in graph.node if node.op_type == "Range"]
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node in ranges:
            shape = f"{node.output[0]}/scalar"
            graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(0, np.int64), shape))
            for i, name in enumerate(node.input):
                node.input[i] = f"{node.output[0]}/{i}"
                nodes.append(onnx.helper.make_node("Reshape", [name, shape], [node.input[i]]))
        nodes.append(type(node).FromString(node.SerializeToString()))
    if ranges:
        del graph.node[:]
        graph.node.extend(nodes)


def _is_newer(name: str, version: int) -> bool:
    onnx = require("onnx")
    if onnx.defs.has(name, CANONICAL_OPSET, "") or not onnx.defs.has(name, version, ""):
        return False
    schema = onnx.defs.get_schema(name, version, "")
    return bool(schema.has_function or schema.has_context_dependent_function)
