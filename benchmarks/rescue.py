"""Networks that plain int8 ruins, and what the rescue makes of them on every target; prints JSON.

For each network of tests/support/collapsing.py and each target: accuracy lost at plain int8 and after the
rescue, with 95 % intervals, on digits that no step has seen; what was done; the CPU time of it all; the
latency over plain int8, interleaved. Then the same with a budget that cannot be reached.

    python benchmarks/rescue.py [--network NAME] [--target NAME] [--seed N]

`--seed` makes other networks: trained from other weights on other digits, rewritten in other places. Nothing
comes from an older run's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from collapsing import NETWORKS, Collapsing

import edgekit
from edgekit.core.arrays import load_arrays
from edgekit.core.codec import encode
from edgekit.core.machine import describe_machine, package_versions
from edgekit.core.recipe import (
    BenchmarkOptions,
    Budgets,
    CalibrationOptions,
    DataSource,
    QuantizationOptions,
    Recipe,
    SourceOptions,
    ValidationOptions,
)
from edgekit.pipeline.layout import EXAMPLE, artifact_folder
from edgekit.search.engine import relative_latency

TARGETS = ("tflite", "openvino", "onnxruntime")
LIMIT = 0.5  # points
FOR_SEARCH = 1000  # of the held-back digits; the others are the test


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def write_files(network: Collapsing, folder: Path) -> None:
    """model.onnx, calibration.npz, search.npz and test.npz."""
    onnx.save(network.model, folder / "model.onnx")
    np.savez(folder / "calibration.npz", **network.calibration)
    for name, rows in (("search", slice(FOR_SEARCH)), ("test", slice(FOR_SEARCH, None))):
        np.savez(folder / f"{name}.npz", **{key: values[rows] for key, values in network.held_back.items()})


def recipe(folder: Path, target: str, *, rescue: bool, limit: float = LIMIT) -> Recipe:
    """Plain int8, without what defaults mend by themselves below 15 dB, or int8 with the rescue on."""
    plain = QuantizationOptions(bias_correction="analytic")
    return Recipe(
        source=SourceOptions(model=str(folder / "model.onnx")),
        targets=(target,),
        output=str(folder / f"{target}-{'rescued' if rescue else 'plain'}-{limit}"),
        calibration=CalibrationOptions(data=DataSource(path=str(folder / "calibration.npz"))),
        quantization=QuantizationOptions(rescue=True) if rescue else plain,
        validation=ValidationOptions(data=DataSource(path=str(folder / "search.npz"))),
        benchmark=BenchmarkOptions(rounds=20),
        budgets=Budgets(max_accuracy_drop=limit),
    )


def measured(folder: Path, target: str, rounds: int) -> dict[str, Any]:
    """Plain int8 and the rescue on one target, judged on digits that no step has seen."""
    found: dict[str, Any] = {}
    places: list[Path] = []
    for rescue in (False, True):
        wanted = recipe(folder, target, rescue=rescue)
        begun = cpu_seconds()
        report = edgekit.run(wanted)
        spent = cpu_seconds() - begun
        judged = edgekit.validate(wanted.output, data=folder / "test.npz").artifacts[0]
        account = report.artifacts[0].rescue
        places.append(Path(wanted.output))
        found["rescued" if rescue else "plain"] = {
            "verdict": report.verdict,
            "drop_points": judged.accuracy.drop if judged.accuracy else None,
            "interval": judged.accuracy.interval if judged.accuracy else None,
            "sqnr_db": judged.sqnr_db,
            "test_samples": judged.accuracy.n if judged.accuracy else 0,
            "cpu_seconds": round(spent, 1),
            "account": encode(account) if account else None,
        }
    plain, rescued = (artifact_folder(place, target, "int8") for place in places)
    slower = relative_latency(
        plain, rescued, load_arrays(places[0] / EXAMPLE), deadline_s=900.0, rounds=rounds
    )
    found["latency_over_plain"] = encode(slower) if slower else None
    print(summary(folder, target, found), file=sys.stderr, flush=True)
    return found


def summary(folder: Path, target: str, found: dict[str, Any]) -> str:
    """One target in a line, as it is done."""
    drops = " -> ".join(f"{found[key]['drop_points']:.1f}" for key in ("plain", "rescued"))
    account, slower = found["rescued"]["account"] or {}, found["latency_over_plain"] or {}
    return (
        f"{folder.name} {target}: {drops} points, {slower.get('ratio', 0):.2f} {slower.get('interval')}, "
        f"{found['rescued']['cpu_seconds']} CPU s, {account.get('done')}, {account.get('kept')}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=tuple(NETWORKS))
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=40, help="interleaved rounds of the latencies")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.network or NETWORKS:
        with tempfile.TemporaryDirectory(prefix=f"edgekit-{name}-{options.seed}-") as scratch:
            folder = Path(scratch)
            os.environ["EDGEKIT_CACHE"] = str(folder / "cache")
            write_files(NETWORKS[name](options.seed), folder)
            results[name] = {
                target: measured(folder, target, options.rounds) for target in options.target or TARGETS
            }
            out_of_reach = edgekit.run(recipe(folder, "onnxruntime", rescue=True, limit=-50.0))
            account = out_of_reach.artifacts[0].rescue
            results[name]["a budget out of reach"] = {
                "verdict": out_of_reach.verdict,
                "reached": account.reached if account else None,
                "reasons": out_of_reach.artifacts[0].verdict_reasons,
            }
    facts = {"seed": options.seed, "machine": describe_machine(), "versions": package_versions()}
    print(json.dumps({"networks": results, **facts}, indent=1))


if __name__ == "__main__":
    main()
