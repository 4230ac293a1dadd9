"""Empirical bias correction: what each layer's mean output still differs by from the float network's.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019), section
4.2 and appendix D: E[y] of the quantized network is brought to E[y] of the float one, channel by channel,
layer after layer, each with those in front of it corrected already. That takes in clipped activations and
padding, which the analytic form does not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.progress import report_progress
from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import Int8Policy
from edgekit.errors import UsageError
from edgekit.quantize.calibrate import Calibration
from edgekit.quantize.cut_graph import Cut, with_channel_means
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.placement import place
from edgekit.quantize.qdq import quantize
from edgekit.quantize.weight_coding import CodedWeight

__all__ = ["correct_biases"]

_SAMPLES = 32  # each is run once for every layer of the longest chain


def correct_biases(
    model: Any,
    batches: Iterable[Mapping[str, NDArray[Any]]],
    coded: Mapping[str, CodedWeight],
    *,
    calibration: Calibration,
    policy: Int8Policy,
    options: QuantizationOptions,
) -> dict[str, CodedWeight]:
    """`coded` with the biases of convolutions and Gemm corrected, on at most 32 samples.

    Layers of the same depth are corrected together, each depth by one pass over the part of the network that
    it needs. Raises `UsageError` without samples.
    """
    index = index_graph(model)
    nodes = {n.name: n for n in model.graph.node}
    placement = place(index, policy, keep=options.keep, leave_float=options.leave_float)
    weighted = [w for w in placement.weighted if w.op_type != "MatMul"]
    axes = {nodes[w.name].output[0]: len(index.shapes[nodes[w.name].output[0]]) for w in weighted}
    samples = list(islice(batches, _SAMPLES))
    wanted = _means(model, axes, samples)
    depths = _depths(model, {w.name for w in weighted})
    result = dict(coded)
    for number, depth in enumerate(sorted({depths[w.name] for w in weighted})):
        layers = [w for w in weighted if depths[w.name] == depth]
        graph, _ = quantize(model, calibration=calibration, policy=policy, options=options, coded=result)
        written = {n.name: n.output[0] for n in graph.graph.node}
        found = _means(graph, {written[w.name]: axes[nodes[w.name].output[0]] for w in layers}, samples)
        for layer in layers:
            shift = _certain(found[written[layer.name]] - wanted[nodes[layer.name].output[0]])
            bias = result[layer.name].bias
            corrected = -shift if bias is None else bias - shift
            result[layer.name] = replace(result[layer.name], bias=corrected)
        report_progress(number + 1, max(depths.values()))
    return result


def _means(
    model: Any, ranks: Mapping[str, int], samples: list[Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[np.float64]]:
    """The mean of every channel (axis 1) of tensors of these ranks, for each sample: (samples, channels)."""
    if not samples:
        raise UsageError("no samples to correct biases on", hint="give at least one; 100 are better")
    averaged, names = with_channel_means(model, {t: (rank, 1) for t, rank in ranks.items()})
    cut = Cut(averaged, names.values())
    runs = [cut.run(inputs) for inputs in samples]
    return {t: np.stack([run[name] for run in runs]).astype(np.float64) for t, name in names.items()}


def _certain(shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean shift of each channel, shrunk by the share of it that chance explains.

    `shifts`: (samples, channels). With few samples the mean of a deep layer is mostly chance, and to correct
    it would fit the samples (the positive-part estimator of James and Stein, 1961).
    """
    mean = shifts.mean(axis=0)
    if len(shifts) < 2:
        return np.zeros_like(mean)
    chance = shifts.var(axis=0, ddof=1) / len(shifts)
    return np.asarray(mean * np.maximum(0.0, 1.0 - chance / np.maximum(np.square(mean), 1e-300)))


def _depths(model: Any, counted: set[str]) -> dict[str, int]:
    """How many of the `counted` nodes lie on the longest chain up to and with each of them."""
    depth: dict[str, int] = {}
    found: dict[str, int] = {}
    for node in model.graph.node:
        here = max((depth.get(i, 0) for i in node.input), default=0)
        if node.name in counted:
            here += 1
            found[node.name] = here
        for output in node.output:
            depth[output] = here
    return found
