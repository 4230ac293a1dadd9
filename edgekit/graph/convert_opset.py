"""One opset for everything that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgekit.core.large_tensors import without_hollow
from edgekit.core.model import CANONICAL_OPSET
from edgekit.core.packages import require
from edgekit.errors import Unsupported
from edgekit.graph.result import PassResult
from edgekit.graph.walk import all_graphs

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

__all__ = ["apply"]

# Later versions take more types, and the converter has no way back: left alone, they mean the same.
_ONLY_MORE_TYPES = ("GlobalMaxPool",)
_APART = "edgekit.apart"  # a domain that the converter does not touch


def apply(model: ModelProto) -> PassResult:
    """Convert the model to `CANONICAL_OPSET` and the IR version that belongs to it.

    Before: any opset that the reader lets through.
    After: `CANONICAL_OPSET`, valid by the checker.
    Must not change: what the model computes; names, types and order of inputs and outputs.

    Raises `Unsupported` when an operator has no equal in the canonical opset.
    """
    onnx = require("onnx")
    require("onnx.version_converter")
    standard = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    version = standard[0].version
    ir_version = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid("", CANONICAL_OPSET)], ignore_unknown=True
    )
    modified = version != CANONICAL_OPSET or model.ir_version != ir_version
    if version != CANONICAL_OPSET or _has_groups(model):
        # Below IR version 4 the converter looks for weights among the inputs, where they no longer are.
        model.ir_version = max(model.ir_version, 4)
        model = _rewritten(model, version)
        # Its C++ side answers with RuntimeError or ConvertError, whatever the operator.
        try:
            model = without_hollow(model, _converted)
        except (
            RuntimeError, ValueError, onnx.version_converter.ConvertError, onnx.checker.ValidationError,
            onnx.shape_inference.InferenceError,
        ) as err:  # fmt: skip
            raise Unsupported(
                f"the model cannot be converted from opset {version} to {CANONICAL_OPSET}: {_first(err)}",
                hint=f"export it with opset_version={CANONICAL_OPSET}",
            ) from err
        for node in (n for g in all_graphs(model.graph) for n in g.node if n.domain == _APART):
            node.domain = ""
    if version < 11:
        _keep_resize_grid(model)
    model.ir_version = ir_version
    kept = {o.domain or "": o.version for o in model.opset_import if o.domain not in ("", "ai.onnx")}
    used = {node.domain for node in model.graph.node}
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", CANONICAL_OPSET))
    model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in sorted(kept.items()) if d in used)
    return PassResult(model=model, modified=modified)


def _converted(model: ModelProto) -> ModelProto:
    onnx = require("onnx")
    changed: ModelProto = onnx.version_converter.convert_version(model, CANONICAL_OPSET)
    onnx.checker.check_model(changed, full_check=False)
    return changed


def _has_groups(model: ModelProto) -> bool:
    return any(node.op_type == "GroupNormalization" and not node.domain for node in model.graph.node)


def _rewritten(model: ModelProto, version: int) -> ModelProto:
    """What the converter would get wrong or has no rule for, said in operators that it leaves as they are.

    Raises `Unsupported` for a Scan over batches, whose conversion would change the shapes of inputs, and for
    subgraphs before opset 7.
    """
    onnx = require("onnx")
    nodes = [node for graph in all_graphs(model.graph) for node in graph.node if not node.domain]
    if version < 9 and any(node.op_type == "Scan" for node in nodes):
        raise Unsupported("Scan of opset 8 runs over batches, later ones do not", hint="export it again")
    model.opset_import.append(onnx.helper.make_opsetid(_APART, 1))
    for node in nodes:
        if version > CANONICAL_OPSET and node.op_type in _ONLY_MORE_TYPES:
            node.domain = _APART
    old = version < 7
    if old and len(list(all_graphs(model.graph))) > 1:
        raise Unsupported("branches and loops of opset 6 are not read", hint="export it again")
    groups = _has_groups(model)
    if not old and not groups:
        return model
    model = onnx.shape_inference.infer_shapes(model)
    values = (*model.graph.input, *model.graph.value_info)
    kinds = {v.name: v.type.tensor_type.elem_type for v in values}
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in values}
    ranks |= {t.name: len(t.dims) for t in model.graph.initializer}
    made: list[NodeProto] = []
    for node in model.graph.node:
        if old and node.op_type == "PRelu" and ranks.get(node.input[0], 0) > 2:
            made += _widened(model, node, 1, [-1] + [1] * (ranks[node.input[0]] - 2))
        axis = next((a for a in node.attribute if old and a.name == "axis"), None)
        if axis is not None and any(a.name == "broadcast" for a in node.attribute):
            rank, own = ranks.get(node.input[0], 0), ranks.get(node.input[1], 0)
            made += _widened(model, node, 1, [0] * own + [1] * (rank - axis.i % max(rank, 1) - own))
            node.attribute.remove(axis)
        if groups and node.op_type == "GroupNormalization":
            made += _group_normalization(model, node, ranks[node.input[0]], kinds[node.input[0]])
        else:
            made.append(type(node).FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(made)
    return model


def _widened(model: ModelProto, node: NodeProto, index: int, sizes: list[int]) -> list[NodeProto]:
    """A Reshape of one input of the node, to what broadcasting has aligned by the last axis since opset 7."""
    onnx = require("onnx")
    name, shape = f"{node.output[0]}/wide{index}", f"{node.output[0]}/shape{index}"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(sizes, np.int64), shape))
    made = onnx.helper.make_node("Reshape", [node.input[index], shape], [name])
    node.input[index] = name
    return [made]


def _group_normalization(model: ModelProto, node: NodeProto, rank: int, kind: int) -> list[NodeProto]:
    """Before: GroupNormalization, whose shapes ONNX infers since opset 21 alone. After: InstanceNormalization
    with the groups as channels; scale and bias are for each channel since opset 21, for each group before.

    https://onnx.ai/onnx/operators/text_diff_GroupNormalization_18_21.html
    """
    onnx = require("onnx")
    make, y = onnx.helper.make_node, node.output[0]
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    groups, dtype = attributes["num_groups"], onnx.helper.tensor_dtype_to_np_dtype(kind)
    by_channel = max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) >= 21
    constants = {"groups": np.array([0, groups, -1])}
    scales = list(node.input[1:3])
    if by_channel:
        constants |= {"ones": np.ones(groups, dtype), "zeros": np.zeros(groups, dtype)}
        scales = [f"{y}/ones", f"{y}/zeros"]
    for word, values in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, f"{y}/{word}"))
    end = f"{y}/plain" if by_channel else y
    made = [
        make("Shape", [node.input[0]], [f"{y}/whole"]),
        make("Reshape", [node.input[0], f"{y}/groups"], [f"{y}/grouped"]),
        make(
            "InstanceNormalization",
            [f"{y}/grouped", *scales],
            [f"{y}/normal"],
            name=node.name,
            epsilon=attributes.get("epsilon", 1e-5),
        ),
        make("Reshape", [f"{y}/normal", f"{y}/whole"], [end]),
    ]
    if by_channel:
        for index in (1, 2):
            made += _widened(model, node, index, [-1] + [1] * (rank - 2))
        made.append(make("Mul", [end, node.input[1]], [f"{y}/scaled"]))
        made.append(make("Add", [f"{y}/scaled", node.input[2]], [y]))
    return made


def _keep_resize_grid(model: ModelProto) -> None:
    """Say what Upsample, and Resize of opset 10, meant by their grid: asymmetric, rounded down.

    The converter leaves the attributes out, and their defaults since opset 11 mean another grid.
    https://onnx.ai/onnx/operators/text_diff_Resize_10_11.html
    """
    onnx = require("onnx")
    for graph in all_graphs(model.graph):
        for node in (n for n in graph.node if n.op_type == "Resize" and not n.domain):
            wanted = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            for item in [a for a in node.attribute if a.name in wanted]:
                node.attribute.remove(item)
            node.attribute.extend(onnx.helper.make_attribute(*item) for item in wanted.items())


def _first(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(err).__name__
