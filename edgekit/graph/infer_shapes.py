"""Every tensor's type and shape is written down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.core.large_tensors import hollow_copy
from edgekit.core.packages import require
from edgekit.errors import Reason, Unsupported
from edgekit.graph.result import PassResult
from edgekit.graph.walk import dimensions

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

__all__ = ["apply", "unknown_shapes"]


def apply(model: ModelProto) -> PassResult:
    """Infer the type and shape of every tensor from the inputs.

    Before: value_info in any state, outputs with or without shapes.
    After: one value_info for each tensor between nodes whose type is known, in the order of the nodes;
    outputs with their inferred shapes.
    Must not change: nodes, weights, names, types of inputs and outputs.

    Raises `Unsupported` when the shapes that the file declares contradict its operators.
    """
    onnx = require("onnx")
    whole, model = model, hollow_copy(model)  # inference copies a model several times over
    before = model.SerializeToString(deterministic=True)
    del model.graph.value_info[:]
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError) as err:
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        raise Unsupported(f"the shapes of this model contradict each other: {' '.join(lines[:3])}") from err
    known = {value.name: value for value in model.graph.value_info}
    ends = {value.name for value in model.graph.output}
    ordered = [
        known[name] for node in model.graph.node for name in node.output if name in known and name not in ends
    ]
    copies = [type(v).FromString(v.SerializeToString()) for v in ordered]
    del model.graph.value_info[:]
    model.graph.value_info.extend(copies)
    modified = model.SerializeToString(deterministic=True) != before
    for field in ("node", "value_info", "output"):
        whole.graph.ClearField(field)
        getattr(whole.graph, field).extend(getattr(model.graph, field))
    return PassResult(model=whole, modified=modified)


def unknown_shapes(model: ModelProto) -> list[Reason]:
    """The nodes whose outputs have no fixed shape, one reason each, in the order of the graph."""
    known: dict[str, ValueInfoProto] = {v.name: v for v in (*model.graph.value_info, *model.graph.output)}
    reasons = []
    for node in model.graph.node:
        for name in (n for n in node.output if n):
            dims = dimensions(known[name]) if name in known else None
            if dims is None or not all(isinstance(d, int) for d in dims):
                shown = "unknown" if dims is None else ",".join(str(d) if d != "" else "?" for d in dims)
                why = f"the shape of its output {name!r} is not fixed ({shown}): it depends on the data"
                reasons.append(Reason(node=f"{node.name} ({node.op_type})", why=why))
                break
    return reasons
