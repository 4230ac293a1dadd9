"""Learned rounding of a whole network: Gram matrices in streaming passes, then codes layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.progress import report_progress
from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import Int8Policy
from edgekit.errors import UsageError
from edgekit.quantize.algorithms.learned_rounding import learned_codes
from edgekit.quantize.algorithms.pair_aware import code_limits
from edgekit.quantize.calibrate import Calibration
from edgekit.quantize.cut_graph import Cut
from edgekit.quantize.graph_index import attribute
from edgekit.quantize.layer_inputs import InputMoments, patches
from edgekit.quantize.qdq import code_weights, quantize
from edgekit.quantize.weight_coding import CodedWeight

__all__ = ["learn_rounding"]

_SAMPLES = 128  # more of them changed nothing that was measured
_ROWS = 8192  # patches of a layer, over all samples
_PASS_BYTES = 256 * 2**20  # of the Gram matrices that one pass gathers


def learn_rounding(
    model: Any,
    batches: Iterable[Mapping[str, NDArray[Any]]],
    *,
    calibration: Calibration,
    policy: Int8Policy,
    options: QuantizationOptions,
) -> dict[str, CodedWeight]:
    """Every coded weight of the network by node name, those of convolutions and matrix products learned.

    Layers see what they see in the network quantized to nearest. One pass over at most 128 samples gathers up
    to 256 MiB of Gram matrices, and there are as many passes as that takes. Transposed convolutions and
    products with stacks of matrices stay as they are. Raises `UsageError` without samples.
    """
    coded = code_weights(model, calibration=calibration, policy=policy, options=options)
    graph, placement = quantize(model, calibration=calibration, policy=policy, options=options, coded=coded)
    protos = {n.name: n for n in graph.graph.node}
    corrected = options.bias_correction != "none"
    plain = replace(options, bias_correction="none")
    biases = (
        code_weights(model, calibration=calibration, policy=policy, options=plain) if corrected else coded
    )
    layers = [
        _Layer(protos[w.name], coded[w.name], biases[w.name].bias, policy, corrected=corrected)
        for w in placement.weighted
        if w.op_type != "ConvTranspose" and coded[w.name].weight.ndim >= 2 and not _is_stack(w, coded)
    ]
    rows = max(32, -(-_ROWS // max(1, min(calibration.samples, _SAMPLES))))
    passes = list(_passes(layers))
    for number, part in enumerate(passes):
        _gather(graph, part, batches, rows=rows, done=number, passes=len(passes))
        for layer in part:
            coded[layer.node.name] = layer.learned()
    return coded


def _is_stack(weighted: Any, coded: Mapping[str, CodedWeight]) -> bool:
    return weighted.op_type == "MatMul" and coded[weighted.name].weight.ndim != 2


def _gather(
    graph: Any,
    layers: list[_Layer],
    batches: Iterable[Mapping[str, NDArray[Any]]],
    *,
    rows: int,
    done: int,
    passes: int,
) -> None:
    cut = Cut(graph, [layer.node.input[0] for layer in layers])
    seen = 0
    for inputs in islice(batches, _SAMPLES):
        values = cut.run(inputs)
        for layer in layers:
            layer.see(values[layer.node.input[0]], rows=rows, seed=seen)
        seen += 1
        report_progress(done * _SAMPLES + seen, passes * _SAMPLES)
    if not seen:
        raise UsageError("no samples to learn the rounding from", hint="give at least one; 100 are better")


def _passes(layers: list[_Layer]) -> Iterator[list[_Layer]]:
    """Runs of layers whose Gram matrices fit into one pass; one that is larger has a pass of its own."""
    part: list[_Layer] = []
    held = 0
    for layer in layers:
        if part and held + layer.bytes > _PASS_BYTES:
            yield part
            part, held = [], 0
        part.append(layer)
        held += layer.bytes
    if part:
        yield part


class _Layer:
    """One convolution or matrix product: its float weight as (groups, outputs, summands), and its inputs."""

    def __init__(
        self,
        node: Any,
        coded: CodedWeight,
        bias: NDArray[np.float64] | None,
        policy: Int8Policy,
        *,
        corrected: bool,
    ) -> None:
        self.node = node
        self.coded = coded
        self.bias = bias
        self.groups = attribute(node, "group", 1)
        self.transposed = node.op_type == "MatMul"
        self.corrected = corrected and not self.transposed
        self.shape = coded.weight.T.shape if self.transposed else coded.weight.shape
        self.taps = prod(self.shape[2:])
        self.limit, self.paired = self._limits(policy)
        summands = prod(self.shape[1:])
        self.moments = InputMoments(summands, self.taps)
        self.bytes = 4 * self.groups * sum((b.stop - b.start) ** 2 for b in self.moments.blocks)

    def _limits(self, policy: Int8Policy) -> tuple[int, bool]:
        if policy.weight_bits == 7:
            return 63, False
        if policy.multiply_add == "exact":
            return 127, False
        return code_limits(
            self.coded.weight.shape, op_type=self.node.op_type, group=self.groups, axis=self.coded.axis
        )

    def see(self, values: NDArray[np.float32], *, rows: int, seed: int) -> None:
        """Take in the layer's data input of one call."""
        self.moments.add(patches(values, self.node, self.coded.weight.shape, rows=rows, seed=seed))

    def rowwise(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """An array of the weight's shape as (groups, outputs, summands)."""
        rows = values.T if self.transposed else values
        return np.asarray(rows.reshape(self.groups, self.shape[0] // self.groups, -1), np.float64)

    def learned(self) -> CodedWeight:
        """The codes that err least on what was seen, and the bias that takes up the shift of the mean."""
        weight, nearest = self.rowwise(self.coded.weight), self.rowwise(self.coded.codes)
        scales = np.broadcast_to(self.coded.scales.astype(np.float64), (self.shape[0],))
        scales = scales.reshape(weight.shape[:2])
        codes = np.empty_like(nearest)
        for number, block in enumerate(self.moments.blocks):
            codes[:, :, block] = learned_codes(
                weight[:, :, block],
                nearest[:, :, block],
                scales,
                self.moments.gram(number, centred=self.corrected),
                limit=self.limit,
                taps=self.taps,
                paired=self.paired,
            )
        found = codes.reshape(self.shape)
        written = np.ascontiguousarray(found.T if self.transposed else found).astype(np.int8)
        bias = self.bias
        if self.corrected:
            error = codes * scales[:, :, None] - weight
            shift = np.einsum("goi,gi->go", error, self.moments.mean()).reshape(-1)
            bias = -shift if bias is None else bias - shift
        return replace(self.coded, codes=written, bias=bias)
