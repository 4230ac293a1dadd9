"""Small rewrites on the finished graph: fewer reshapes, nothing dead, ports of their own, float16 weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.backends.tflite.ir import Graph, Operator, Tensor, reshape
from edgekit.backends.tflite.layout_reshape import moves_only_ones

__all__ = [
    "drop_dead",
    "half_weights",
    "merge_reshapes",
    "narrow_splits",
    "pick_parts",
    "separate_ports",
    "transpose_codes",
]

_HALF_MINIMUM = 16  # elements: below, a DEQUANTIZE costs more than it saves
_WEIGHT_INPUTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "FULLY_CONNECTED": 1, "TRANSPOSE_CONV": 1}


def merge_reshapes(graph: Graph) -> None:
    """Before: RESHAPE after RESHAPE, or a TRANSPOSE that only moves dimensions of 1.

    After: one RESHAPE or none. Must not change: values, ports.
    """
    alias: dict[Tensor, Tensor] = {}
    source: dict[Tensor, Tensor] = {}  # output of a RESHAPE -> what it reshapes
    kept = []
    for op in graph.operators:
        op.inputs = [alias.get(t, t) if t is not None else None for t in op.inputs]
        if op.kind == "RESHAPE" or _is_reshape(op):
            first = op.inputs[0]
            assert first is not None
            x = source.get(first, first)
            if x.shape == op.output.shape:
                alias[op.output] = x
                continue
            source[op.output] = x
            kept.append(reshape(x, op.output, origin=op.origin))
        else:
            kept.append(op)
    graph.operators = kept
    for port in graph.outputs:
        port.tensor = alias.get(port.tensor, port.tensor)


def _is_reshape(op: Operator) -> bool:
    if op.kind != "TRANSPOSE":
        return False
    x, perm = op.inputs
    assert x is not None
    assert perm is not None
    assert perm.data is not None
    return moves_only_ones(x.shape, [int(axis) for axis in perm.data])


def transpose_codes(graph: Graph) -> None:
    """Before: DEQUANTIZE, TRANSPOSE. After: TRANSPOSE, DEQUANTIZE: codes are a quarter of the bytes.

    Only where nothing else reads what is dequantized. Must not change: values, ports.
    """
    producers, readers = graph.producers(), graph.consumers()
    ports = {port.tensor for port in graph.outputs}
    for op in graph.operators:
        value = op.inputs[0] if op.kind == "TRANSPOSE" else None
        source = producers.get(value) if value is not None else None
        if value is None or source is None or source.kind != "DEQUANTIZE":
            continue
        codes = source.inputs[0]
        if (
            codes is None
            or codes.dtype not in ("int8", "int16")
            or value in ports
            or len(readers[value]) != 1
        ):
            continue
        moved = Tensor(name=codes.name, shape=op.output.shape, dtype=codes.dtype, quant=codes.quant)
        source.kind, source.inputs, source.outputs = "TRANSPOSE", [codes, op.inputs[1]], [moved]
        op.kind, op.inputs = "DEQUANTIZE", [moved]


def drop_dead(graph: Graph) -> None:
    """Remove operators whose outputs nothing reads."""
    wanted = {port.tensor for port in graph.outputs}
    kept = []
    for op in reversed(graph.operators):
        if any(tensor in wanted for tensor in op.outputs):
            kept.append(op)
            wanted.update(tensor for tensor in op.inputs if tensor is not None)
    graph.operators = kept[::-1]


def pick_parts(graph: Graph) -> None:
    """Before: SLICE of what CONCATENATION (and RESHAPE) made of several parts, where it is one whole part.

    After: RESHAPE of that part: the last step of a recurrent layer needs none of the others gathered.
    Must not change: values, ports.
    """
    producers = graph.producers()
    for index, op in enumerate(graph.operators):
        span = _span(op) if op.kind == "SLICE" else None
        part = _part_at(op.inputs[0], span, producers) if span is not None else None
        if part is not None and (part.dtype, part.quant) == (op.output.dtype, op.output.quant):
            graph.operators[index] = reshape(part, op.output, origin=op.origin)


def _span(op: Operator) -> tuple[int, int] | None:
    """(begin, count) of the elements that a SLICE takes, in row-major order, when they lie in one piece."""
    x, begin, size = op.inputs
    if x is None or begin is None or size is None or begin.data is None or size.data is None:
        return None
    starts, counts = begin.data.tolist(), list(op.output.shape)
    free = next((axis for axis, count in enumerate(counts) if count != 1), len(counts))
    if any(counts[axis] != x.shape[axis] for axis in range(free + 1, len(counts))):
        return None
    return int(np.ravel_multi_index(starts, x.shape)), op.output.size


def _part_at(
    x: Tensor | None, span: tuple[int, int], producers: Mapping[Tensor, Operator]
) -> Tensor | None:
    """The tensor that is exactly `span` of `x`, found behind reshapes and concatenations; None for none."""
    begin, count = span
    while x is not None and (begin, count) != (0, x.size):
        made_by = producers.get(x)
        if made_by is not None and made_by.kind == "RESHAPE":
            x = made_by.inputs[0]
            continue
        if made_by is None or made_by.kind != "CONCATENATION":
            return None
        axis = int(made_by.options["axis"]) % len(x.shape)  # type: ignore[arg-type]
        if any(dim != 1 for dim in x.shape[:axis]):
            return None
        for part in made_by.inputs:
            assert part is not None
            if begin < part.size:
                x = part
                break
            begin -= part.size
        if begin + count > x.size:
            return None
    return x


def narrow_splits(graph: Graph) -> None:
    """Before: SPLIT into parts that not all are read. After: SLICE of each part that is.

    A tensor that nothing reads has no memory: tools that look at every tensor of a file stumble over it.
    Must not change: values, ports.
    """
    read = {tensor for op in graph.operators for tensor in op.inputs} | {p.tensor for p in graph.outputs}
    kept = []
    for op in graph.operators:
        if op.kind == "SPLIT" and not all(tensor in read for tensor in op.outputs):
            kept += [_part(op, index) for index, tensor in enumerate(op.outputs) if tensor in read]
        else:
            kept.append(op)
    graph.operators = kept


def _part(split: Operator, index: int) -> Operator:
    """SLICE in place of one output of SPLIT."""
    axis, x = split.inputs
    assert axis is not None
    assert axis.data is not None
    assert x is not None
    output = split.outputs[index]
    begin = np.zeros(len(x.shape), np.int32)
    begin[int(axis.data.item())] = index * output.shape[int(axis.data.item())]
    size = np.asarray(output.shape, np.int32)
    places = [
        Tensor(name=f"{output.name}/{name}", shape=data.shape, dtype="int32", data=data)
        for name, data in (("begin", begin), ("size", size))
    ]
    return Operator(kind="SLICE", inputs=[x, *places], outputs=[output], origin=split.origin)


def separate_ports(graph: Graph) -> None:
    """Give every output a tensor of its own: the engine has no output that is an input, or another output."""
    taken = {port.tensor for port in graph.inputs}
    for port in graph.outputs:
        x = port.tensor
        if x in taken or x.data is not None:
            copy = Tensor(name=port.name, shape=x.shape, dtype=x.dtype, quant=x.quant)
            graph.operators.append(reshape(x, copy, origin=port.name))
            port.tensor = copy
        taken.add(port.tensor)


def half_weights(graph: Graph) -> list[str]:
    """Store the weights of convolutions and matrix products in float16 behind a DEQUANTIZE.

    XNNPACK unpacks them once and computes in float32 (raw float16 operands give NaN or errors). Returns the
    names of weights that stay float32 because they leave the range of half precision (65504).
    """
    left: list[str] = []
    unpacked: dict[Tensor, Tensor] = {}
    operators: list[Operator] = []
    for op in graph.operators:
        index = _WEIGHT_INPUTS.get(op.kind)
        weight = op.inputs[index] if index is not None else None
        if weight is not None and index is not None and _halves(weight, left):
            assert weight.data is not None
            if weight not in unpacked:
                data = weight.data.astype(np.float16)
                stored = Tensor(name=f"{weight.name}/float16", shape=weight.shape, dtype="float16", data=data)
                unpacked[weight] = Tensor(name=weight.name, shape=weight.shape)
                operators.append(
                    Operator(kind="DEQUANTIZE", inputs=[stored], outputs=[unpacked[weight]], origin=op.origin)
                )
            op.inputs[index] = unpacked[weight]
        operators.append(op)
    graph.operators = operators
    return left


def _halves(weight: Tensor, left: list[str]) -> bool:
    if weight.data is None or weight.dtype != "float32" or weight.size < _HALF_MINIMUM:
        return False
    if float(np.abs(weight.data).max()) > float(np.finfo(np.float16).max):
        left.append(weight.name)
        return False
    return True
