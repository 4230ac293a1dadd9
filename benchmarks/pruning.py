"""The digits network at half of its multiply-adds: ours beside torch-pruning used directly; prints JSON.

Both start from the same trained weights, prune channels to multiples of 8, and recover with the same loop,
for the same number of epochs, from the answers of the unpruned network on the training digits without labels.
Each row: multiply-adds, parameters, bytes of the float file, accuracy on 1,000 digits that no step has seen,
latency in ONNX Runtime and LiteRT over the unpruned network (below 1 is faster), seconds of pruning.
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
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "digits"))

from model import DigitsNet
from train import load_digits

import edgekit
from edgekit.core.machine import describe_machine, package_versions
from edgekit.core.pruning import PruningOptions
from edgekit.core.recipe import BenchmarkOptions, DataSource
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


def judged(name: str, path: Path, base: Path, seconds: float, rounds: int, scratch: Path) -> Row:
    """One row: what is left of the network, how it answers, how fast it is."""
    model = load_canonical(path)
    row: Row = {
        "name": name,
        "macs": macs_of(model),
        "parameters": parameters_of(model),
        "float_bytes": path.stat().st_size,
        "seconds": round(seconds, 1),
    }
    held = np.load(DIGITS / "held-back.npz")
    both: dict[str, dict[str, float]] = {}
    for label, file in (("base", base), ("pruned", path)):
        out = scratch / f"{name}-{label}"
        report = edgekit.convert(file, targets=TARGETS, precisions=("float32",), output=out)
        data = {next(iter(edgekit.Session(out / "source" / "onnx").inputs)).name: held["image"]}
        report = edgekit.validate(out, data={**data, "labels": held["labels"]})
        row[f"accuracy_{label}"] = report.artifacts[0].accuracy.artifact
        report = edgekit.benchmark(out, options=BenchmarkOptions(rounds=rounds))
        both[label] = {a.target: a.latency_ms.median for a in report.artifacts}
    row["latency_over_unpruned"] = {t: round(both["pruned"][t] / both["base"][t], 3) for t in TARGETS}
    return row


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
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        scratch = Path(folder)
        np.savez(scratch / "unlabelled.npz", image=training)
        options = TrainingOptions(
            data=(DataSource(path=str(scratch / "unlabelled.npz")),), epochs=epochs, learning_rate=3e-3,
            seed=asked.seed,
        )  # fmt: skip
        module = trained()
        example = {"image": torch.zeros(1, 1, 28, 28)}
        base = edgekit.open(module, example_inputs=example, out=scratch / "base").unfolded
        for criterion in ("activation",) if asked.quick else ("activation", "magnitude"):
            started = time.perf_counter()
            path = ours(base, options, asked.remove, criterion, scratch)
            seconds = time.perf_counter() - started
            rows.append(judged(f"edgekit-{criterion}", path, base, seconds, rounds, scratch))
        started = time.perf_counter()
        path = directly(options, training, asked.remove, scratch)
        rows.append(judged("torch-pruning", path, base, time.perf_counter() - started, rounds, scratch))
    print(json.dumps(
        {"remove": asked.remove, "epochs": epochs, "rows": rows, "machine": describe_machine(),
         "versions": package_versions()},
        indent=2,
    ))  # fmt: skip


if __name__ == "__main__":
    main()
