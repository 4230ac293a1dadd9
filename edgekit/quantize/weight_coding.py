"""The codes, scales and bias of one weighted node, as they are written into the QDQ graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.target import Int8Policy
from edgekit.quantize.algorithms.bias_correction import output_shift
from edgekit.quantize.algorithms.pair_aware import saturation_free_codes
from edgekit.quantize.algorithms.weight_clipping import clipped_codes
from edgekit.quantize.graph_index import GraphIndex, attribute
from edgekit.quantize.placement import WeightedNode
from edgekit.quantize.scales import smallest_weight_scale, weight_codes

__all__ = ["CodedWeight", "code_weight"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedWeight:
    """What becomes of one node's constants.

    `weight`: the float weight, laid out as it is written: that of the ONNX operator, but [outputs, inputs]
    for every Gemm. `codes`: int8, like `weight`; `scales`: float32, one for each index of `axis`, or of shape
    () where `axis` is None. `bias`: float64 [outputs], None where there is none.
    """

    weight: NDArray[np.float32]
    axis: int | None
    codes: NDArray[np.int8]
    scales: NDArray[np.float32]
    bias: NDArray[np.float64] | None

    def error(self) -> NDArray[np.float64]:
        """What coding changed, W_q - W, like `weight`."""
        shape = [1] * self.weight.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        steps = self.scales.astype(np.float64).reshape(shape)
        return np.asarray(self.codes * steps - self.weight.astype(np.float64))


def code_weight(
    index: GraphIndex,
    node: WeightedNode,
    proto: Any,
    *,
    input_scale: float,
    policy: Int8Policy,
    mean: NDArray[np.float64] | None = None,
    clip: bool = False,
) -> CodedWeight:
    """Code each value of a node's weight by itself; with `clip`, at scales of least squared error.

    With `mean`, E[x] of each input channel, the bias takes up the shift of the outputs' means. No scale is so
    small that the bias leaves int32.
    """
    weight, axis = index.constants[node.weight], node.axis
    if node.op_type == "Gemm" and not attribute(proto, "transB", 0):
        weight, axis = np.ascontiguousarray(weight.T), None if axis is None else 0
    bias = index.constants[node.bias].astype(np.float64).reshape(-1) if node.bias else None
    floor = smallest_weight_scale(bias, input_scale) if bias is not None else None
    if floor is not None and axis is None:
        floor = floor.max()
    group = attribute(proto, "group", 1)
    if not policy.caps_pairs:
        codes, scales = weight_codes(weight, bits=policy.weight_bits, axis=axis, smallest=floor)
        if clip:
            codes, scales = clipped_codes(
                weight, scales, axis=axis, limit=policy.weight_limit, smallest=floor
            )
    else:
        codes, scales = saturation_free_codes(
            weight, op_type=node.op_type, group=group, axis=axis, smallest=floor, clip=clip
        )
    coded = CodedWeight(weight=weight, axis=axis, codes=codes, scales=scales, bias=bias)
    if mean is None or node.op_type == "MatMul":
        return coded
    shift = output_shift(coded.error(), mean, op_type=node.op_type, group=group)
    corrected = -shift if bias is None else bias - shift
    return CodedWeight(weight=weight, axis=axis, codes=codes, scales=scales, bias=corrected)
