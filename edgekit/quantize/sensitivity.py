"""Sensitivity: what each node does to the network's answer when it alone is quantized, or alone is not.

Both are measured at the network's output, end to end; no layer is judged by its own error. The idea of one
layer at a time is that of Wu et al., "Integer Quantization for Deep Learning Inference" (2020), section 5.2.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.core.codec import decode, encode
from edgekit.core.files import write_json
from edgekit.core.progress import report_progress
from edgekit.core.recipe import Metric
from edgekit.core.sensitivity import NodeSensitivity, Standing
from edgekit.measure.standing import standing_of
from edgekit.quantize.simulate import Simulation, multiply_adds
from edgekit.quantize.simulation_request import SimulationRequest

__all__ = ["measure_sensitivity", "sensitivity_file"]


def sensitivity_file(*, request: dict[str, Any], out: str) -> dict[str, Any]:
    """Step: write {"whole", "nodes", "samples"} of an ONNX file to `out`, as `core.sensitivity` has them.

    `request` is a `SimulationRequest`.
    """
    wanted = decode(SimulationRequest, request, where="request")
    simulation, samples = wanted.open(lambda number: True)
    metric = wanted.judged.chosen_metric
    whole, nodes = measure_sensitivity(simulation, metric=metric, labels=samples.labels)
    write_json(Path(out), {"whole": encode(whole), "nodes": encode(nodes), "samples": samples.count})
    return {"nodes": len(nodes)}


def measure_sensitivity(
    simulation: Simulation, *, metric: Metric | None = None, labels: Any = None
) -> tuple[Standing, tuple[NodeSensitivity, ...]]:
    """The standing of the whole in integers, and every node's, the most damaging first.

    `labels` [n, ...] are those of the simulation's samples; with `metric` standings have a drop.
    """
    names = simulation.nodes
    everything = frozenset(names)
    mixtures = [frozenset(), *(everything - {name} for name in names), *(frozenset([name]) for name in names)]
    standings = []
    for done, answer in enumerate(simulation.answers(mixtures), start=1):
        standings.append(standing_of(simulation.reference, answer, metric=metric, labels=labels))
        report_progress(done, len(mixtures))
    whole, alone, kept = standings[0], standings[1 : 1 + len(names)], standings[1 + len(names) :]
    nodes = {n.name: n for n in simulation.model.graph.node}
    macs = {name: multiply_adds(simulation.index, nodes[name]) for name in names}
    total = sum(macs.values()) or 1
    found = [
        NodeSensitivity(
            name=name,
            op_type=nodes[name].op_type,
            macs=macs[name],
            macs_share=macs[name] / total,
            alone=only,
            kept=without,
            gain_db=without.sqnr_db - whole.sqnr_db,
        )
        for name, only, without in zip(names, alone, kept, strict=True)
    ]
    return whole, tuple(sorted(found, key=lambda n: (n.alone.sqnr_db, n.name)))
