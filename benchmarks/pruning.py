"""The digits network at half of its multiply-adds: ours beside torch-pruning used directly; prints JSON.

Both start from the same trained weights, prune channels to multiples of 8, and recover with the same loop,
for the same number of epochs, from the answers of the unpruned network on the training digits without labels.
Each row, "unpruned" among them: multiply-adds, parameters, bytes of the float graph and of both artifacts,
accuracy on 1,000 digits that no step has seen and the points lost with their paired interval, CPU time of a
call in ONNX Runtime and LiteRT over the unpruned network's, in turns (below 1 is faster), CPU seconds.
torch-pruning's ratio of channels is searched for the one that reaches the multiply-adds, as its own API has
none for them.

    python benchmarks/pruning.py [--quick] [--remove 0.5] [--epochs 8] [--seed 0]

`build/digits` is made first, by examples/digits/train.py, where it is not there.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from typing import Any

import numpy as np
import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "digits"))

import cpu_time
from model import DigitsNet
from train import load_digits

import edgekit
from edgekit.core.machine import describe_machine, package_versions
from edgekit.core.pruning import PruningOptions
from edgekit.core.sources import DataSource
from edgekit.core.training import TrainingOptions
from edgekit.train.data import training_data_of
from edgekit.train.from_graph import load_canonical
from edgekit.train.judging import Judge
from edgekit.train.loop import train
from edgekit.train.losses import Objective
from edgekit.train.pruning.costs import macs_of, parameters_of
from edgekit.train.teaching import Teacher

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "build" / "digits"
TARGETS = ("onnxruntime", "tflite")
Row = dict[str, Any]


def by_name(module: Any, inputs: Any) -> dict[str, Any]:
    """A module of one input and one output, as the loop calls it."""
    return {"output": module(inputs["image"])}


def cpu_seconds() -> float:
    """CPU time of this process and of the children that ended."""
    spent = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
    return sum(s.ru_utime + s.ru_stime for s in spent)


def trained() -> torch.nn.Module:
    """The digits network with its weights."""
    if not (DIGITS / "held-back.npz").is_file():
        script = ROOT / "examples" / "digits" / "train.py"
        subprocess.run([sys.executable, str(script), "--out", str(DIGITS)], check=True, stdout=sys.stderr)
    module = DigitsNet()
    module.load_state_dict(torch.load(DIGITS / "digits.pt", weights_only=True))
    return module.eval()


def ours(path: Path, options: TrainingOptions, remove: float, criterion: Any, scratch: Path) -> Path:
    """Our pruned file."""
    asked = PruningOptions(remove=remove, criterion=criterion, recovery=options)
    model = edgekit.prune(path, out=scratch / f"ours-{criterion}", options=asked)
    return model.unfolded


def directly(options: TrainingOptions, images: np.ndarray, remove: float, scratch: Path) -> Path:
    """torch-pruning's magnitude pruner on the PyTorch module, and the same recovery."""
    import torch_pruning as pruning

    example = torch.zeros(1, 1, 28, 28)
    whole = trained()
    base, _ = pruning.utils.count_ops_and_params(whole, example)
    for percent in range(1, 100):
        module = copy.deepcopy(whole)
        pruner = pruning.pruner.MagnitudePruner(
            module, example, importance=pruning.importance.GroupMagnitudeImportance(p=2), round_to=8,
            pruning_ratio=percent / 100, global_pruning=True, max_pruning_ratio=0.75,
            ignored_layers=[module.head[1]],
        )  # fmt: skip
        pruner.step()
        left, _ = pruning.utils.count_ops_and_params(module, example)
        if left <= (1 - remove) * base:
            break
    data = training_data_of({"image": images}, options=options)
    objective = Objective(labels=None, teacher=Teacher(module=whole, call=by_name))
    judge = Judge(objective=objective, data=data, metric="loss", output="output")
    train(module, objective, data, options, judge=judge, call=by_name)
    out = scratch / "directly"
    return edgekit.open(module, example_inputs={"image": example}, out=out).unfolded


def judged(name: str, path: Path, cpu_seconds: float, scratch: Path) -> Row:
    """One row, without times: what is left of the network, how it answers."""
    model = load_canonical(path)
    out = scratch / "converted" / name
    edgekit.convert(path, targets=TARGETS, precisions=("float32",), output=out)
    with np.load(DIGITS / "held-back.npz") as held:
        port = model.graph.input[0].name
        report = edgekit.validate(out, data={port: held["image"], "labels": held["labels"]})
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        right = [session.run(None, {port: x[None]})[0].argmax() for x in held["image"]] == held["labels"]
    return {
        "name": name, "macs": macs_of(model), "parameters": parameters_of(model),
        "float_bytes": path.stat().st_size,
        "artifact_bytes": {a.target: a.size_bytes for a in report.artifacts},
        "accuracy": {a.target: a.accuracy.artifact for a in report.artifacts if a.accuracy},
        "right": np.asarray(right), "cpu_seconds": round(cpu_seconds, 1),
    }  # fmt: skip


def compared(rows: list[Row], scratch: Path, rounds: int) -> list[Row]:
    """The rows beside the first: points lost with their paired interval, latency."""
    drawn = np.random.default_rng(0).integers(0, len(rows[0]["right"]), (2000, len(rows[0]["right"])))
    for row in rows:
        lost = rows[0]["right"].astype(float) - row["right"]
        row["drop"] = round(100 * float(lost.mean()), 2)
        row["interval"] = [round(100 * float(v), 2) for v in np.percentile(lost[drawn].mean(1), [2.5, 97.5])]
        row["latency_over_unpruned"] = {}
    for target in TARGETS:
        folders = {r["name"]: scratch / "converted" / r["name"] / target / "float32" for r in rows}
        times = cpu_time.main(DIGITS / "held-back.npz", rounds, 1, folders)["times_ms"]
        medians = {name: np.array([np.median(turn) for turn in turns]) for name, turns in times.items()}
        for row in rows:
            ratios = medians[row["name"]] / medians[rows[0]["name"]]
            row["latency_over_unpruned"][target] = round(float(np.median(ratios)), 3)
    return [{k: v for k, v in row.items() if k != "right"} for row in rows]


def main() -> None:
    """Run all and print one JSON document."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--quick", action="store_true", help="two epochs, few rounds, one criterion")
    parser.add_argument("--remove", type=float, default=0.5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    epochs, rounds = (2, 10) if asked.quick else (asked.epochs, 40)
    images, _ = load_digits()
    training = images[np.random.default_rng(0).permutation(len(images))[1000:]]  # as train.py splits them
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        scratch = Path(folder)
        np.savez(scratch / "unlabelled.npz", image=training)
        options = TrainingOptions(
            data=(DataSource(path=str(scratch / "unlabelled.npz")),), epochs=epochs, learning_rate=3e-3,
            seed=asked.seed, threads=1,
        )  # fmt: skip
        module = trained()
        example = {"image": torch.zeros(1, 1, 28, 28)}
        base = edgekit.open(module, example_inputs=example, out=scratch / "base").unfolded
        rows = [judged("unpruned", base, 0.0, scratch)]
        for criterion in ("activation",) if asked.quick else ("taylor", "activation", "magnitude"):
            begun = cpu_seconds()
            path = ours(base, options, asked.remove, criterion, scratch)
            rows.append(judged(f"edgekit-{criterion}", path, cpu_seconds() - begun, scratch))
        begun = cpu_seconds()
        path = directly(options, training, asked.remove, scratch)
        rows.append(judged("torch-pruning", path, cpu_seconds() - begun, scratch))
        rows = compared(rows, scratch, rounds)
    print(json.dumps(
        {"remove": asked.remove, "epochs": epochs, "rows": rows, "machine": describe_machine(),
         "versions": package_versions()},
        indent=2,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
