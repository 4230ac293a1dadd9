"""Weights in 4, 7 or 8 bits behind DequantizeLinear; activations stay float, so no samples are needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import decode
from edgekit.core.files import atomic_file
from edgekit.core.packages import require
from edgekit.core.target import WeightPolicy
from edgekit.quantize.algorithms.weight_clipping import tightened_scales
from edgekit.quantize.graph_index import GraphIndex, attribute, index_graph
from edgekit.quantize.opset import raise_opset
from edgekit.quantize.placement import WEIGHTED_OPS
from edgekit.quantize.recurrent_weights import CHANNEL_AXIS, RECURRENT_OPS, recurrent_weights
from edgekit.quantize.scales import SMALLEST_SCALE, weight_codes
from edgekit.quantize.widen_halves import widen_halves

__all__ = ["code_blocks", "quantize_weights", "quantize_weights_file"]


def quantize_weights_file(*, model: str, policy: dict[str, Any], out: str) -> dict[str, Any]:
    """Step: write the graph of `model` with coded weights to `out`; says how many there are.

    A model that computes in float16 is coded as the graph that computes in float32.
    """
    onnx = require("onnx", needed_for="quantization")
    proto = onnx.load(model)
    if widen_halves(proto):
        proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    result, coded = quantize_weights(proto, policy=decode(WeightPolicy, policy, where="policy"))
    with atomic_file(Path(out)) as temporary:
        temporary.write_bytes(result.SerializeToString(deterministic=True))
    return {"weights": len(coded)}


def quantize_weights(model: Any, *, policy: WeightPolicy) -> tuple[Any, tuple[str, ...]]:
    """The graph with coded weights (a new ModelProto) and the names of the weights.

    Before: float32 initializers. After: those that the policy names are int8 or int4 initializers behind a
    DequantizeLinear of their own name, zero point 0. Must not change: inputs, outputs, every other tensor.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    index = index_graph(result)
    coders: dict[str, Any] = {}
    for node, position in _weights(index):
        name, bits = node.input[position], policy.bits.get(node.op_type, 0)
        weight = index.constants[name]
        if bits and name not in coders and weight.size >= policy.smallest and weight.ndim > 1:
            axis, block = _axis_and_block(node, weight, bits, policy.block_size)
            coders[name] = _code(result, name, weight, bits=bits, axis=axis, block=block)
    nodes = list(coders.values())
    rest = [onnx.NodeProto.FromString(n.SerializeToString()) for n in result.graph.node]
    del result.graph.node[:]
    result.graph.node.extend([*nodes, *rest])
    raise_opset(result)
    return result, tuple(coders)


def _weights(index: GraphIndex) -> Iterator[tuple[Any, int]]:
    """Every node with constant weights and the position of those among its inputs."""
    for node in index.model.graph.node:
        if node.op_type in WEIGHTED_OPS and index.is_float_constant(node.input[1]):
            yield node, 1
    yield from recurrent_weights(index, RECURRENT_OPS)


def code_blocks(
    weight: NDArray[np.float32], *, axis: int, block: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """4-bit codes in [-7, 7] of a matrix, and a scale for every `block` elements along `axis`.

    `block` divides that axis.
    """
    rows = weight if axis == 1 else weight.T
    cut = np.ascontiguousarray(rows).reshape(len(rows), -1, block)
    bound = np.abs(cut).max(axis=2, keepdims=True)
    scales = np.where(bound > 0, np.maximum(bound / 7, SMALLEST_SCALE), 1.0).astype(np.float32)
    scales = tightened_scales(cut, scales, 7)
    codes = np.clip(np.rint(cut.astype(np.float64) / scales.astype(np.float64)), -7, 7).astype(np.int8)
    flat, small = codes.reshape(rows.shape), scales[:, :, 0]
    return (flat, small) if axis == 1 else (np.ascontiguousarray(flat.T), np.ascontiguousarray(small.T))


def _code(
    model: Any, name: str, weight: NDArray[np.float32], *, bits: int, axis: int | None, block: int
) -> Any:
    """Swap the initializer `name` for codes and scales; returns the DequantizeLinear that writes `name`."""
    from onnx import TensorProto, helper, numpy_helper

    if block and axis is not None:
        codes, scales = code_blocks(weight, axis=axis, block=block)
    elif bits == 4:
        codes, scales = _narrow_codes(weight, axis)
    else:
        codes, scales = weight_codes(weight, bits=bits, axis=axis)
    graph = model.graph
    old = next(i for i in graph.initializer if i.name == name)
    graph.initializer.remove(old)
    kind = TensorProto.INT4 if bits == 4 else TensorProto.INT8
    inputs = _free_names(graph, [f"{name}_codes", f"{name}_scale", f"{name}_zero_point"])
    zeros = np.zeros(scales.shape, np.int8)
    graph.initializer.extend(
        [
            helper.make_tensor(inputs[0], kind, codes.shape, _payload(codes, bits), raw=True),
            numpy_helper.from_array(scales, inputs[1]),
            helper.make_tensor(inputs[2], kind, zeros.shape, _payload(zeros, bits), raw=True),
        ]
    )
    attributes = {} if axis is None or scales.ndim == 0 else {"axis": axis}
    attributes |= {"block_size": block} if block else {}
    return helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}/dq", **attributes)


def _free_names(graph: Any, names: list[str]) -> list[str]:
    """`names`, each with underscores behind it until nothing in the graph has it."""
    taken = {i.name for i in graph.initializer} | {n for node in graph.node for n in node.output}
    taken |= {i.name for i in graph.input}
    free = []
    for name in names:
        while name in taken:
            name += "_"
        free.append(name)
    return free


def _narrow_codes(
    weight: NDArray[np.float32], axis: int | None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    _, first = weight_codes(weight, bits=4, axis=axis)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    scales = tightened_scales(weight, first.reshape(shape), 7)
    codes = np.clip(np.rint(weight.astype(np.float64) / scales.astype(np.float64)), -7, 7)
    return codes.astype(np.int8), scales.reshape(first.shape)


def _payload(codes: NDArray[np.int8], bits: int) -> bytes:
    """The bytes of codes; 4-bit ones lie two to a byte, the first in the low half."""
    if bits != 4:
        return codes.tobytes()
    flat = codes.ravel()
    even = np.append(flat, np.int8(0)) if flat.size % 2 else flat
    return bytes(((even[0::2] & 15) | ((even[1::2] & 15) << 4)).astype(np.uint8).tobytes())


def _channel_axis(node: Any, rank: int) -> int | None:
    """The axis of the weights along which the outputs lie; None: one scale in all."""
    if node.op_type in RECURRENT_OPS:
        return CHANNEL_AXIS
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return rank - 1 if rank == 2 else None


def _axis_and_block(node: Any, weight: NDArray[np.float32], bits: int, block: int) -> tuple[int | None, int]:
    """The axis of the scales and the block along it; blocks are for matrices that they divide evenly."""
    channels = _channel_axis(node, weight.ndim)
    if bits == 4 and block and node.op_type in ("Gemm", "MatMul") and weight.ndim == 2:
        assert channels is not None
        if weight.shape[1 - channels] % block == 0:
            return 1 - channels, block
    return channels, 0
