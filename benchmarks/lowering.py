"""Our LiteRT files beside those of other converters: same networks, same samples, same engine. Prints JSON.

float32: onnx2tf (from the canonical ONNX graph) and, for networks from PyTorch, litert-torch. int8:
ai-edge-quantizer (on our own float32 file, with the same samples) and onnx2tf (on the QDQ graph ours was
lowered from). For every file: whether it loads, the largest difference to the float graph relative to its
largest value, seconds of conversion in a process of its own, that process's peak memory, size, and latency
from interleaved rounds in workers of their own, as the paired ratio ours / theirs with its 95 % interval.

    python benchmarks/lowering.py --networks mobilenet_v3 transformer --rounds 40

Each peer needs an environment of its own (they pin what they need), given as its interpreter, or made under
build/peers on the first run: onnx2tf needs Python 3.12, named by --python312.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "benchmarks" / "support")]

from peers import PEERS, adopt, environment, in_child  # noqa: E402

Arrays = dict[str, np.ndarray]
FAMILIES = ("resnet", "mobilenet_v2", "mobilenet_v3", "unet", "detector", "cnn_1d", "lstm", "gru",
            "transformer", "bert", "autoencoder")  # fmt: skip
PUBLISHED = ("efficientnet_lite0", "basic_pitch", "magika", "silero", "ocr_recognizer", "ocr_direction",
             "ocr_detector")  # fmt: skip


def main() -> None:
    """Convert, compare and time every network asked for."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument(
        "--networks", nargs="+", choices=(*FAMILIES, *PUBLISHED), default=[*FAMILIES, *PUBLISHED]
    )
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="the networks as the tests have them")
    parser.add_argument("--python312", default="python3.12")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave every file in FOLDER/NETWORK")
    for name in PEERS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"an interpreter that has {name}")
    options = parser.parse_args()
    given = {name: getattr(options, name.replace("-", "_")) for name in PEERS}
    pythons, missing = {}, {}
    for name in options.peers:
        try:
            pythons[name] = given[name] or environment(name, ROOT / "build" / "peers", options.python312)
        except (OSError, subprocess.CalledProcessError) as err:
            missing[name] = str(err)
    rows = []
    for network in options.networks:
        print(f"== {network}", file=sys.stderr, flush=True)
        with ExitStack() as stack:
            if options.keep:
                folder = options.keep / network
                folder.mkdir(parents=True)
            else:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lowering-")))
            rows.append(measure(network, folder, pythons, options))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    from edgekit.core.machine import describe_machine

    answer = {"machine": describe_machine(), "rounds": options.rounds, "threads": options.threads}
    print(json.dumps({**answer, "peers_not_installed": missing, "networks": rows}, indent=2, default=str))


def measure(
    network: str, folder: Path, pythons: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """One row: ours and every peer's file of this network."""
    from edgekit import api
    from edgekit.errors import EdgekitError

    source, samples, shapes = source_of(network, folder, large=not options.small)
    np.savez(folder / "samples.npz", **samples)
    out = folder / "out"
    row: dict[str, Any] = {"network": network}
    try:
        report = api.convert(
            source, targets=["tflite", str(qdq_target(folder))], precisions=["float32", "int8"],
            calibration=samples, shapes=shapes, output=out, allow_refused=["qdq/float32"],
        )  # fmt: skip
    except EdgekitError as err:
        return {**row, "refused": str(err)}
    row["refused"] = [r for a in report.artifacts if a.target == "tflite" for r in a.reasons]
    files = {f"ours/{p}": out / "tflite" / p for p in ("float32", "int8") if (out / "tflite" / p).is_dir()}
    costs: dict[str, dict[str, Any]] = {}
    graphs = {"float32": out / "source/onnx/model.onnx", "int8": out / "qdq/int8/model.onnx"}
    for precision in ("float32", "int8"):
        if f"ours/{precision}" in files:
            costs[f"ours/{precision}"] = in_child(
                sys.executable, "edgekit", graphs[precision], folder / f"again-{precision}", precision
            )
    for peer, python in pythons.items():
        for precision in PEERS[peer].precisions:
            if PEERS[peer].torch and network not in FAMILIES:
                continue
            if f"ours/{precision}" not in files:
                continue
            model = (
                files["ours/float32"] / "model.tflite" if peer == "ai-edge-quantizer" else graphs[precision]
            )
            model = Path(network) if PEERS[peer].torch else model
            name, made = f"{peer}/{precision}", folder / f"{peer}-{precision}"
            costs[name] = in_child(python, peer, model, made, precision, folder / "samples.npz")
            if "error" not in costs[name]:
                try:
                    files[name] = adopt(made, files[f"ours/{precision}"])
                except (ValueError, RuntimeError) as err:
                    costs[name]["error"] = f"does not load: {str(err).splitlines()[0]}"
    row["files"] = compare(files, costs, out / "source/onnx", samples, options)
    return row


def compare(
    files: dict[str, Path], costs: dict[str, dict[str, Any]], source: Path, samples: Arrays,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:  # fmt: skip
    """Differences and interleaved latency of files that load."""
    from edgekit.devices.local import Worker
    from edgekit.errors import EdgekitError
    from edgekit.measure.latency import measure_latency, paired_speedup, summarize

    ranks = {port.name: len(port.shape) for port in ports(source)}
    tests = [  # an input without a batch axis comes whole
        {k: v[i] if v.ndim > ranks[k] else v[i : i + 1] for k, v in samples.items()} for i in range(4)
    ]
    found: dict[str, dict[str, Any]] = {name: {"file": name, **cost} for name, cost in costs.items()}
    with ExitStack() as stack:
        reference = stack.enter_context(Worker(label="source"))
        reference.load(source, threads=1, layout="source")
        expected = [reference.run(test) for test in tests]
        workers, inputs = {}, {}
        for name, folder in files.items():
            worker = stack.enter_context(Worker(label=name))
            try:
                with Worker(label=name) as judge:
                    judge.load(folder, threads=1, layout="source")
                    found[name].update(differences(expected, [judge.run(test) for test in tests]), loads=True)
                worker.load(folder, threads=options.threads)
            except EdgekitError as err:
                found[name].update(loads=False, error=str(err).splitlines()[0])
                continue
            axes = {t.name: t.axes for t in ports(folder)}
            inputs[name] = {
                k: np.ascontiguousarray(v.transpose(axes[k]) if axes[k] else v) for k, v in tests[0].items()
            }
            workers[name] = worker
            found[name]["size_bytes"] = (folder / "model.tflite").stat().st_size
        times, failures = measure_latency(workers, inputs, rounds=options.rounds, warmup=10)
    for name, error in failures.items():
        found[name]["error"] = str(error).splitlines()[0]
    for name, taken in times.items():
        ours = times.get(f"ours/{name.rpartition('/')[2]}")
        found[name]["latency_ms"] = summarize(taken, warmup=10, threads=options.threads).median
        if ours is not None and not name.startswith("ours"):
            ratio = paired_speedup(ours, taken)  # how many times as long ours takes
            found[name]["ours_over_theirs"] = [ratio.ratio, *ratio.interval]
    if "ours/float32" in times and "ours/int8" in times:
        gain = paired_speedup(times["ours/int8"], times["ours/float32"])
        found["ours/int8"]["int8_over_float32"] = [gain.ratio, *gain.interval]
    return list(found.values())


def differences(expected: list[Arrays], got: list[Arrays]) -> dict[str, float]:
    """The worst output: largest difference relative to the largest value, and signal over noise in dB."""
    worst, quietest = 0.0, np.inf
    for name in expected[0]:
        signal = np.stack([e[name] for e in expected]).astype(np.float64)
        noise = signal - np.stack([g[name] for g in got])
        worst = max(worst, float(np.abs(noise).max() / max(np.abs(signal).max(), 1e-30)))
        quietest = min(quietest, 10 * np.log10(np.sum(signal**2) / max(float(np.sum(noise**2)), 1e-30)))
    return {"largest_difference": worst, "sqnr_db": round(float(quietest), 1)}


def ports(folder: Path) -> Any:
    """The inputs in the manifest of an artifact."""
    from edgekit.core.artifact import open_artifact

    return open_artifact(folder).manifest.inputs


def source_of(network: str, folder: Path, *, large: bool) -> tuple[str, Arrays, dict[str, tuple[int, ...]]]:
    """What `edgekit.convert` takes; PyTorch runs in a process of its own."""
    if network in PUBLISHED:
        from published import PUBLISHED as MAKERS

        made = MAKERS[network](folder)
        return made.source, made.samples, made.shapes
    script = ROOT / "tests" / "support" / "networks.py"
    size = ["--large"] if large else []
    subprocess.run(
        [sys.executable, str(script), str(folder), network, *size], check=True, capture_output=True
    )
    with np.load(folder / f"{network}.npz") as file:
        return str(folder / f"{network}.onnx"), dict(file), {}


def qdq_target(folder: Path) -> Path:
    """A target whose artifact is the QDQ graph that LiteRT's file is lowered from."""
    from qdq import write_profile

    return write_profile(ROOT / "targets" / "tflite.toml", folder / "qdq.toml")


if __name__ == "__main__":
    main()
