"""Weights of convolutions and matrix products as the integers that the ONNX file stores."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from edgekit.backends.tflite.ir import Array, Graph, Operator, Quant, Tensor
from edgekit.backends.tflite.onnx_graph import Quantizer
from edgekit.core.target import Precision
from edgekit.errors import Reason

__all__ = ["WEIGHT_AXIS", "Stored", "store_precision", "store_recurrent", "store_weights"]

WEIGHT_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0}


@dataclass(slots=True, kw_only=True)
class Stored:
    """What was done: operators by how they read their weights, and the coded weights that stay float32."""

    hybrid: list[str] = field(default_factory=list)
    unpacked: list[str] = field(default_factory=list)
    four_bits: int = 0
    left: list[str] = field(default_factory=list)


def store_precision(graph: Graph, quantizers: Mapping[str, Quantizer], precision: Precision) -> list[Reason]:
    """Store weights as `precision` ("dynamic-int8", "weight-int8", "weight-int4") says, and note how.

    Returns why nothing in the graph gains by it; empty means done.
    """
    done = store_weights(graph, quantizers, hybrid=quantizers if precision == "dynamic-int8" else ())
    coded = len(done.hybrid) + len(done.unpacked)
    if not coded:
        return [Reason(why=f"{precision}: no convolution or matrix product with constant weights to store")]
    if precision == "weight-int4" and not done.four_bits:
        why = "no matrix product with constant weights: LiteRT has 4-bit weights for nothing else"
        return [Reason(why=why, hint="use weight-int8")]
    if precision == "dynamic-int8" and not done.hybrid:
        why = (
            "no convolution or matrix product that LiteRT quantizes at run time (depthwise ones it does not)"
        )
        return [Reason(why=why, hint="use weight-int8, or int8 with calibration")]
    graph.notes += _notes(done, precision, coded)
    return []


def store_recurrent(graph: Graph, quantizers: Mapping[str, Quantizer]) -> None:
    """Store the coded weights of LSTM, GRU and RNN in an int8 graph, and note what that does to the states.

    W unpacks to float32 when the model starts. R reads codes, and every step quantizes its state at run time:
    the ONNX graph keeps the state in float, so this is declared.
    """
    parts = {name: quantizer for name, quantizer in quantizers.items() if quantizer.part_of}
    states = [name for name, quantizer in parts.items() if quantizer.recurrent]
    done = store_weights(graph, parts, hybrid=states)
    if done.hybrid:
        nodes = ", ".join(sorted(set(done.hybrid)))
        graph.notes.append(
            f"{nodes}: each step quantizes its state at run time to 8 bits (the QDQ graph has it in float): "
            "the recurrent product is off by at most 1/510 of the state's range times the sum of the "
            "magnitudes of its weights"
        )


def _notes(done: Stored, precision: Precision, coded: int) -> list[str]:
    notes = []
    if precision == "dynamic-int8":
        notes.append(
            f"{len(done.hybrid)} of {coded} operators with int8 weights quantize activations at run time"
        )
    if precision == "weight-int4":
        notes.append(f"{done.four_bits} of {coded} operators have 4-bit weights, the others 8-bit ones")
    if done.unpacked:
        notes.append("weights unpack to float32 when the model starts: the file is smaller, memory is not")
    if done.left:
        notes.append(f"weights that stay float32: {', '.join(sorted(set(done.left)))}")
    return notes


def store_weights(graph: Graph, quantizers: Mapping[str, Quantizer], *, hybrid: Collection[str]) -> Stored:
    """Put the codes back in place of the float weights they were dequantized to.

    Before: float weights, named as in `quantizers`. After: int8 or int4 constants behind a DEQUANTIZE, which
    the engine runs once; a CONV_2D or FULLY_CONNECTED whose weights `hybrid` names reads int8 codes directly
    and quantizes its activations at run time. Must not change: values; codes that do not give the float
    weights back bit by bit are not used.
    """
    done = Stored()
    unpacked: dict[Tensor, Tensor] = {}
    coded: dict[Tensor, Tensor | None] = {}
    operators: list[Operator] = []
    known: set[str] = set()  # what no operator here reads as its weights stays float, too
    for op in graph.operators:
        weight = op.inputs[1] if op.kind in WEIGHT_AXIS else None
        quantizer = quantizers.get(weight.name) if weight is not None else None
        if weight is None or quantizer is None or weight.data is None or weight.dtype != "float32":
            operators.append(op)
            continue
        known |= {weight.name, quantizer.part_of}
        if weight not in coded:
            coded[weight] = _codes(weight, quantizer, WEIGHT_AXIS[op.kind])
        codes = coded[weight]
        if codes is None:
            done.left.append(weight.name)
        elif weight.name in hybrid and _has_hybrid_kernel(op, codes):
            op.inputs[1] = codes
            if op.kind == "FULLY_CONNECTED":
                op.options = {**op.options, "asymmetric_quantize_inputs": True}
            done.hybrid.append(op.origin)
        else:
            if weight not in unpacked:
                unpacked[weight] = Tensor(name=weight.name, shape=weight.shape)
                operators.append(
                    Operator(kind="DEQUANTIZE", inputs=[codes], outputs=[unpacked[weight]], origin=op.origin)
                )
            op.inputs[1] = unpacked[weight]
            done.unpacked.append(op.origin)
            done.four_bits += codes.dtype == "int4"
        operators.append(op)
    graph.operators = operators
    done.left += sorted(set(quantizers) - known)
    return done


def _codes(weight: Tensor, quantizer: Quantizer, axis: int) -> Tensor | None:
    """The constant of codes that dequantizes to exactly `weight`; None when there is none."""
    assert weight.data is not None
    quant = quantizer.quant
    if quant.zero_point or len(quant.scales) not in (1, weight.shape[axis]):
        return None
    quant = replace(quant, axis=axis if len(quant.scales) > 1 else 0)
    scales = _along(quant, weight.data.ndim)
    codes = np.rint(weight.data.astype(np.float64) / scales.astype(np.float64))
    low, high = (-8, 7) if quantizer.quant.codes == "int4" else (-127, 127)
    if codes.min() < low or codes.max() > high:
        return None
    if not np.array_equal(codes.astype(np.float32) * scales, weight.data):
        return None
    return Tensor(
        name=f"{weight.name}/{quantizer.quant.codes}",
        shape=weight.shape,
        dtype=quantizer.quant.codes,
        data=codes.astype(np.int8),
        quant=quant,
    )


def _along(quant: Quant, rank: int) -> Array:
    shape = [1] * rank
    if len(quant.scales) > 1:
        shape[quant.axis] = len(quant.scales)
    return np.asarray(quant.scales, np.float32).reshape(shape)


def _has_hybrid_kernel(op: Operator, codes: Tensor) -> bool:
    """Per-channel int8 weights, no groups: the hybrid kernels that were proven right."""
    x = op.inputs[0]
    assert x is not None
    if codes.dtype != "int8" or codes.quant is None or len(codes.quant.scales) == 1:
        return False
    return op.kind == "FULLY_CONNECTED" or (op.kind == "CONV_2D" and codes.shape[3] == x.shape[3])
