"""int8 after calibration and after quantization-aware training without labels; prints JSON.

Networks that plain int8 ruins (tests/support/collapsing.py) are quantized for every target: calibrated alone,
calibrated with channels evened out, trained at the defaults of `edgekit train-quantized` (which even out
channels first), and trained from the plain graphs, all targets at once. Beside them torchao's PT2E training
with the same teacher, samples, steps and learning rate as the last, exported by torch.onnx and run in ONNX
Runtime. Judged on 2,000 digits that no step has seen: drop in points with its 95 % interval, SQNR of the
logits; median latency in interleaved rounds, CPU seconds of the whole run. Labels are used for that alone.

    python benchmarks/qat.py [--network channels] [--seed 0 --seed 1] [--target NAME] [--quick]

`--torchao` is where `pip install --no-deps --target FOLDER torchao` put it (default build/peers/torchao-only,
filled at first use).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

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
    QuantizationOptions,
    Recipe,
    SourceOptions,
    ValidationOptions,
)
from edgekit.core.training import TrainingOptions
from edgekit.measure.metrics import compare_accuracy

ROOT = Path(__file__).resolve().parents[1]
PEER = "torchao==0.18.0"
Row = dict[str, Any]


def measured(
    folder: Path, targets: tuple[str, ...], name: str, qat: QatOptions | None = None, *, even: bool = False
) -> Row:
    """One run: what the report says of each target."""
    begun = cpu_seconds()
    report = edgekit.run(
        Recipe(
            source=SourceOptions(model=str(folder / "model.onnx")),
            targets=targets,
            output=str(folder / name),
            calibration=CalibrationOptions(data=DataSource(path=str(folder / "calibration.npz"))),
            quantization=QuantizationOptions(equalize=even, smooth=float(even)),
            qat=qat,
            validation=ValidationOptions(data=DataSource(path=str(folder / "test.npz"))),
            benchmark=BenchmarkOptions(rounds=20),
            deadline_s=7200.0,
        )
    )
    rows: Row = {"cpu_seconds": round(cpu_seconds() - begun, 1), "notes": report.source.notes}
    for artifact in report.artifacts:
        rows[artifact.target] = {
            "size_bytes": artifact.size_bytes,
            "drop_points": artifact.accuracy.drop if artifact.accuracy else None,
            "interval": artifact.accuracy.interval if artifact.accuracy else None,
            "n": artifact.accuracy.n if artifact.accuracy else 0,
            "sqnr_db": artifact.sqnr_db,
            "latency_ms": artifact.latency_ms.median if artifact.latency_ms else None,
        }
        print(f"{folder.name} {name} {artifact.target}: {rows[artifact.target]}", file=sys.stderr, flush=True)
    return rows


def torchao(folder: Path, place: Path, training: TrainingOptions) -> Row:
    """The peer's file, as ONNX Runtime answers with it; or why there is none."""
    if not (place / "torchao").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place), PEER]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"outcome": "not installed", "error": done.stderr.strip()[-300:]}
    asked = {
        **{name: str(folder / f"{name}.npz") for name in ("training", "calibration")},
        "model": str(folder / "model.onnx"), "out": str(folder / "torchao.onnx"), "steps": training.steps,
        "epochs": training.epochs, "rate": training.rate,
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "benchmarks" / "support" / "qat_peer.py"), json.dumps(asked)]
    paths = os.pathsep.join([str(ROOT), str(place)])
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"outcome": "failed", "error": done.stderr.strip()[-300:]}
    row = {"outcome": "ok", **json.loads(done.stdout.strip().splitlines()[-1]), "rate": training.rate}
    test = dict(np.load(folder / "test.npz"))
    labels = test.pop("labels")
    [images] = test.values()
    exact = answers(folder / "model.onnx", images)
    for level in ("DISABLE_ALL", "ENABLE_ALL"):
        got = answers(folder / "torchao.onnx", images, level)
        lost = compare_accuracy("accuracy", exact, got, labels)
        noise = float(((got - exact) ** 2).sum())
        row["onnxruntime" if level == "ENABLE_ALL" else "onnxruntime, optimizer off"] = {
            "drop_points": lost.drop,
            "interval": lost.interval,
            "n": len(labels),
            "sqnr_db": 10 * float(np.log10((exact**2).sum() / noise)),
        }
    print(f"{folder.name} torchao: {row}", file=sys.stderr, flush=True)
    return row


def answers(path: Path, images: Any, level: str = "ENABLE_ALL") -> Any:
    """Of a file in ONNX Runtime, sample by sample: [n, classes]."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {port: image[None]})[0] for image in images])


def chosen_rate(notes: tuple[str, ...]) -> float:
    """The learning rate that training chose, from its note."""
    found = [n.split("learning rate ")[1] for n in notes if "learning rate " in n]
    return float(found[0].rstrip(")")) if found else 0.0


def write_files(name: str, seed: int, folder: Path) -> None:
    """model.onnx, calibration.npz, training.npz (no labels), test.npz."""
    network = collapsing.NETWORKS[name](seed)
    onnx.save(network.model, folder / "model.onnx")
    np.savez(folder / "calibration.npz", **network.calibration)
    np.savez(folder / "test.npz", **network.held_back)
    np.savez(folder / "training.npz", **network.training)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", action="append", choices=tuple(collapsing.NETWORKS))
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--target", action="append", choices=TARGETS)
    parser.add_argument("--torchao", type=Path, default=ROOT / "build" / "peers" / "torchao-only")
    parser.add_argument("--quick", action="store_true", help="one network, one seed, 40 steps")
    options = parser.parse_args()
    targets, results = tuple(options.target or TARGETS), {}
    for name in options.network or ("channels",):
        for seed in options.seed or ((0,) if options.quick else (0, 1, 2)):
            with tempfile.TemporaryDirectory(prefix=f"{name}-{seed}-") as scratch:
                folder = Path(scratch)
                os.environ["EDGEKIT_CACHE"] = str(folder / "cache")
                write_files(name, seed, folder)
                source = DataSource(path=str(folder / "training.npz"))
                training = TrainingOptions(data=(source,), threads=1, steps=40 if options.quick else 0)
                row: Row = {"calibrated": measured(folder, targets, "calibrated")}
                row["calibrated, equalized"] = measured(folder, targets, "even", even=True)
                for start in ("equalized", "plain"):
                    qat = QatOptions(training=training, start=start)
                    row[f"trained, {start}"] = measured(folder, targets, start, qat)
                rate = chosen_rate(row["trained, plain"]["notes"])
                row["torchao"] = torchao(folder, options.torchao, replace(training, learning_rate=rate))
                results[f"{name} {seed}"] = row
    found = {"machine": describe_machine(), "versions": package_versions(), "results": results}
    print(json.dumps(found, indent=1, default=str))


if __name__ == "__main__":
    main()
