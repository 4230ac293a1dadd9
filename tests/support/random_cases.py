"""Random graphs as cases: what ONNX Runtime answers with the optimizer off is expected of every engine."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from conformance_cases import Case
from conformance_run import Outcome, run_cases
from tflite_models import reference

from edgekit.core.recipe import QuantizationOptions
from edgekit.core.target import load_target
from edgekit.quantize.calibrate import calibrate
from edgekit.quantize.qdq import quantize

# Inputs and constants have unit scale, so sums that cancel keep an absolute error, not a relative one.
FLOAT_BOUND = 1e-5
# Steps of an 8-bit output between two engines: single values round differently, and inner steps add up.
INT8_STEPS = 6

Make = Callable[[int], Any]


def answers(
    stage: str, folder: Path, make: Make, seeds: Iterable[int], *, mixed: bool = False
) -> dict[str, Outcome]:
    """The outcome for the random graph of every seed, in `stage`: an engine, or "ENGINE:int8".

    `mixed` keeps random nodes of each int8 graph in float32.
    """
    names = []
    for seed in seeds:
        name = f"{make.__name__}-{seed}"
        model = make(seed)
        if stage.endswith(":int8"):
            keep = random_mixture(model, seed) if mixed else {}
            if not _write_int8(folder / name, name, model, stage.partition(":")[0], keep):
                continue
        else:
            _write_float(folder / name, name, model)
        names.append(name)
    if ":" in stage:
        return run_cases(stage, folder, names)
    prepared = run_cases("prepare", folder, names)
    wrong = {name: outcome for name, outcome in prepared.items() if outcome.outcome != "ok"}
    return wrong or run_cases(stage, folder, names)


def random_feeds(model: Any, seed: int) -> dict[str, np.ndarray]:
    """Standard normal values for every input."""
    random = np.random.default_rng(seed)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return {n: np.asarray(random.standard_normal(s), np.float32) for n, s in shapes.items()}


def random_mixture(model: Any, seed: int) -> dict[str, Any]:
    """A tenth to nine tenths of the nodes, to be kept in float32; the first one or the last one is not."""
    random = np.random.default_rng([seed, 1])
    share = random.uniform(0.1, 0.9)
    names = [n.name for n in model.graph.node]
    names.pop(int(random.choice([0, -1])))
    return {name: "float32" for name in names if random.random() < share}


def quantized(model: Any, target: str, keep: dict[str, Any] | None = None) -> Any:
    """The QDQ graph of a target's policy, calibrated on eight samples; `keep` names nodes left in float."""
    policy = load_target(target).int8
    assert policy is not None
    samples = [random_feeds(model, seed) for seed in range(100, 108)]
    found = calibrate(model, samples, policies=[policy])
    options = QuantizationOptions(keep=keep or {})
    return quantize(model, calibration=found, policy=policy, options=options)[0]


def _write_float(place: Path, name: str, model: Any) -> None:
    feeds = random_feeds(model, 0)
    expected = list(reference(model, feeds).values())
    largest = max(float(np.abs(array).max()) for array in expected)
    _write(place, _case(name, model, feeds, expected, bound=FLOAT_BOUND * max(1.0, largest)))


def _write_int8(place: Path, name: str, model: Any, engine: str, keep: dict[str, Any]) -> bool:
    """Write the case; False where a mixture spares every node that this engine has integers for."""
    graph = quantized(model, engine, keep)
    if keep and not any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        return False
    feeds = random_feeds(model, 0)
    expected = list(reference(graph, feeds).values())
    step = max(_step(graph, expected), 1e-9)
    _write(place, _case(name, graph, feeds, expected, bound=(INT8_STEPS + 0.01) * step, step=step))
    onnx.save(graph, place / "model.onnx")
    return True


def _step(graph: Any, expected: list[Any]) -> float:
    """The scale of the output's quantizer, or 1/255 of its range where the output is float."""
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    ends = {v.name for v in graph.graph.output}
    last = [n for n in graph.graph.node if n.op_type == "DequantizeLinear" and n.output[0] in ends]
    return max([float(np.ptp(a)) / 255 for a in expected] + [float(constants[n.input[1]]) for n in last])


def _case(name: str, model: Any, feeds: dict[str, Any], expected: list[Any], **bounds: float) -> Case:
    sets = ((list(feeds.values()), expected),)
    return Case(name=name, model=model.SerializeToString(), sets=sets, rtol=0.0, atol=0.0, **bounds)


def _write(place: Path, case: Case) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "case.pkl").write_bytes(pickle.dumps(case))
