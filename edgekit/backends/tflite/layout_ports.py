"""Which inputs and outputs of the model become channels-last: those where that saves a transpose.

Before: every port has the source's layout.
After:  (N, C, L) is (N, L, C), (N, C, H, W) is (N, H, W, C), (N, C, D, H, W) is (N, D, H, W, C) where a
        kernel that wants channels last reads or writes the port, through whatever does not care for the
        order of axes, and the whole graph then moves less. An attention mask, a table of boxes or a cache of
        keys stays as it is.
Must not change: what the graph computes, names, order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np

from edgekit.backends.tflite.cleanup import drop_dead
from edgekit.backends.tflite.ir import Graph, Operator, Port, Tensor
from edgekit.backends.tflite.layout import move_transposes
from edgekit.backends.tflite.layout_reshape import moves_only_ones
from edgekit.backends.tflite.op import inverse, permuted

__all__ = ["choose_port_layouts"]

_CHANNELS_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
_SPATIAL = frozenset(
    (
        "AVERAGE_POOL_2D",
        "CONV_2D",
        "CONV_3D",
        "CONV_3D_TRANSPOSE",
        "DEPTHWISE_CONV_2D",
        "DEPTH_TO_SPACE",
        "L2_POOL_2D",
        "MAX_POOL_2D",
        "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR",
        "SPACE_TO_DEPTH",
        "TRANSPOSE_CONV",
    )
)
_MIXES_AXES = frozenset(("BATCH_MATMUL", "FULLY_CONNECTED"))  # what lies behind them has axes of its own


def choose_port_layouts(graph: Graph) -> None:
    """Move channels last at the ports where it pays; call before `move_transposes`.

    Starts with every candidate channels-last and takes each one back that does not save a transpose, so a
    plain network costs as many trials as it has pictures going in and out.
    """
    chosen = [p.name for p in (*graph.inputs, *graph.outputs) if len(p.tensor.shape) in _CHANNELS_LAST]
    spatial = _spatial_ports(graph) if chosen else frozenset()
    chosen = [name for name in chosen if name in spatial]
    best = _cost(graph, chosen) if chosen else (0, 0)
    for name in tuple(chosen):
        others = [other for other in chosen if other != name]
        cost = _cost(graph, others)
        if cost <= best:
            chosen, best = others, cost
    _permute_ports(graph, chosen)


def _spatial_ports(graph: Graph) -> frozenset[str]:
    """The ports that a spatial kernel reads or writes, directly or through operators that keep axes."""
    readers, producers = graph.consumers(), graph.producers()

    def ahead(tensor: Tensor) -> Iterator[Operator]:
        yield from readers.get(tensor, ())

    def behind(tensor: Tensor) -> Iterator[Operator]:
        if tensor in producers:
            yield producers[tensor]

    def reaches(start: Tensor, *, forward: bool) -> bool:
        waiting, seen = [start], {start}
        while waiting:
            for op in (ahead if forward else behind)(waiting.pop()):
                if op.kind in _SPATIAL:
                    return True
                further = () if op.kind in _MIXES_AXES else op.outputs if forward else op.inputs
                new = {t for t in further if t is not None} - seen
                seen |= new
                waiting.extend(new)
        return False

    found = {port.name for port in graph.inputs if reaches(port.tensor, forward=True)}
    return frozenset(found | {port.name for port in graph.outputs if reaches(port.tensor, forward=False)})


def _cost(graph: Graph, chosen: Collection[str]) -> tuple[int, int]:
    """(elements moved, transposes) that stay when the ports `chosen` are channels-last."""
    trial = Graph(
        operators=[
            Operator(
                kind=op.kind,
                inputs=list(op.inputs),
                outputs=list(op.outputs),
                options=op.options,
                origin=op.origin,
            )
            for op in graph.operators
        ],
        inputs=[Port(name=port.name, tensor=port.tensor) for port in graph.inputs],
        outputs=[Port(name=port.name, tensor=port.tensor) for port in graph.outputs],
    )
    _permute_ports(trial, chosen)
    move_transposes(trial)
    drop_dead(trial)
    elements = count = 0
    for op in trial.operators:
        x, perm = op.inputs if op.kind == "TRANSPOSE" else (None, None)
        if x is not None and perm is not None and perm.data is not None:
            count += 1
            order = [int(axis) for axis in perm.data]
            elements += 0 if moves_only_ones(x.shape, order) else x.size
    return elements, count


def _permute_ports(graph: Graph, names: Collection[str]) -> None:
    first = []
    for port in graph.inputs:
        if port.name in names:
            old = port.tensor
            perm = _permute(port)
            first.append(_transpose(port.tensor, old, inverse(perm)))
    graph.operators[:0] = first
    for port in graph.outputs:
        if port.name in names:
            old = port.tensor
            perm = _permute(port)
            graph.operators.append(_transpose(old, port.tensor, perm))


def _permute(port: Port) -> tuple[int, ...]:
    old = port.tensor
    port.axes = _CHANNELS_LAST[len(old.shape)]
    shape = permuted(old.shape, port.axes)
    port.tensor = Tensor(name=port.name, shape=shape, dtype=old.dtype, quant=old.quant)
    return port.axes


def _transpose(x: Tensor, y: Tensor, perm: tuple[int, ...]) -> Operator:
    axes = np.asarray(perm, np.int32)
    parameter = Tensor(name=f"{y.name}/perm", shape=axes.shape, dtype="int32", data=axes)
    return Operator(kind="TRANSPOSE", inputs=[x, parameter], outputs=[y], origin=y.name)
