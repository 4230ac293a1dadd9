"""Mixtures of integers of two widths: an int8 graph some of whose nodes have int16 activations.

Each width is a layer of quantizers of its own. The 16-bit ones are written first, around the nodes that keep
them, everything else left float; then the 8-bit ones over what is left. Where the two meet, a value passes
the quantizers of both: LiteRT's QUANTIZE between the widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import Int8Policy
from edgekit.quantize.calibrate import Calibration
from edgekit.quantize.graph_index import index_graph
from edgekit.quantize.placement import Placement, place
from edgekit.quantize.qdq import quantize
from edgekit.quantize.weight_coding import CodedWeight

__all__ = ["quantize_widths"]

T = TypeVar("T")
Keep = dict[str, Literal["float32", "int16x8"]]


def quantize_widths(
    model: Any,
    *,
    calibration: Calibration,
    policy: Int8Policy,
    wide: Int8Policy | None,
    options: QuantizationOptions,
    coded: Mapping[str, CodedWeight] | None = None,
) -> tuple[Any, Placement]:
    """The QDQ graph as `quantize` writes it, with int16 activations where `options.keep` says so.

    `wide` is the policy of the 16-bit layer; without one, nodes that keep int16x8 are float32. The placement
    is that of the 8-bit layer. Raises `UsageError` for a kept node that the graph does not have.
    """
    if policy.activation == "int16":
        floats: Keep = {name: kept for name, kept in options.keep.items() if kept == "float32"}
        options = replace(options, keep=floats)
    sixteen = {name for name, kept in options.keep.items() if kept == "int16x8"}
    if not sixteen or wide is None:
        return quantize(model, calibration=calibration, policy=policy, options=options, coded=coded)
    import onnx

    place(index_graph(model), policy, options.keep)  # names are checked against the graph that has them all
    others: Keep = {n.name: "float32" for n in model.graph.node if n.name not in sixteen}
    first, _ = quantize(
        model, calibration=calibration, policy=wide, options=replace(options, keep=others)
    )
    first = onnx.shape_inference.infer_shapes(first)
    floats = dict.fromkeys(sorted({*options.keep, *_quantizers(first)}), "float32")
    return quantize(
        first,
        calibration=_renamed(calibration, first),
        policy=policy,
        options=replace(options, keep=floats),
        coded=coded,
    )


def _quantizers(model: Any) -> list[str]:
    return [n.name for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]


def _renamed(calibration: Calibration, model: Any) -> Calibration:
    """The calibration with what is known of a tensor also under the names that its 16-bit quantizers gave."""
    writers = {o: n for n in model.graph.node for o in n.output}
    known = {*calibration.ranges, *calibration.means}
    names: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in writers:
            continue
        raw, result = writers[node.input[0]].input[0], node.output[0]
        source = raw if raw in known else result
        names |= {raw: source, result: source}

    def both(values: dict[str, T]) -> dict[str, T]:
        return values | {new: values[old] for new, old in names.items() if old in values}

    return replace(
        calibration,
        ranges=both(calibration.ranges),
        means=both(calibration.means),
        channels=both(calibration.channels),
        coded={kind: both(ranges) for kind, ranges in calibration.coded.items()},
    )
