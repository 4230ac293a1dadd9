"""Spectra: the front ends whose powers 8 bits would destroy, and the magnitudes that can be evened out.

The power of a signal spans twice the decibels of the signal itself, and 8 bits span 48. A front end that is
linear (a Fourier or wavelet transform written as convolutions) and whose results are read as powers alone,
the powers, and what reads them before their logarithm is taken, stay in float32.

Magnitudes, the roots of powers, span no more than the signal: what one step of quantization cannot serve is
that some frequencies are a hundred times louder than others. Divided by a factor each (`equalization`), which
their readers' weights take up, they are as good for integers as anything.
"""

from __future__ import annotations

from typing import Any

from edgekit.quantize.graph_index import GraphIndex

__all__ = ["EVEN", "EVENING", "MOVES", "is_square", "magnitudes", "spectra"]

EVEN, EVENING = "/even", "/units"  # behind the name of a tensor: what is divided, and by what

MOVES = (
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split",
    "Squeeze", "Transpose", "Unsqueeze",
)  # fmt: skip
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TRANSFORMS = ("STFT", "DFT")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_OF_POWERS = (
    *MOVES, *_ARITHMETIC, "AveragePool", "Clip", "Max", "MaxPool", "Min", "Pow", "ReduceMax", "ReduceMean",
    "ReduceSum", "Sqrt",
)  # fmt: skip


def spectra(index: GraphIndex, *, end_even: bool = True) -> set[str]:
    """The nodes of spectral front ends. A normalization is none: what it squares is read once more.

    With `end_even` they end behind magnitudes that were evened out.
    """
    nodes = list(index.model.graph.node)
    found, powers = _powers(index, nodes)
    if not powers:
        return set()
    before_logarithm = _tensors_before_logarithms(nodes)
    for node in nodes:
        read = [i for i in node.input if i in powers]
        if not read:
            continue
        if node.op_type in (*_WEIGHTED, *_OF_POWERS):
            found.add(node.name)
        known = all(i in powers or i in index.constants or not i for i in node.input)
        if end_even and _is_evening(node):
            continue
        if known and (node.op_type in _OF_POWERS or before_logarithm.intersection(node.output)):
            powers.update(node.output)
    return found


def magnitudes(index: GraphIndex) -> list[str]:
    """The roots of powers that convolutions and matrix products alone read, and not towards a logarithm."""
    nodes = list(index.model.graph.node)
    _, powers = _powers(index, nodes)
    before_logarithm = _tensors_before_logarithms(nodes)
    roots: list[str] = []
    for node in nodes if powers else ():
        known = all(i in powers or i in index.constants or not i for i in node.input)
        if not known or node.op_type not in _OF_POWERS or not powers.intersection(node.input):
            continue
        powers.update(node.output)
        readers = index.readers.get(node.output[0], ())
        read_by_layers = readers and all(r.op_type in ("Conv", "Gemm", "MatMul") for r in readers)
        towards_logarithm = any(before_logarithm.intersection(r.output) for r in readers)
        if _is_root(index, node) and read_by_layers and not towards_logarithm:
            roots.append(node.output[0])
    return roots


def _powers(index: GraphIndex, nodes: list[Any]) -> tuple[set[str], set[str]]:
    """The linear front end's nodes, and the squares of what they give."""
    linear = _only_squared(index, nodes)
    signals: set[str] = set()
    for node in nodes:
        transforms = node.op_type in (*_WEIGHTED, *_TRANSFORMS)
        if node.name in linear and (transforms or any(i in signals for i in node.input)):
            signals.update(node.output)
    return set(linear), {o for n in nodes if is_square(index, n) and n.input[0] in signals for o in n.output}


def _is_root(index: GraphIndex, node: Any) -> bool:
    if node.op_type == "Pow":
        exponent = index.constants.get(node.input[1])
        return exponent is not None and bool((exponent == 0.5).all())
    return bool(node.op_type == "Sqrt")


def _is_evening(node: Any) -> bool:
    return node.op_type == "Mul" and list(node.input) == [
        node.output[0].removesuffix(EVEN), node.output[0].removesuffix(EVEN) + EVENING
    ]  # fmt: skip


def _only_squared(index: GraphIndex, nodes: list[Any]) -> set[str]:
    """Nodes that are linear in what they read, and whose results lead to squares and nowhere else."""
    found: set[str] = set()
    for node in reversed(nodes):
        readers = [r for o in node.output for r in index.readers.get(o, ())]
        leads_on = readers and all(r.name in found or is_square(index, r) for r in readers)
        if leads_on and _is_linear(index, node) and not set(node.output) & set(index.outputs):
            found.add(node.name)
    return found


def _is_linear(index: GraphIndex, node: Any) -> bool:
    if node.op_type in (*_WEIGHTED, *_ARITHMETIC):
        return sum(i not in index.constants for i in node.input if i) == 1 and not (
            node.op_type == "Div" and node.input[0] in index.constants
        )
    return node.op_type in (*MOVES, *_TRANSFORMS, "Neg")


def is_square(index: GraphIndex, node: Any) -> bool:
    """Whether a node gives the square of what it reads."""
    if node.op_type == "Mul":
        return bool(node.input[0] == node.input[1])
    if node.op_type == "Pow":
        exponent = index.constants.get(node.input[1])
        return exponent is not None and bool((exponent == 2).all())
    return node.op_type in ("ReduceL2", "ReduceSumSquare")


def _tensors_before_logarithms(nodes: list[Any]) -> set[str]:
    found: set[str] = set()
    for node in reversed(nodes):
        if node.op_type == "Log" or (node.op_type in _OF_POWERS and found.intersection(node.output)):
            found.update(node.input)
    return found
