"""Answers of a network any of whose nodes are quantized, computed with the quantizers written out.

The graph is the one the backends lower; ONNX Runtime computes it in float32 between quantizers, without
integer kernels, so the answers hold for every engine that keeps the graph's scales.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.core.packages import require
from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import Int8Policy
from edgekit.quantize.calibrate import Calibration
from edgekit.quantize.graph_index import GraphIndex, attribute, index_graph
from edgekit.quantize.placement import place
from edgekit.quantize.widths import quantize_widths

__all__ = ["Kept", "Simulation", "multiply_adds", "run_graph"]

Inputs = Mapping[str, NDArray[Any]]
Kept = Mapping[str, Literal["float32", "int16x8"]]  # node -> the precision it keeps
_WORKERS = 2  # graphs that run side by side, one thread each


class Simulation:
    """A float network, its calibration and a policy, with the samples by which mixtures are compared.

    `model` is a ModelProto whose nodes have names; `samples` are inputs of single calls; `output` names the
    output that is judged. `reference` is the float answer [n, ...]. `nodes` are the names, in graph order, of
    the nodes that compute in integers under the policy (those that only move values follow their input).
    `wide` is the policy of nodes that keep int16x8 (None: the target has none, they are float32).
    """

    def __init__(
        self,
        model: Any,
        *,
        calibration: Calibration,
        policy: Int8Policy,
        options: QuantizationOptions,
        samples: Sequence[Inputs],
        output: str,
        wide: Int8Policy | None = None,
    ) -> None:
        self.model = model
        self.calibration = calibration
        self.policy = policy
        self.wide = wide
        self.options = options
        self.samples = samples
        self.output = output
        self.index = index_graph(model)
        self.reference = run_graph(model, samples, output)
        integer = place(self.index, policy, options.keep, leave_float=options.leave_float).integer_nodes
        self.nodes = tuple(
            n.name for n in model.graph.node if n.name in integer and n.op_type in policy.integer_ops
        )

    def answer(self, kept: Collection[str] | Kept) -> NDArray[Any]:
        """The answer [n, ...] with every node quantized but `kept`, float32 where nothing else is said.

        The float answer when no node is left.
        """
        floats: Kept = kept if isinstance(kept, Mapping) else dict.fromkeys(sorted(kept), "float32")
        if {name for name, width in floats.items() if width == "float32"} >= set(self.nodes):
            return self.reference
        made, _ = quantize_widths(
            self.model,
            calibration=self.calibration,
            policy=self.policy,
            wide=self.wide,
            options=replace(self.options, keep={**self.options.keep, **floats}),
        )
        return run_graph(made, self.samples, self.output)

    def answers(self, mixtures: Iterable[Collection[str] | Kept]) -> Iterable[NDArray[Any]]:
        """The answers of many mixtures, in order; two are computed at a time."""
        with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
            yield from pool.map(self.answer, mixtures)


def run_graph(model: Any, samples: Sequence[Inputs], output: str) -> NDArray[Any]:
    """The output [n, ...] of a ModelProto for every sample, its quantizers computed as they are written."""
    onnxruntime = require("onnxruntime", needed_for="the simulation of quantized networks")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = 1
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return np.concatenate([session.run([output], dict(inputs))[0] for inputs in samples])


def multiply_adds(index: GraphIndex, node: Any) -> int:
    """Multiply-adds of one node in one call; 0 for what is neither convolution nor matrix product."""

    def shape(name: str) -> tuple[int, ...]:
        found = index.constants[name].shape if name in index.constants else index.shapes.get(name, ())
        return tuple(found)

    if node.op_type == "Conv":
        return prod(shape(node.output[0])) * prod(shape(node.input[1])[1:])
    if node.op_type == "ConvTranspose":
        return prod(shape(node.input[0])) * prod(shape(node.input[1])[1:])
    if node.op_type in ("Gemm", "MatMul"):
        left = shape(node.input[0])
        return prod(shape(node.output[0])) * (left[0] if attribute(node, "transA", 0) else left[-1])
    return 0
