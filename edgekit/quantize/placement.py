"""Where quantizers sit: a target's policy laid over a graph.

An op type of `policy.integer_ops` has quantizers on its inputs and its output; an activation that the policy
lets it absorb lies before the output quantizer. An op of `policy.shared_scale_ops` is integer when what it
reads is, and its tensors form one group with one scale. A kernel with a fixed output scale keeps it; where
such a tensor meets a group of another scale, the edge is requantized.

A node that is kept in float32 has no quantizers of its own: it reads what its integer neighbours quantize,
and the plain value where none of them wrote it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from edgekit.core.target import FixedScale, Int8Policy
from edgekit.errors import UsageError, nearest
from edgekit.quantize.attention import attention
from edgekit.quantize.graph_index import GraphIndex, attribute
from edgekit.quantize.leave_float import float_sums, fragile, islands
from edgekit.quantize.masks import masks

__all__ = ["WEIGHTED_OPS", "Placement", "WeightedNode", "place"]

WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_CONSTANT_OPERAND_OPS = ("Add", "Sub", "Mul", "Div")
_ONE_TO_ONE = ("Flatten", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_DATA_INPUTS = {"Concat": None}  # None: all inputs are data; other shared ops read data at input 0 alone


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedNode:
    """A node with constant weights: `axis` is the output-channel axis of `weight` (None: per tensor)."""

    name: str
    op_type: str
    data: str
    weight: str
    bias: str
    axis: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What the policy says of one graph.

    `tensors`: the activations that get quantizers, in graph order. `group`: tensor -> the representative of
    the tensors it shares a scale with. `fixed`: representative -> imposed scale. `requantized`: (node name,
    tensor) edges that need a second quantizer with the scale of the node's output group. `weighted`: nodes
    with constant weights to be coded. `constants`: (node name, initializer) operands coded like activations.
    `symmetric`: representatives whose zero point must be 0. `plain_reads`: (node name, tensor) edges on which
    a node that is kept in float32 reads a quantized tensor before its quantizer.
    """

    tensors: tuple[str, ...]
    group: dict[str, str]
    fixed: dict[str, FixedScale]
    requantized: frozenset[tuple[str, str]]
    weighted: tuple[WeightedNode, ...]
    constants: tuple[tuple[str, str], ...]
    integer_nodes: frozenset[str] = field(default_factory=frozenset)
    symmetric: frozenset[str] = field(default_factory=frozenset)
    plain_reads: frozenset[tuple[str, str]] = field(default_factory=frozenset)


def place(
    index: GraphIndex, policy: Int8Policy, keep: Collection[str] = (), *, leave_float: bool = True
) -> Placement:
    """Lay `policy` over the graph, but leave the nodes named by `keep` in float32.

    Every node must have a name. An operator that absorbs a kept activation is kept with it. What is quantized
    is never more than without `keep`. What 8 bits would destroy, and what integers gain nothing for, is kept
    without being named, unless `leave_float` is off: see the module of that name. Raises `UsageError` for a
    name that no node has.
    """
    lost = fragile(index, policy) | masks(index) if leave_float else set()
    if leave_float and policy.float_attention:
        lost |= attention(index)
    kept = _kept(index, policy, {*keep, *lost})
    weighted = _weighted_nodes(index, policy)
    integer, wanted, shared = _spread(index, policy, kept, weighted)
    if leave_float:
        kept |= float_sums(index, policy, integer | {n.name for n in shared})
        integer, wanted, shared = _spread(index, policy, kept, weighted)
        kept |= islands(index, policy, integer | {n.name for n in shared}, wanted)
        integer, wanted, shared = _spread(index, policy, kept, weighted)
    group, requantized = _groups(index, shared, wanted, _fixed_tensors(index, policy, integer))
    fixed = {group[t]: s for t, s in _fixed_tensors(index, policy, integer).items() if t in wanted}
    constants = tuple(
        (n.name, i)
        for n in index.model.graph.node
        if n.name in integer and n.op_type in (*_CONSTANT_OPERAND_OPS, "Concat")
        for i in n.input
        if index.is_float_constant(i)
    )
    order = [*index.inputs, *(o for n in index.model.graph.node for o in n.output)]
    return Placement(
        tensors=tuple(t for t in order if t in wanted),
        group=group,
        fixed=fixed,
        requantized=requantized,
        weighted=tuple(w for w in weighted.values() if w.name in integer),
        constants=constants,
        integer_nodes=frozenset(integer | {n.name for n in shared}),
        symmetric=frozenset(
            group[i]
            for n in index.model.graph.node
            if n.name in integer
            for i in _symmetric_inputs(policy, n)
            if i in group
        ),
        plain_reads=_plain_reads(index, policy, kept, wanted, integer | {n.name for n in shared}),
    )


def _spread(
    index: GraphIndex, policy: Int8Policy, kept: set[str], weighted: dict[str, WeightedNode]
) -> tuple[set[str], set[str], list[Any]]:
    """The integer nodes, the tensors that get quantizers, and the nodes that move integers."""
    able = {n.name for n in index.model.graph.node if _runs_integer(index, policy, n, weighted)}
    integer = able - kept
    # What a kept operator would have absorbed stays without quantizers, too: no range of it was calibrated.
    absorbers = [n for n in index.model.graph.node if n.name in integer | kept]
    integer -= {a.name for n in absorbers for a in _absorbed_affine(index, policy, n)}
    wanted = _directly_wanted(index, policy, integer) - _summed(index, policy, able)
    _move_back(index, policy, integer, wanted, kept)
    return integer, wanted, _spread_through_shared(index, policy, wanted, kept)


def _kept(index: GraphIndex, policy: Int8Policy, keep: Collection[str]) -> set[str]:
    nodes = {n.name: n for n in index.model.graph.node}
    unknown = sorted(set(keep) - set(nodes))
    if unknown:
        raise UsageError(
            "nodes that are to keep a precision are not in the graph",
            problems=[f"{name!r}; {nearest(name, nodes)}" for name in unknown],
            hint="`edgekit analyze` lists the nodes that can be quantized",
        )
    kept = set(keep)
    for node in nodes.values():
        end = index.producer.get(_end_of_fusion(index, policy, node))
        if end is not None and end.name in kept:
            kept.add(node.name)
    return kept


def _plain_reads(
    index: GraphIndex, policy: Int8Policy, kept: set[str], wanted: set[str], integer: set[str]
) -> frozenset[tuple[str, str]]:
    """The edges from what no integer node writes to nodes that are kept in float32."""
    written = {
        name
        for n in index.model.graph.node
        if n.name in integer
        for name in (*n.output, _end_of_fusion(index, policy, n))
    }
    return frozenset(
        (n.name, i)
        for n in index.model.graph.node
        if n.name in kept
        for i in n.input
        if i in wanted and i not in written
    )


def _weighted_nodes(index: GraphIndex, policy: Int8Policy) -> dict[str, WeightedNode]:
    found = {}
    for node in index.model.graph.node:
        if node.op_type not in WEIGHTED_OPS or not index.is_float_constant(node.input[1]):
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        axis = _channel_axis(index, node) if policy.per_channel else None
        found[node.name] = WeightedNode(
            name=node.name,
            op_type=node.op_type,
            data=node.input[0],
            weight=node.input[1],
            bias=bias,
            axis=axis,
        )
    return found


def _channel_axis(index: GraphIndex, node: Any) -> int | None:
    rank = index.constants[node.input[1]].ndim
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    return 1 if rank == 2 else None


def _runs_integer(
    index: GraphIndex, policy: Int8Policy, node: Any, weighted: dict[str, WeightedNode]
) -> bool:
    if node.op_type not in policy.integer_ops or not index.is_float_activation(node.output[0]):
        return False
    if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
        plain = node.op_type != "Gemm" or (
            attribute(node, "alpha", 1.0) == 1.0
            and attribute(node, "beta", 1.0) == 1.0
            and not attribute(node, "transA", 0)
        )
        known_bias = len(node.input) < 3 or not node.input[2] or index.is_float_constant(node.input[2])
        return node.name in weighted and plain and known_bias and index.is_float_activation(node.input[0])
    if node.op_type in ("GlobalAveragePool", "ReduceMean", "AveragePool"):
        return index.is_float_activation(node.input[0])
    return all(index.is_float_activation(i) or index.is_float_constant(i) for i in node.input if i)


def _end_of_fusion(index: GraphIndex, policy: Int8Policy, node: Any) -> str:
    """The tensor behind `node` and what it absorbs."""
    name = str(node.output[0])
    if node.op_type not in (*WEIGHTED_OPS, "Add", "Sub", "Mul", "Concat"):
        return name
    for absorbed in _absorbed_affine(index, policy, node):
        name = str(absorbed.output[0])
    reader = index.only_reader(name)
    if reader is not None and reader.op_type in policy.fused_activations and reader.input[0] == name:
        return str(reader.output[0])
    return name


def _absorbed_affine(index: GraphIndex, policy: Int8Policy, node: Any) -> list[Any]:
    """The operators with a constant that `node` absorbs, in their order."""
    chain: list[Any] = []
    if node.op_type not in policy.affine_absorbers:
        return chain
    reader = index.only_reader(str(node.output[0]))
    while reader is not None and reader.op_type in _CONSTANT_OPERAND_OPS:
        if not any(index.is_float_constant(i) for i in reader.input):
            break
        chain.append(reader)
        reader = index.only_reader(str(reader.output[0]))
    return chain


def _directly_wanted(index: GraphIndex, policy: Int8Policy, integer: set[str]) -> set[str]:
    wanted: set[str] = set()
    nodes = [n for n in index.model.graph.node if n.name in integer]
    for node in nodes:
        wanted.update(i for i in node.input if index.is_float_activation(i))
    for node in nodes:
        if node.op_type not in policy.float_output_ops:
            wanted.add(_end_of_fusion(index, policy, node))
    return wanted


def _summed(index: GraphIndex, policy: Int8Policy, able: set[str]) -> set[str]:
    """What an operator of `sum_absorbers` gives to the Add that it absorbs.

    Whichever of the two is kept in float32: what is quantized is never more than without keeping any.
    """
    nodes = index.model.graph.node
    absorbers = {n.output[0] for n in nodes if n.op_type in policy.sum_absorbers and n.name in able}
    found: set[str] = set()
    for node in nodes:
        if node.op_type == "Add" and all(index.is_float_activation(i) for i in node.input):
            taken = [i for i in node.input if i in absorbers and index.only_reader(i) is node]
            found.update(taken[:1] if len(set(node.input)) > 1 else ())
    return found


def _symmetric_inputs(policy: Int8Policy, node: Any) -> list[str]:
    if node.op_type in policy.symmetric_ops:
        return list(node.input)
    return [node.input[1]] if node.op_type in policy.symmetric_right_ops else []


def _move_back(
    index: GraphIndex, policy: Int8Policy, integer: set[str], wanted: set[str], kept: set[str]
) -> None:
    """Want what lies before moves of one tensor to an operator of `symmetric_ops`, and nothing else reads.

    The codes are the same, what made the tensor can round it, and the moves carry 8 bits. With a zero point,
    OpenVINO takes it off before such a move and puts it back behind: one pass each.
    """
    moved = {i for n in index.model.graph.node if n.name in integer for i in _symmetric_inputs(policy, n)}
    for node in reversed(index.model.graph.node if policy.symmetric_ops else ()):
        movable = node.op_type in _ONE_TO_ONE and node.op_type in policy.shared_scale_ops
        if not movable or node.name in kept or node.output[0] not in wanted & moved:
            continue
        before = node.input[0]
        if index.is_float_activation(before) and index.only_reader(before) is node:
            wanted.add(before)
            moved.add(before)


def _spread_through_shared(
    index: GraphIndex, policy: Int8Policy, wanted: set[str], kept: set[str]
) -> list[Any]:
    """Extend `wanted` through ops that only move values; returns those ops."""
    shared: dict[str, Any] = {}
    changed = True
    while changed:
        changed = False
        for node in index.model.graph.node:
            if node.op_type not in policy.shared_scale_ops or node.name in shared or node.name in kept:
                continue
            data = _data_inputs(node)
            if not any(i in wanted for i in data) or not all(index.is_float_activation(i) for i in data):
                continue
            if node.op_type == "Pad" and not _pads_with_zero(index, node):
                continue
            shared[node.name] = node
            wanted.update(data)
            wanted.update(o for o in node.output if index.is_float_activation(o))
            changed = True
    return [n for n in index.model.graph.node if n.name in shared]


def _data_inputs(node: Any) -> list[str]:
    return list(node.input) if node.op_type in _DATA_INPUTS else [node.input[0]]


def _pads_with_zero(index: GraphIndex, node: Any) -> bool:
    if attribute(node, "mode", b"constant") != b"constant" or len(node.input) < 3 or not node.input[2]:
        return True
    value = index.constants.get(node.input[2])
    return value is not None and not value.any()


def _fixed_tensors(index: GraphIndex, policy: Int8Policy, integer: set[str]) -> dict[str, FixedScale]:
    return {
        n.output[0]: policy.fixed_outputs[n.op_type]
        for n in index.model.graph.node
        if n.name in integer and n.op_type in policy.fixed_outputs
    }


def _groups(
    index: GraphIndex, shared: list[Any], wanted: set[str], fixed: dict[str, FixedScale]
) -> tuple[dict[str, str], frozenset[tuple[str, str]]]:
    parent = {t: t for t in wanted}
    imposed: dict[str, FixedScale | None] = {t: fixed.get(t) for t in wanted}
    requantized: set[tuple[str, str]] = set()

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in shared:
        outputs = [o for o in node.output if o in wanted]
        data = _data_inputs(node)
        scales = {imposed[root(i)] for i in data}
        for name in data:
            if imposed[root(name)] is not None and len(scales) > 1:
                requantized.add((node.name, name))
                continue
            for output in outputs:
                first, second = root(name), root(output)
                if first != second:
                    parent[second] = first
                    imposed[first] = imposed[first] or imposed[second]
    return {t: root(t) for t in wanted}, frozenset(requantized)
