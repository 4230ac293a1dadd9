"""What quantization does to a network node by node, as data. `edgekit.report` renders it."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["NodeSensitivity", "Sensitivity", "Standing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How near answers are to those of the float network, on the same samples.

    `sqnr_db`: power of the float output over power of the difference (200: identical). `top1_agreement`:
    share 0..1 of samples whose first class is the same; None when the output is no row of class scores.
    `drop`: what the metric loses, in points for rates and in its own unit for errors; None without a metric.
    `drop_error` is the standard error of the drop over the `n` samples, paired.
    """

    sqnr_db: float
    top1_agreement: float | None = None
    drop: float | None = None
    drop_error: float = 0.0
    n: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSensitivity:
    """One node that the target runs in integers.

    `alone`: only this node quantized, the rest float: the damage it does. `kept`: everything quantized but
    this node. `gain_db`: what keeping it in float buys, SQNR of `kept` less that of the whole. `macs` counts
    its multiply-adds (0 for other operators), `macs_share` their share of the network's, 0..1.
    """

    name: str
    op_type: str
    macs: int
    macs_share: float
    alone: Standing
    kept: Standing
    gain_db: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The nodes of a network under a target's int8 policy, the most damaging first.

    `whole` is the standing with every node quantized. `samples` were judged (of `source`), by the output
    `output`; `metric` is "" when they had no labels. Simulated: the quantized graph in ONNX Runtime, its
    integers computed in float32.
    """

    schema: int = 1
    model: str
    target: str
    samples: int
    source: str
    output: str
    metric: str = ""
    whole: Standing
    nodes: tuple[NodeSensitivity, ...]
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
