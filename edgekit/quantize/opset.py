"""Raise a graph's opset to 21, the first whose quantizers take 16-bit and 4-bit codes.

Source: the operator changelog of ONNX. From 20 to 21 every change but one only admits more types;
GroupNormalization takes its scale and bias for each channel instead of for each group.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.errors import Reason, Unsupported

__all__ = ["QDQ_OPSET", "raise_opset"]

QDQ_OPSET = 21
_IR_VERSION = 10  # the lowest that knows opset 21 and int4


def raise_opset(model: Any) -> None:
    """Declare opset 21 on a ModelProto of opset 20 or more, in place.

    Before: GroupNormalization with one scale and bias for each group. After: with one for each channel.
    Must not change: values, names. Raises `Unsupported` for a GroupNormalization with computed parameters.
    """
    entry = next(e for e in model.opset_import if e.domain in ("", "ai.onnx"))
    if entry.version >= QDQ_OPSET:
        return
    _widen_group_normalization(model)
    entry.version = QDQ_OPSET
    model.ir_version = max(model.ir_version, _IR_VERSION)


def _widen_group_normalization(model: Any) -> None:
    from onnx import helper, numpy_helper

    graph = model.graph
    nodes = [n for n in graph.node if n.op_type == "GroupNormalization" and n.domain in ("", "ai.onnx")]
    if not nodes:
        return
    constants = {i.name: i for i in graph.initializer}
    infos = [*graph.input, *graph.value_info, *graph.output]
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in infos}
    for node in nodes:
        if any(name not in constants for name in node.input[1:3]):
            why = "GroupNormalization with computed scale or bias changed meaning at opset 21"
            raise Unsupported("the graph cannot be quantized", reasons=[Reason(node=node.name, why=why)])
        groups = next(helper.get_attribute_value(a) for a in node.attribute if a.name == "num_groups")
        channels = shapes[node.input[0]][1]
        for position in (1, 2):
            values = numpy_helper.to_array(constants[node.input[position]])
            wide = np.repeat(values, channels // groups)
            name = f"{node.name or node.output[0]}/channels_{position}"
            graph.initializer.append(numpy_helper.from_array(wide, name))
            node.input[position] = name
