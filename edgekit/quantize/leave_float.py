"""What is left in float32 of a graph that goes to 8 bits, because integers destroy it or gain nothing there.

Spectra: see `edgekit.quantize.spectra`.

Normalizations written in arithmetic: a variance spans the square of what it is taken of, and what its root
divides cancels against the mean. From the first reduction to the last factor and offset they stay in float32,
as a LayerNormalization does, and engines fuse them again.

Units: an input whose features have different units needs a step of quantization for each; what brings them to
one unit, arithmetic with constants of very different size, comes first, and then one step serves all.

Islands: elementwise operators between operators without an integer kernel, a state on its way out of an LSTM,
say. They would be quantized and dequantized for nothing, and a state that is rounded at every step drifts. So
would products with a single output, where the engine's products write float anyway.

Sums of matrix products that float operators alone read, the residual stream of a Transformer between
LayerNormalizations, say: where the engine's products write float anyway, a sum is fused into them or costs
one pass, while quantizers before and behind it cost three, and noise that every later block reads.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Any

from edgekit.core.target import Int8Policy
from edgekit.quantize.graph_index import GraphIndex, attribute
from edgekit.quantize.spectra import MOVES, is_square, spectra

__all__ = ["POOR", "UNITS", "float_sums", "fragile", "islands", "normalizations", "units"]

UNITS = 16.0  # between the factors of one input: it costs the smallest feature four of the eight bits
POOR = 2  # multiplications a value: to quantize it costs about as much

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_SUMS = ("Add", "Sub", "Mul")
_REDUCTIONS = ("GlobalAveragePool", "ReduceL2", "ReduceMean", "ReduceSum", "ReduceSumSquare")


def fragile(index: GraphIndex, policy: Int8Policy) -> set[str]:
    """The nodes that the codes of `policy` would destroy. 16 bits span a spectrum."""
    spectral = set() if policy.activation == "int16" else spectra(index, end_even=policy.even_spectra)
    return normalizations(index) | units(index) | spectral


def normalizations(index: GraphIndex) -> set[str]:
    """The nodes of layer, instance, group, RMS normalizations and softmaxes written in arithmetic."""
    found = {n.name for n in index.model.graph.node if n.op_type == "Sub" and _only_exponent(index, n)}
    scales: set[str] = set()
    for node in index.model.graph.node:
        takes_root = node.op_type == "Sqrt" or (node.op_type == "Pow" and not is_square(index, node))
        statistics: set[str] = set()
        if (takes_root and _is_statistic(index, node.input[0], statistics)) or node.op_type == "ReduceL2":
            found |= statistics | {node.name}
            scales.update(node.output)
    normalized: set[str] = set()
    for node in index.model.graph.node:
        read = [i for i in node.input if i and i not in index.constants]
        if not read or node.op_type not in (*_ARITHMETIC, *MOVES, "Max", "Clip", "Neg", "Reciprocal"):
            continue
        inside = all(i in normalized or _made_by(index, i, found) for i in read)
        if all(i in scales for i in read):
            scales.update(node.output)
        elif any(i in scales for i in read) or (inside and any(i in normalized for i in read)):
            normalized.update(node.output)
        else:
            continue
        found.add(node.name)
    return found


def _only_exponent(index: GraphIndex, node: Any) -> bool:
    readers = index.readers.get(node.output[0], ())
    return bool(readers) and all(r.op_type == "Exp" for r in readers) and node.output[0] not in index.outputs


def _made_by(index: GraphIndex, tensor: str, nodes: set[str]) -> bool:
    return tensor in index.producer and index.producer[tensor].name in nodes


def _is_statistic(index: GraphIndex, tensor: str, passed: set[str]) -> bool:
    """Whether `tensor` is made of reductions, by arithmetic alone; `passed` gets the nodes on the way."""
    node = index.producer.get(tensor)
    if node is None:
        return False
    if node.op_type in _REDUCTIONS:
        passed.add(node.name)
        inner = index.producer.get(node.input[0])
        if inner is not None and is_square(index, inner):
            passed.add(inner.name)
            centred = index.producer.get(inner.input[0])
            if centred is None or centred.op_type != "Sub":
                return True
            if _is_statistic(index, centred.input[1], passed):
                passed.add(centred.name)
        return True
    if node.op_type not in (*_ARITHMETIC, *MOVES, "Max", "Clip", "Neg", "Pow"):
        return False
    passed.add(node.name)
    return all(_is_statistic(index, i, passed) for i in node.input if i and i not in index.constants)


def units(index: GraphIndex) -> set[str]:
    """What lies between an input and the last constant that brings its features to one unit."""
    found: set[str] = set()
    for name in index.inputs:
        passed, tensor = [], name
        while (node := index.only_reader(tensor)) is not None and _with_constant(index, node):
            passed.append(node.name)
            factor = next(index.constants[i] for i in node.input if i in index.constants)
            sizes = abs(factor[factor != 0])
            if node.op_type in ("Mul", "Div") and sizes.size and sizes.max() >= UNITS * sizes.min():
                found.update(passed)
            tensor = node.output[0]
    return found


def _with_constant(index: GraphIndex, node: Any) -> bool:
    """Whether a node adds, subtracts or multiplies by a float constant, or divides by one."""
    known = [index.is_float_constant(i) for i in node.input]
    return node.op_type in _ARITHMETIC and sum(known) == 1 and not (node.op_type == "Div" and known[0])


def islands(
    index: GraphIndex, policy: Int8Policy, nodes: Collection[str], tensors: Collection[str]
) -> set[str]:
    """Those of `nodes` (integer, joined by quantized `tensors`) with no convolution or product worth it.

    Only beside an operator in float32: a model that is nothing but such an island stays what was asked for,
    and one whose convolutions and products all multiply little has them in integers all the same.
    """
    members = [n for n in index.model.graph.node if n.name in nodes]
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    touched = {n.name: list(_touched(index, n, tensors)) for n in members}
    for node in members:
        for tensor in touched[node.name]:
            parent[root(tensor)] = root(f"{node.name}/")
    weighted = [n for n in members if n.op_type in _WEIGHTED]
    worth = weighted
    if policy.float_output_ops:
        worth = [n for n in weighted if not _is_poor(index, n)] or weighted
    rich = {root(f"{n.name}/") for n in worth}
    beside_float = set()
    for node in members:
        around = [index.producer[i] for i in node.input if i in index.producer]
        around += [r for t in touched[node.name] for r in index.readers.get(t, ())]
        if any(n.name not in nodes for n in around):
            beside_float.add(root(f"{node.name}/"))
    return {n.name for n in members if root(f"{n.name}/") in beside_float - rich}


def _is_poor(index: GraphIndex, node: Any) -> bool:
    """Whether a convolution or product multiplies each value that it reads `POOR` times at most."""
    weight = index.constants.get(node.input[1])
    read, written = (index.shapes.get(name, ()) for name in (node.input[0], node.output[0]))
    if weight is None or node.op_type == "ConvTranspose" or not read or 0 in (*read, *written):
        return False
    if node.op_type == "Conv":
        sums = weight.size // weight.shape[0]
    else:
        sums = weight.shape[1 if attribute(node, "transB", 0) else 0]
    multiplied: int = math.prod(written) * sums
    return multiplied <= POOR * math.prod(read)


def float_sums(index: GraphIndex, policy: Int8Policy, nodes: Collection[str]) -> set[str]:
    """Those of `nodes` (integer) that add up products for float operators alone.

    Add, Sub and Mul that no other integer operator reads, and that read no other one but products which can
    write float; joined, they read at least one product and a float operator reads them.
    """
    graph = index.model.graph.node
    found = {n.name: n for n in graph if n.name in nodes and n.op_type in _SUMS and policy.float_output_ops}
    while forced := {n.name for n in found.values() if _is_tied(index, policy, n, set(nodes) - set(found))}:
        found = {name: node for name, node in found.items() if name not in forced}
    kept: set[str] = set()
    for node in found.values():
        if node.name not in kept:
            kept |= _sums_of_products(index, policy, node, found, nodes)
    return kept


def _is_tied(index: GraphIndex, policy: Int8Policy, node: Any, integer: Collection[str]) -> bool:
    """Whether one of `integer` reads `node`, or writes for it what it cannot write in float."""
    if any(r.name in integer for r in index.readers.get(node.output[0], ())):
        return True
    writers = [index.producer[i] for i in node.input if i in index.producer]
    return any(w.name in integer and w.op_type not in policy.float_output_ops for w in writers)


def _sums_of_products(
    index: GraphIndex, policy: Int8Policy, start: Any, found: dict[str, Any], nodes: Collection[str]
) -> set[str]:
    """The sums joined with `start`; none of them where no product or no float operator has a part in it."""
    joined, waiting = {start.name}, [start]
    product = read = False
    while waiting:
        node = waiting.pop()
        writers = [w for i in node.input if (w := _writer(index, i, nodes)) is not None]
        readers = index.readers.get(node.output[0], ())
        product |= any(w.op_type in policy.float_output_ops for w in writers)
        read |= any(r.name not in nodes for r in readers)
        for other in (*writers, *readers):
            if other.name in found and other.name not in joined:
                joined.add(other.name)
                waiting.append(other)
    return joined if product and read else set()


def _writer(index: GraphIndex, tensor: str, nodes: Collection[str]) -> Any | None:
    """What computes `tensor`, before moves that are none of `nodes`: onnxsim leaves some behind a Gemm."""
    node = index.producer.get(tensor)
    while node is not None and node.op_type in MOVES and node.name not in nodes:
        node = index.producer.get(node.input[0])
    return node


def _touched(index: GraphIndex, node: Any, tensors: Collection[str]) -> Iterable[str]:
    """The quantized tensors a node reads or writes, behind an activation that it absorbs, too."""
    for name in (*node.input, *node.output):
        if name in tensors:
            yield name
    for output in node.output:
        reader = index.only_reader(output) if output not in tensors else None
        if reader is not None and reader.output[0] in tensors:
            yield str(reader.output[0])
