"""int8 after calibration and after quantization-aware training, on every target; prints JSON.

A network of tests/support/collapsing.py is quantized twice: calibrated alone, and trained after that without
labels, all targets at once. For each target: size, accuracy lost on digits that no step has seen, SQNR,
median latency in the same report's interleaved rounds over float32, and the CPU time of both runs.

    python benchmarks/qat.py [--network channels] [--seed N] [--steps N] [--rate X] [--target NAME]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import collapsing
from rescue import TARGETS, cpu_seconds

import edgekit
from edgekit.core.machine import describe_machine, package_versions
from edgekit.core.qat import QatOptions
from edgekit.core.recipe import (
    BenchmarkOptions,
    CalibrationOptions,
    DataSource,
    Recipe,
    SourceOptions,
    ValidationOptions,
)
from edgekit.core.training import TrainingOptions


def measured(folder: Path, targets: tuple[str, ...], training: TrainingOptions | None) -> dict[str, Any]:
    """One run: what the report says of each target."""
    begun = cpu_seconds()
    report = edgekit.run(
        Recipe(
            source=SourceOptions(model=str(folder / "model.onnx")),
            targets=targets,
            output=str(folder / ("trained" if training else "calibrated")),
            calibration=CalibrationOptions(data=DataSource(path=str(folder / "calibration.npz"))),
            qat=QatOptions(training=training) if training else None,
            validation=ValidationOptions(data=DataSource(path=str(folder / "test.npz"))),
            benchmark=BenchmarkOptions(rounds=20),
        )
    )
    rows: dict[str, Any] = {"cpu_seconds": round(cpu_seconds() - begun, 1), "notes": report.source.notes}
    for artifact in report.artifacts:
        rows[artifact.target] = {
            "size_bytes": artifact.size_bytes,
            "drop_points": artifact.accuracy.drop if artifact.accuracy else None,
            "interval": artifact.accuracy.interval if artifact.accuracy else None,
            "sqnr_db": artifact.sqnr_db,
            "latency_ms": artifact.latency_ms.median if artifact.latency_ms else None,
        }
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="channels", choices=tuple(collapsing.NETWORKS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--rate", type=float, default=4e-3)
    parser.add_argument("--target", action="append", choices=TARGETS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgekit-qat-") as scratch:
        folder = Path(scratch)
        os.environ["EDGEKIT_CACHE"] = str(folder / "cache")
        network = collapsing.NETWORKS[options.network](options.seed)
        onnx.save(network.model, folder / "model.onnx")
        np.savez(folder / "calibration.npz", **network.calibration)
        np.savez(folder / "test.npz", **network.held_back)
        [(port, shown)] = network.calibration.items()
        images = collapsing.digits(options.seed)[0][: collapsing.TRAINING]
        np.savez(folder / "training.npz", **{port: images.reshape(len(images), *shown.shape[1:])})
        training = TrainingOptions(
            data=(DataSource(path=str(folder / "training.npz")),), epochs=1 + options.steps // 42,
            steps=options.steps, learning_rate=options.rate, threads=1,
        )  # fmt: skip
        targets = tuple(options.target or TARGETS)
        results = {
            "calibrated": measured(folder, targets, None),
            "trained": measured(folder, targets, training),
        }
    found = {"machine": describe_machine(), "versions": package_versions(), "results": results}
    print(json.dumps(found, indent=1, default=str))


if __name__ == "__main__":
    main()
