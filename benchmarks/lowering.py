"""Our LiteRT files beside those of other converters: same networks, same samples, same engine. Prints JSON.

float32: onnx2tf (from the canonical ONNX graph) and, for networks from PyTorch, litert-torch. int8:
ai-edge-quantizer (on our own float32 file, with the same samples) and onnx2tf (on the QDQ graph ours was
lowered from). For every file: whether it loads, the largest difference to the float graph relative to its
largest value (to the QDQ graph, too, for int8), seconds of conversion in a process of its own, that process's
peak memory, size, and latency from interleaved rounds in workers of their own, as the paired ratio
ours / theirs with its 95 % interval. A converter that fails is a row with its outcome and reason. At the end
the claims of `benchmarks/support/claims.py`, each held, broken or open.

    python benchmarks/lowering.py --networks mobilenet_v3 transformer --rounds 40
    python benchmarks/lowering.py --quick

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

from claims import judge, table  # noqa: E402
from peers import PEERS, Cell, adopt, environment, in_child  # noqa: E402

Arrays = dict[str, np.ndarray]
FAMILIES = ("resnet", "mobilenet_v2", "mobilenet_v3", "unet", "detector", "cnn_1d", "lstm", "gru",
            "transformer", "bert", "autoencoder")  # fmt: skip
PUBLISHED = ("efficientnet_lite0", "basic_pitch", "magika", "silero", "ocr_recognizer", "ocr_direction",
             "ocr_detector")  # fmt: skip
TORCH = (*FAMILIES, "efficientnet_lite0")
QUICK = {"networks": ["mobilenet_v3", "unet", "cnn_1d", "transformer"], "peers": ["ai-edge-quantizer"],
         "rounds": 12, "small": True}  # fmt: skip
WARMUP = 10
TESTS = 16  # samples, at most, that differences are taken over


def main() -> None:
    """Convert, compare and time every network asked for."""
    options = read_options()
    pythons, missing = {}, {}
    for name in options.peers:
        given = getattr(options, name.replace("-", "_"))
        try:
            pythons[name] = given or environment(name, ROOT / "build" / "peers", options.python312)
        except RuntimeError as err:
            missing[name] = str(err)
            print(f"{name} cannot be installed: {err}", file=sys.stderr, flush=True)
    from edgekit.core.files import atomic_file
    from edgekit.core.machine import describe_machine

    rows: list[dict[str, Any]] = []
    for network in options.networks:
        print(f"== {network}", file=sys.stderr, flush=True)
        rows.append(row_of(network, pythons, missing, options))
        answer = {
            "machine": describe_machine(), "rounds": options.rounds, "threads": options.threads,
            "large": not options.small, "peers_not_installed": missing, "networks": rows,
            "claims": judge(rows),
        }  # fmt: skip
        text = json.dumps(answer, indent=2, default=str)
        if options.output:  # after every network: a long run that is stopped leaves what it has
            with atomic_file(options.output) as temporary:
                temporary.write_text(f"{text}\n", encoding="utf-8")
        print(table(rows[-1:]), file=sys.stderr, flush=True)
    print(text)
    print(table(rows, claims=answer["claims"]), file=sys.stderr, flush=True)


def read_options() -> argparse.Namespace:
    """The command line; `--quick` sets what is not given."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    everything = [*FAMILIES, *PUBLISHED]
    parser.add_argument("--networks", nargs="+", choices=everything, default=everything)
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="the networks as the tests have them")
    parser.add_argument("--quick", action="store_true", help="four small networks, one peer: minutes")
    parser.add_argument("--python312", default="python3.12")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave every file in FOLDER/NETWORK")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON here, too, as it grows")
    for name in PEERS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"an interpreter that has {name}")
    if "--quick" in sys.argv:
        parser.set_defaults(**QUICK)
    return parser.parse_args()


def row_of(
    network: str, pythons: dict[str, str], missing: dict[str, str], options: argparse.Namespace
) -> dict[str, Any]:
    """One row, whatever happens; every peer has its cells in it."""
    from edgekit.errors import EdgekitError

    with ExitStack() as stack:
        if options.keep:
            folder = options.keep / network
            folder.mkdir(parents=True)
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lowering-")))
        row: dict[str, Any] = {"network": network}
        try:
            source, samples, shapes = source_of(network, folder, large=not options.small)
            row.update(measure(network, folder, (source, samples, shapes), pythons, options))
        except (EdgekitError, OSError, subprocess.CalledProcessError, ModuleNotFoundError) as err:
            row.update(error=str(err))
        for peer, why in missing.items():
            cells = [{"file": f"{peer}/{p}", "outcome": "not installed", "error": why} for p in
                     PEERS[peer].precisions]  # fmt: skip
            row.setdefault("files", []).extend(cells)
        return row


def measure(
    network: str, folder: Path, given: tuple[Any, Arrays, Any], pythons: dict[str, str],
    options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    """Ours and every peer's file of this network."""
    from edgekit import api

    source, samples, shapes = given
    np.savez(folder / "samples.npz", **samples)
    out = folder / "out"
    report = api.convert(
        source, targets=["tflite", str(qdq_target(folder))], precisions=["float32", "int8"],
        calibration=samples, shapes=shapes, output=out, allow_refused=["qdq/float32"],
    )  # fmt: skip
    refused = [r for a in report.artifacts if a.target == "tflite" for r in a.reasons]
    files = {f"ours/{p}": out / "tflite" / p for p in ("float32", "int8") if (out / "tflite" / p).is_dir()}
    graphs = {"float32": out / "source/onnx/model.onnx", "int8": out / "qdq/int8/model.onnx"}
    cells: dict[str, Cell] = {}
    for name in files:
        precision = name.rpartition("/")[2]
        cells[name] = in_child(
            sys.executable, "edgekit", graphs[precision], folder / f"again-{precision}", precision
        )
    for peer, python in pythons.items():
        for precision in PEERS[peer].precisions:
            name, made = f"{peer}/{precision}", folder / f"{peer}-{precision}"
            if f"ours/{precision}" not in files:
                cells[name] = {"outcome": "not compared", "error": "ours is refused"}
                continue
            if PEERS[peer].torch and network not in TORCH:
                cells[name] = {"outcome": "not compared", "error": "the network is published as ONNX"}
                continue
            model: Path | str = graphs[precision]
            if peer == "ai-edge-quantizer":
                model = files["ours/float32"] / "model.tflite"
            elif PEERS[peer].torch:
                size = "small" if options.small else "large"
                model = f"{network}:{size}" if network in FAMILIES else source
            extra = [folder / "samples.npz"] if peer == "ai-edge-quantizer" else []
            cells[name] = in_child(python, peer, model, made, precision, *extra)
            if cells[name]["outcome"] == "ok":
                cells[name].update(adopt(made, files[f"ours/{precision}"]))
            if cells[name]["outcome"] == "ok":
                files[name] = made
    model_mib = graphs["float32"].stat().st_size / 2**20
    compared = compare(files, cells, out, samples, options)
    return {"refused": refused, "model_mib": round(model_mib, 2), **compared}


def compare(
    files: dict[str, Path], cells: dict[str, Cell], out: Path, samples: Arrays, options: argparse.Namespace
) -> dict[str, Any]:
    """Differences and interleaved latency of files that load."""
    from edgekit.devices.local import Worker
    from edgekit.errors import EdgekitError
    from edgekit.measure.latency import measure_latency, summarize

    source = out / "source/onnx"
    ranks = {port.name: len(port.shape) for port in ports(source)}
    count = min(TESTS, *(len(v) for k, v in samples.items() if v.ndim > 0))
    tests = [  # an input without a batch axis comes whole
        {k: v[i] if v.ndim > ranks[k] else v[i : i + 1] for k, v in samples.items()} for i in range(count)
    ]
    found: dict[str, Cell] = {name: {"file": name, **cell} for name, cell in cells.items()}
    row: dict[str, Any] = {"files": list(found.values())}
    with ExitStack() as stack:
        expected = answers(source, tests)
        quantized = answers(out / "qdq/int8", tests) if (out / "qdq/int8").is_dir() else []
        if quantized:
            row["quantization"] = differences(expected, quantized)
        workers, inputs = {}, {}
        for name, folder in files.items():
            worker = stack.enter_context(Worker(label=name))
            try:
                got = answers(folder, tests)
                found[name].update(differences(expected, got))
                if quantized and name.endswith("/int8"):
                    found[name]["to_qdq"] = differences(quantized, got)
                worker.load(folder, threads=options.threads)
            except EdgekitError as err:
                found[name].update(outcome="does not load", error=str(err).splitlines()[0])
                continue
            axes = {t.name: t.axes for t in ports(folder)}
            inputs[name] = {
                k: np.ascontiguousarray(v.transpose(axes[k]) if axes[k] else v) for k, v in tests[0].items()
            }
            workers[name] = worker
            found[name]["size_bytes"] = (folder / "model.tflite").stat().st_size
        times, failures = measure_latency(workers, inputs, rounds=options.rounds, warmup=WARMUP)
    for name, error in failures.items():
        found[name].update(outcome="crashed", error=str(error).splitlines()[0])
    for name, taken in times.items():
        summary = summarize(taken, warmup=WARMUP, threads=options.threads)
        found[name].update(latency_ms=summary.median, latency_p90_ms=summary.p90, **ratios(name, times))
    return row


def ratios(name: str, times: dict[str, np.ndarray]) -> dict[str, list[float]]:
    """Ours over theirs; int8 over float32 for our own."""
    from edgekit.measure.latency import paired_speedup

    who, _, precision = name.rpartition("/")
    label, pair = "ours_over_theirs", (f"ours/{precision}", name)
    if who == "ours":
        label, pair = "int8_over_float32", (name, "ours/float32")
    if pair[0] == pair[1] or any(one not in times for one in pair):
        return {}
    found = paired_speedup(times[pair[0]], times[pair[1]])  # how many times as long the first takes
    return {label: [found.ratio, *found.interval]}


def answers(folder: Path, tests: list[Arrays]) -> list[Arrays]:
    """What an artifact gives for each test, in the layout of the source."""
    from edgekit.devices.local import Worker

    with Worker(label=folder.name) as worker:
        worker.load(folder, threads=1, layout="source")
        return [worker.run(test) for test in tests]


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
