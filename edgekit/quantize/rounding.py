"""Learned rounding of a whole network: Gram matrices in streaming passes, then codes layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
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
from edgekit.quantize.algorithms.learned_rounding import learned_codes, output_errors
from edgekit.quantize.algorithms.pair_aware import code_limits
from edgekit.quantize.calibrate import Calibration
from edgekit.quantize.cut_graph import Cut
from edgekit.quantize.graph_index import attribute
from edgekit.quantize.held_out import HELD_OUT, SAMPLES, Batches, is_held_out, is_lower, levels_of
from edgekit.quantize.layer_inputs import InputMoments, patches
from edgekit.quantize.qdq import code_weights, quantize
from edgekit.quantize.weight_coding import CodedWeight

__all__ = ["learn_rounding"]

_ROWS = (2048, 8192)  # patches of a layer, over all samples: at least, at most; eight a summand between
_PASS_BYTES = 256 * 2**20  # of the Gram matrices that one pass gathers

Codes = dict[str, CodedWeight]


def learn_rounding(
    model: Any,
    batches: Batches,
    *,
    calibration: Calibration,
    policy: Int8Policy,
    options: QuantizationOptions,
) -> Codes:
    """Every coded weight of the network by node name, those of convolutions and matrix products learned.

    One pass of the float network over at most 128 samples gathers up to 256 MiB of Gram matrices, and there
    are as many passes as that takes. Transposed convolutions and products with stacks of matrices stay as
    they are. With `options.rounding` "auto" every fourth sample is held out: an output channel takes learned
    codes only where they err less on those, and the network only where its outputs do beyond chance. Raises
    `UsageError` without samples.
    """
    nearest = code_weights(model, calibration=calibration, policy=policy, options=options)
    uncorrected = nearest
    if options.bias_correction != "none":
        without = replace(options, bias_correction="none")
        uncorrected = code_weights(model, calibration=calibration, policy=policy, options=without)
    protos = {n.name: n for n in model.graph.node}
    layers = [
        _Layer(protos[name], plain, uncorrected[name].bias, policy, options)
        for name, plain in nearest.items()
        if _is_learned(protos[name], plain)
    ]
    coded = dict(nearest)
    passes = list(_passes(layers))
    for number, part in enumerate(passes):
        calls = _gather(model, part, batches, count=calibration.samples, done=number, passes=len(passes))
        if options.rounding == "auto" and calls < HELD_OUT:
            return nearest
        for layer in part:
            coded[layer.node.name] = layer.learned()
    if options.rounding == "learned" or all(coded[name] is nearest[name] for name in coded):
        return coded
    graphs = [
        quantize(model, calibration=calibration, policy=policy, options=options, coded=codes)[0]
        for codes in (nearest, coded)
    ]
    return coded if is_lower(levels_of(model, graphs, batches).noise) else nearest


def _is_learned(node: Any, coded: CodedWeight) -> bool:
    if node.op_type == "MatMul":
        return coded.weight.ndim == 2
    return node.op_type != "ConvTranspose" and coded.weight.ndim >= 2


def _gather(model: Any, layers: list[_Layer], batches: Batches, *, count: int, done: int, passes: int) -> int:
    """Show the layers their inputs; how many calls that were."""
    cut = Cut(model, [layer.node.input[0] for layer in layers])
    number = -1
    for number, inputs in enumerate(islice(batches, SAMPLES)):
        values = cut.run(inputs)
        for layer in layers:
            layer.see(values[layer.node.input[0]], number, of=max(1, min(count, SAMPLES)))
        report_progress(done * SAMPLES + number + 1, passes * SAMPLES)
    if number < 0:
        raise UsageError("no samples to learn the rounding from", hint="give at least one; 100 are better")
    return number + 1


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
        options: QuantizationOptions,
    ) -> None:
        self.node = node
        self.coded = coded
        self.bias = bias
        self.groups = attribute(node, "group", 1)
        self.transposed = node.op_type == "MatMul"
        self.corrected = options.bias_correction != "none" and not self.transposed
        self.shape = coded.weight.T.shape if self.transposed else coded.weight.shape
        self.taps = prod(self.shape[2:])
        self.limit, self.paired = self._limits(policy)
        self.summands = prod(self.shape[1:])
        self.moments = InputMoments(self.summands, self.taps)
        self.held_out = InputMoments(self.summands, self.taps) if options.rounding == "auto" else None
        matrices = 1 if self.held_out is None else 2
        self.bytes = 4 * matrices * self.groups * sum((b.stop - b.start) ** 2 for b in self.moments.blocks)

    def _limits(self, policy: Int8Policy) -> tuple[int, bool]:
        if not policy.caps_pairs:
            return policy.weight_limit, False
        return code_limits(
            self.coded.weight.shape, op_type=self.node.op_type, group=self.groups, axis=self.coded.axis
        )

    def see(self, values: NDArray[np.float32], number: int, *, of: int) -> None:
        """Take in the layer's data input of one call, `number` of so many."""
        rows = -(-min(max(8 * self.summands, _ROWS[0]), _ROWS[1]) // of)
        found = patches(values, self.node, self.coded.weight.shape, rows=max(32, rows), seed=number)
        if self.held_out is not None and is_held_out(number):
            self.held_out.add(found)
        else:
            self.moments.add(found)

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
        steps = scales[:, :, None]
        if self.held_out is not None:
            plain, better = (self._unseen_errors(c * steps - weight) for c in (nearest, codes))
            codes = np.where((better < plain)[:, :, None], codes, nearest)
            if (codes == nearest).all():
                return self.coded
        found = codes.reshape(self.shape)
        written = np.ascontiguousarray(found.T if self.transposed else found).astype(np.int8)
        bias = self.bias
        if self.corrected:
            shift = np.einsum("goi,gi->go", codes * steps - weight, self.moments.mean()).reshape(-1)
            bias = -shift if bias is None else bias - shift
        return replace(self.coded, codes=written, bias=bias)

    def _unseen_errors(self, change: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a change of weights costs each output (groups, outputs) on the samples held out."""
        assert self.held_out is not None
        about = self.moments.mean() if self.corrected else None
        errors = np.zeros(change.shape[:2])
        for number, block in enumerate(self.held_out.blocks):
            errors += output_errors(change[:, :, block], self.held_out.gram_about(number, about))
        return errors
