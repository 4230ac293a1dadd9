"""One opset for everything that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.core.model import CANONICAL_OPSET
from edgekit.core.packages import require
from edgekit.errors import Unsupported
from edgekit.graph.result import PassResult
from edgekit.graph.walk import all_graphs

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["apply"]


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
    if version != CANONICAL_OPSET:
        # Below IR version 4 the converter looks for weights among the inputs, where they no longer are.
        model.ir_version = max(model.ir_version, 4)
        # Its C++ side answers with RuntimeError or ConvertError, whatever the operator.
        try:
            model = onnx.version_converter.convert_version(model, CANONICAL_OPSET)
            onnx.checker.check_model(model, full_check=False)
        except (
            RuntimeError, ValueError, onnx.version_converter.ConvertError, onnx.checker.ValidationError
        ) as err:  # fmt: skip
            raise Unsupported(
                f"the model cannot be converted from opset {version} to {CANONICAL_OPSET}: {_first(err)}",
                hint=f"export it with opset_version={CANONICAL_OPSET}",
            ) from err
    if version < 11:
        _keep_resize_grid(model)
    model.ir_version = ir_version
    kept = {o.domain or "": o.version for o in model.opset_import if o.domain not in ("", "ai.onnx")}
    used = {node.domain for node in model.graph.node}
    del model.opset_import[:]
    model.opset_import.append(onnx.helper.make_opsetid("", CANONICAL_OPSET))
    model.opset_import.extend(onnx.helper.make_opsetid(d, v) for d, v in sorted(kept.items()) if d in used)
    return PassResult(model=model, modified=modified)


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
