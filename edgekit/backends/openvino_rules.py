"""What OpenVINO compiles and then computes otherwise than ONNX says, and the ports it changes on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.backends.onnx_rules import Rule, Site
from edgekit.errors import Reason
from edgekit.runtime.manifest import TensorIO

__all__ = ["RULES", "SEEN_IN", "changed_ports", "precision_notes"]

SEEN_IN = "OpenVINO 2026.4.1"

_DOUBLE = 11  # TensorProto.DOUBLE
_CUBIC_ALIGNED = "cubic Resize with exclude_outside weighs the pixels at the border otherwise than ONNX"
_BATCHWISE = "with layout=1 answers with values other than ONNX's"


def _layout_one(site: Site) -> bool:
    return bool(site.attributes.get("layout", 0) == 1)


RULES: tuple[Rule, ...] = (
    *(
        Rule(op=op, applies=_layout_one, seen=f"{op} {_BATCHWISE}", hint="transpose around it, with layout=0")
        for op in ("GRU", "LSTM", "RNN")
    ),
    Rule(op="LSTM", applies=lambda s: s.has(7), seen="LSTM drops its peephole weights"),
    Rule(
        op="Resize",
        applies=lambda s: bool(s.attributes.get("antialias", 0)),
        seen="Resize with antialias filters with other weights than ONNX",
        hint="resize without antialias",
    ),
    Rule(op="Resize", applies=lambda s: bool(s.attributes.get("exclude_outside", 0)), seen=_CUBIC_ALIGNED),
    Rule(
        op="RoiAlign",
        applies=lambda s: s.attributes.get("mode") == b"max",
        seen="RoiAlign with mode 'max' takes the maximum of other samples than ONNX",
        hint="use mode 'avg'",
    ),
    Rule(
        op="Resize",
        applies=lambda s: s.attributes.get("keep_aspect_ratio_policy", b"stretch") != b"stretch",
        seen="Resize ignores keep_aspect_ratio_policy and stretches",
        hint="give the sizes that keep the ratio",
    ),
    Rule(
        op="Cast",
        applies=lambda s: s.attributes.get("to") == _DOUBLE or s.dtypes.get(s.node.input[0]) == _DOUBLE,
        seen="Cast from and to float64 turns infinities into the largest float32",
        hint="use float32",
    ),
    Rule(
        op="Add",
        applies=lambda s: s.dtypes.get(s.node.input[0]) == _DOUBLE,
        seen="Add of float64 is computed in float32, where large values are infinite",
        hint="use float32",
    ),
    *(
        Rule(
            op=op,
            applies=lambda s: s.infinite,
            seen=f"{op} of infinities alone is the largest float32, and this graph holds infinities",
            hint="mask with a large finite number",
        )
        for op in ("ReduceMax", "ReduceMin")
    ),
    Rule(op="DFT", applies=lambda s: s.has(2), seen="DFT with an axis input transforms another axis"),
    Rule(
        op="Tile",
        applies=lambda s: s.computed(1),
        seen="Tile with computed repeats leaves memory of the output unwritten",
        hint="make the repeats constant",
    ),
    Rule(
        op="TopK",
        applies=lambda s: s.inner and s.uses(1),  # elsewhere the reader makes it stable
        seen="the indices of TopK are not the lowest ones among equal values, as ONNX wants",
        hint="use ArgMax for k = 1, or only the values",
    ),
    Rule(
        op="NonMaxSuppression",
        applies=lambda s: True,
        seen="NonMaxSuppression drops a box whose overlap equals the threshold, ONNX keeps it",
        hint="cut the suppression off the model and run it on the outputs",
    ),
)


def precision_notes(model: Any) -> tuple[str, ...]:
    """What OpenVINO computes less exactly than the ModelProto says, for the manifest; () for nothing."""
    graph = model.graph
    kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    if _DOUBLE not in kinds | {tensor.data_type for tensor in graph.initializer}:
        return ()
    return ("float64 is computed in float32: a relative error of 6e-8 for each operator",)


def changed_ports(
    compiled: Any, inputs: Sequence[TensorIO], outputs: Sequence[TensorIO], *, engine: str
) -> list[Reason]:
    """Inputs and outputs that OpenVINO's own model no longer has, or has in another dtype or shape."""
    reasons = []
    for word, ports, wanted in (("input", compiled.inputs, inputs), ("output", compiled.outputs, outputs)):
        found = {name: port for port in ports for name in port.get_names()}
        for io in wanted:
            port = found.get(io.name)
            if port is None:
                why = f"{engine} loses the name of the {word} {io.name!r}"
                hint = "drop outputs that are inputs unchanged"
                reasons.append(Reason(node=io.name, why=why, hint=hint))
                continue
            dtype = np.dtype(port.get_element_type().to_dtype()).name
            if dtype != io.dtype or not _fits(port.get_partial_shape(), io.shape):
                made = f"{dtype}{port.get_partial_shape()}"
                why = f"{engine} makes the {word} {made}, ONNX {io.dtype}{list(io.shape)}"
                reasons.append(Reason(node=io.name, why=why))
    return reasons


def _fits(found: Any, wanted: Sequence[int | str]) -> bool:
    """Whether a PartialShape contradicts no dimension that is known."""
    if found.rank.is_dynamic:
        return True
    return len(found) == len(wanted) and all(
        dim.is_dynamic or isinstance(size, str) or dim.get_length() == size
        for dim, size in zip(found, wanted, strict=True)
    )
