"""EfficientNet-Lite0 from its bare ONNX file, pruned step by step until its gate stops it; prints JSON.

Of the labelled ImageNet pictures in --pictures (a .zip with labels.csv, no part of the project), half are
what it recovers from, without their labels; a sixth are the gate (agreement with the unpruned network); a
third are what every point is judged by. Points are judged as cut, with the readers of removed channels
adjusted, and trained; "at once" is a cut of the unpruned network to the same multiply-adds by the same
criterion, with nothing done about it, and with its readers adjusted alone. Latency is CPU time of a call in
float32 over the unpruned network's, one thread, in turns in one process.

    python benchmarks/pruning_curve.py --pictures imagenet-300.zip [--remove 0.4] [--steps 5] [--max-drop 10]

--keep FOLDER keeps the graph of every step, and goes on behind the last one that it holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

ROOT = Path(__file__).resolve().parents[1]
for _folder in ("benchmarks/support", "tests/support", "."):
    sys.path.insert(0, str(ROOT / _folder))

import cpu_time  # noqa: E402
from judged import imagenet  # noqa: E402

import edgekit  # noqa: E402
from edgekit.core.codec import encode  # noqa: E402
from edgekit.core.machine import describe_machine, package_versions  # noqa: E402
from edgekit.core.pruning import PruningOptions  # noqa: E402
from edgekit.core.sources import DataSource  # noqa: E402
from edgekit.core.training import DistillationOptions, TrainingOptions  # noqa: E402
from edgekit.graph.canonical import save_model  # noqa: E402
from edgekit.train.data import training_data_of  # noqa: E402
from edgekit.train.from_graph import load_canonical, trainable  # noqa: E402
from edgekit.train.pruning import importance  # noqa: E402
from edgekit.train.pruning.choosing import choose  # noqa: E402
from edgekit.train.pruning.compensating import compensated  # noqa: E402
from edgekit.train.pruning.costs import cost_model  # noqa: E402
from edgekit.train.pruning.cutting import cut_graph  # noqa: E402
from edgekit.train.pruning.step import prune_file  # noqa: E402
from edgekit.train.pruning.structured import prunable_groups  # noqa: E402

TARGETS = ("tflite", "openvino", "onnxruntime")
BATCHES = 12
Row = dict[str, Any]


def split(pictures: Path, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write `unlabelled.npz` and `gate.npz`; the judged pictures and their labels."""
    images, labels = imagenet(pictures)
    order = np.random.default_rng(0).permutation(len(images))
    learned, gate, judged = np.split(order, [len(order) // 2, len(order) * 2 // 3])
    np.savez(work / "unlabelled.npz", image=images[learned])
    np.savez(work / "gate.npz", image=images[gate])
    return images[judged], labels[judged]


def options_of(asked: argparse.Namespace, work: Path) -> PruningOptions:
    """What the run is asked for."""
    recovery = TrainingOptions(
        data=(DataSource(path=str(work / "unlabelled.npz")),),
        validation=DataSource(path=str(work / "gate.npz")),
        metric="agreement", epochs=asked.epochs, batch_size=8, learning_rate=asked.rate, weight_decay=0.0,
        augmentation=f"{ROOT}/benchmarks/support/varied_pictures.py:varied", threads=asked.threads,
    )  # fmt: skip
    return PruningOptions(
        remove=asked.remove, steps=asked.steps, criterion="taylor", max_drop=asked.max_drop,
        recovery=recovery, distill=DistillationOptions(soft="soft-targets", temperature=1.0),
    )  # fmt: skip


def answers(path: Path, images: np.ndarray, threads: int) -> np.ndarray:
    """Logits of every picture, in ONNX Runtime."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def judged(got: np.ndarray, wanted: np.ndarray, labels: np.ndarray) -> Row:
    """Top-1, the points lost with their paired interval, agreement, SQNR."""
    right, base = (a.argmax(1) == labels for a in (got, wanted))
    lost = base.astype(float) - right
    drawn = np.random.default_rng(0).integers(0, len(lost), (4000, len(lost)))
    error = np.square(got - wanted).sum()
    return {
        "top1": round(100 * float(right.mean()), 1),
        "drop": round(100 * float(lost.mean()), 1),
        "interval": [round(100 * float(v), 1) for v in np.percentile(lost[drawn].mean(1), [2.5, 97.5])],
        "agreement": round(100 * float((got.argmax(1) == wanted.argmax(1)).mean()), 1),
        "sqnr_db": round(float(10 * np.log10(np.square(wanted).sum() / error)), 1) if error else None,
    }


def at_once(base: Path, work: Path, options: PruningOptions, macs: list[int]) -> list[dict[str, Path]]:
    """The unpruned network cut to each of these multiply-adds: as it is, and with its readers adjusted."""
    assert options.recovery is not None
    with np.load(work / "unlabelled.npz") as file:
        data = training_data_of(dict(file), options=replace(options.recovery, augmentation=""))
    model, (groups, _) = load_canonical(base), prunable_groups(base, options.method)
    torch.manual_seed(0)
    scores = importance.taylor(model, trainable(base), groups, data, importance.projected, BATCHES)
    cost, counts = cost_model(model, groups, "macs"), {g.name: g.count for g in groups}
    found = []
    for wanted in macs:
        removal = choose(groups, scores, cost, wanted, options, counts)
        adjusted = compensated(model, trainable(base), groups, removal, data, BATCHES)
        files = {}
        for kind, graph in (("cut", model), ("adjusted", adjusted)):
            files[kind] = work / f"at-once-{wanted}-{kind}.onnx"
            save_model(cut_graph(graph, groups, removal), files[kind])
        found.append(files)
    return found


def latencies(files: dict[str, Path], work: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Target -> name -> median CPU time of a call over that of "base", one thread."""
    found: dict[str, dict[str, float]] = {}
    for name, path in files.items():
        edgekit.convert(
            path, targets=TARGETS, precisions=("float32",), output=work / "converted" / name, overwrite=True
        )
    for target in TARGETS:
        folders = {name: work / "converted" / name / target / "float32" for name in files}
        times = cpu_time.main(work / "gate.npz", rounds, 1, folders)["times_ms"]
        medians = {name: np.array([np.median(turn) for turn in turns]) for name, turns in times.items()}
        found[target] = {n: round(float(np.median(t / medians["base"])), 3) for n, t in medians.items()}
    return found


def main() -> None:
    """Prune, judge, time, and print one JSON document."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--remove", type=float, default=0.4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0, help="0: chosen, as edgekit prune does")
    parser.add_argument("--max-drop", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    if asked.pictures is None:
        print(json.dumps({"not run": "it wants --pictures, which are no part of the project"}))
        return
    with tempfile.TemporaryDirectory(prefix="edgekit-curve-") as scratch:
        work = asked.keep or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        print(json.dumps(measured(asked, work), indent=2))


def measured(asked: argparse.Namespace, work: Path) -> Row:
    """The whole document."""
    images, labels = split(asked.pictures, work)
    source = f"{ROOT}/examples/efficientnet_lite0/model.py:efficientnet_lite0"
    bare = edgekit.open(source, out=work / "exported").path
    model = edgekit.open(bare, out=work / "read")
    options = options_of(asked, work)
    begun = time.process_time()
    done = prune_file(
        model=str(model.unfolded), out=str(work / "pruned.onnx"), work=str(work), options=encode(options),
        signature=encode(model.signature),
    )  # fmt: skip
    seconds = time.process_time() - begun
    steps = done["steps"]
    wanted = answers(model.unfolded, images, asked.threads)
    ends = {f"step-{s['number']}": work / f"step-{s['number']}.onnx" for s in steps[1:]}
    over = latencies({"base": model.unfolded, **ends}, work, asked.rounds)
    rows: list[Row] = [{**steps[0], "judged": {"trained": judged(wanted, wanted, labels)}}]
    for step, once in zip(
        steps[1:], at_once(model.unfolded, work, options, [s["macs"] for s in steps[1:]]), strict=True
    ):
        name = f"step-{step['number']}"
        files = {
            "cut": work / f"{name}.cut.onnx", "adjusted": work / f"{name}.start.onnx", "trained": ends[name],
            "at_once_cut": once["cut"], "at_once_adjusted": once["adjusted"],
        }  # fmt: skip
        points = {k: judged(answers(f, images, asked.threads), wanted, labels) for k, f in files.items()}
        rows.append({
            **step, "judged": points, "latency_over_unpruned": {t: over[t][name] for t in TARGETS},
            "file_bytes": ends[name].stat().st_size,
        })  # fmt: skip
    return {
        "options": encode(options), "delivered": done["result"], "stopped": done["stopped"], "rows": rows,
        "cpu_seconds": round(seconds, 1), "judged_pictures": len(labels),
        "machine": describe_machine(), "versions": package_versions(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
