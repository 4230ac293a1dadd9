"""Networks that plain int8 ruins, and what the rescue makes of them on every target; prints JSON.

For each network of tests/support/collapsing.py and each target: accuracy lost at plain int8 and after the
rescue, with 95 % intervals, on digits that no step has seen; what was done; the CPU time of it all; the
latency over plain int8, interleaved. Then the same with a budget that cannot be reached.

    python benchmarks/rescue.py [--network NAME] [--target NAME]
"""

from __future__ import annotations

import argparse
import json
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
    """Plain int8, or int8 with the rescue on."""
    return Recipe(
        source=SourceOptions(model=str(folder / "model.onnx")),
        targets=(target,),
        output=str(folder / f"{target}-{'rescued' if rescue else 'plain'}-{limit}"),
        calibration=CalibrationOptions(data=DataSource(path=str(folder / "calibration.npz"))),
        quantization=QuantizationOptions(rescue=rescue),
        validation=ValidationOptions(data=DataSource(path=str(folder / "search.npz"))),
        benchmark=BenchmarkOptions(rounds=20),
        budgets=Budgets(max_accuracy_drop=limit),
    )


def measured(folder: Path, target: str) -> dict[str, Any]:
    """Plain int8 and the rescue on one target, judged on digits that no step has seen."""
    found: dict[str, Any] = {}
    for rescue in (False, True):
        wanted = recipe(folder, target, rescue=rescue)
        begun = cpu_seconds()
        report = edgekit.run(wanted)
        spent = cpu_seconds() - begun
        judged = edgekit.validate(wanted.output, data=folder / "test.npz").artifacts[0]
        account = report.artifacts[0].rescue
        found["rescued" if rescue else "plain"] = {
            "verdict": report.verdict,
            "drop_points": judged.accuracy.drop if judged.accuracy else None,
            "interval": judged.accuracy.interval if judged.accuracy else None,
            "sqnr_db": judged.sqnr_db,
            "test_samples": judged.accuracy.n if judged.accuracy else 0,
            "cpu_seconds": round(spent, 1),
            "account": encode(account) if account else None,
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=tuple(NETWORKS))
    parser.add_argument("--target", action="append", choices=TARGETS)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name in options.network or NETWORKS:
        with tempfile.TemporaryDirectory(prefix="edgekit-rescue-") as scratch:
            folder = Path(scratch)
            write_files(NETWORKS[name](), folder)
            results[name] = {target: measured(folder, target) for target in options.target or TARGETS}
            out_of_reach = edgekit.run(recipe(folder, "onnxruntime", rescue=True, limit=-50.0))
            account = out_of_reach.artifacts[0].rescue
            results[name]["a budget out of reach"] = {
                "verdict": out_of_reach.verdict,
                "reached": account.reached if account else None,
                "reasons": out_of_reach.artifacts[0].verdict_reasons,
            }
    facts = {"machine": describe_machine(), "versions": package_versions()}
    print(json.dumps({"networks": results, **facts}, indent=1))


if __name__ == "__main__":
    main()
