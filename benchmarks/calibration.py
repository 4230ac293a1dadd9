"""Time and peak memory of calibration beside plain inference, ONNX Runtime's calibrators and NNCF.

One network, the same samples, made as they are asked for (seeded noise smoothed into picture-like fields), so
that no contender holds them. Each measurement is a process of its own; the order turns with every round.

Plain inference is a session with default settings that answers every sample. `pass` is the time over the
samples alone: for edgekit from a session that stands to ranges chosen, for ONNX Runtime's calibrators from
the augmented graph to ranges. `whole` counts what comes before it, too (graph, optimization, session), on
both sides; imports count on neither. NNCF does not calibrate by itself: its row is all of `nncf.quantize`.
Ratios are to plain inference in the same round, of wall-clock time and of CPU time, samples made on both
sides; `pass_cpu_ratio_without_samples` takes the making of them (the row `samples`) off both. Peak memory is
the process's VmHWM.

    python benchmarks/calibration.py --samples 32 256 1000 --methods auto minmax
    python benchmarks/calibration.py --quick

ONNX Runtime's histogram methods keep every activation of every sample: they run on at most
--histogram-samples. NNCF needs an environment of its own, made under build/peers on the first run, or named
by --nncf PYTHON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "support")]

from peers import Cell, install, json_of  # noqa: E402
from quantizers import ENVIRONMENTS  # noqa: E402

SIDE = 224
METHODS = ("auto", "minmax", "moving-average", "percentile", "mse", "entropy")
PEERS = ("onnxruntime", "nncf")
ORT_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
# expansion, output channels, repeats, stride of the inverted residuals of MobileNetV2
BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
)  # fmt: skip
Case = tuple[str, str, int]  # contender, method, samples


def main() -> None:
    """Run every case in a child process and print the figures."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 256, 1000])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--histogram-samples", type=int, default=32)
    parser.add_argument("--nncf", help="the interpreter of an environment with NNCF")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="32 samples, one round, no NNCF")
    parser.add_argument("--model", type=Path, help="an ONNX file (default: a MobileNetV2-like network)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, method, samples, model = options.child
        print(json.dumps(measure(who, method, int(samples), Path(model))))
        return
    if options.quick:
        options.samples, options.repeat, options.peers = [32], 1, [p for p in options.peers if p != "nncf"]
    pythons, missing = interpreters(options)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or write_mobilenet(Path(folder) / "model.onnx")
        rows = compare(model, cases(options, pythons), options.repeat, pythons)
        size = round(model.stat().st_size / 2**20, 1)
    found = {"model_mib": size, "side": SIDE, "cores": os.cpu_count(), **missing, "rows": rows}
    print(json.dumps(found, indent=2))


def interpreters(options: argparse.Namespace) -> tuple[dict[str, str], dict[str, Any]]:
    """Who runs in which Python, and why a peer is missing."""
    if "nncf" not in options.peers:
        return {}, {}
    try:
        python = options.nncf or install(ENVIRONMENTS["nncf"], ROOT / "build" / "peers" / "nncf")
    except RuntimeError as err:
        return {}, {"not_installed": {"nncf": str(err)}}
    return {"nncf": python}, {}


def cases(options: argparse.Namespace, pythons: dict[str, str]) -> list[Case]:
    """What is measured; a peer only where it can run."""
    found: list[Case] = [(who, "none", n) for who in ("samples", "inference") for n in options.samples]
    found += [("edgekit", m, n) for m in options.methods for n in options.samples]
    if "onnxruntime" in options.peers:
        for method in (m for m in options.methods if m in ORT_METHODS):
            limit = max(options.samples) if method == "minmax" else options.histogram_samples
            found += [("onnxruntime", method, n) for n in options.samples if n <= limit]
    if "nncf" in pythons:
        found += [("nncf", "default", n) for n in options.samples]
    return found


def compare(model: Path, wanted: list[Case], repeat: int, pythons: dict[str, str]) -> list[Cell]:
    """One row a case: medians over `repeat` rounds, the order of the cases turning."""
    found: dict[Case, list[Cell]] = {case: [] for case in wanted}
    for turn in range(repeat):
        for case in wanted[turn % len(wanted) :] + wanted[: turn % len(wanted)]:
            print(f"round {turn + 1}/{repeat}: {case[0]} {case[1]} {case[2]} samples", file=sys.stderr)
            python = pythons.get(case[0], sys.executable)
            command = [python, __file__, "--child", *map(str, case), str(model)]
            found[case].append(json_of(command, limit_s=1800))
    plain = {n: (found["inference", "none", n], found["samples", "none", n]) for _, _, n in wanted}
    return [row(case, found[case], *plain[case[2]]) for case in wanted]


def row(case: Case, runs: list[Cell], plain: list[Cell], made: list[Cell]) -> Cell:
    """Medians of the runs that went well, and of their ratios to plain inference in the same round."""
    line: Cell = {"contender": case[0], "method": case[1], "samples": case[2], "runs": len(runs)}
    bad = [r for r in (*runs, *plain, *made) if r["outcome"] != "ok"]
    if bad:
        return {**line, **bad[0]}

    def middle(values: list[float], digits: int) -> float:
        return round(statistics.median(values), digits)

    for part in ("pass", "whole"):
        seconds, cpu = f"{part}_s", f"{part}_cpu_s"
        line[seconds] = middle([r[seconds] for r in runs], 3)
        for name, key in ((f"{part}_ratio", seconds), (f"{part}_cpu_ratio", cpu)):
            line[name] = middle([r[key] / p[key] for r, p in zip(runs, plain, strict=True)], 2)
    bare = [
        [max(r["pass_cpu_s"] - m["pass_cpu_s"], 0.0) for r, m in zip(rows, made, strict=True)]
        for rows in (runs, plain)
    ]
    line["pass_cpu_ratio_without_samples"] = middle([r / p for r, p in zip(*bare, strict=True)], 2)
    line["peak_memory_mib"] = middle([r["peak_mib"] for r in runs], 1)
    return line


def pictures(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Picture-like inputs, one at a time, the same for every contender."""
    for seed in range(count):
        coarse = np.random.default_rng(seed).standard_normal((1, 3, SIDE // 8, SIDE // 8))
        yield {"image": np.kron(coarse, np.ones((1, 1, 8, 8))).astype(np.float32)}


class Clock:
    """Wall-clock and CPU seconds of a process, its threads and children included, since it was made."""

    def __init__(self) -> None:
        self.started, self.used = time.perf_counter(), self.cpu()

    @staticmethod
    def cpu() -> float:
        """CPU seconds so far."""
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(u.ru_utime + u.ru_stime for u in used)

    def read(self, part: str) -> Cell:
        """Both, as `<part>_s` and `<part>_cpu_s`."""
        seconds = time.perf_counter() - self.started
        return {f"{part}_s": seconds, f"{part}_cpu_s": self.cpu() - self.used}


def measure(who: str, method: str, samples: int, model: Path) -> Cell:
    """Seconds of one contender over the samples, and the peak memory of this process."""
    run = CONTENDERS[who]()
    whole = Clock()
    start = run(method, model)
    only = Clock()
    start(samples)
    return {**only.read("pass"), **whole.read("whole"), "peak_mib": peak_mib()}


Start = Callable[[int], None]
Prepare = Callable[[str, Path], Start]


def infers() -> Prepare:
    """Plain inference."""
    import onnxruntime

    def prepare(method: str, model: Path) -> Start:
        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])

        def start(samples: int) -> None:
            for inputs in pictures(samples):
                session.run(None, inputs)

        return start

    return prepare


def makes_samples() -> Prepare:
    """Nothing but the samples."""

    def start(samples: int) -> None:
        for _ in pictures(samples):
            pass

    return lambda method, model: start


def edgekit() -> Prepare:
    """Our calibration, for ONNX Runtime's policy."""
    import onnx
    import onnxruntime  # noqa: F401

    from edgekit.core.target import load_target
    from edgekit.quantize.calibrate import CalibrationRun
    from edgekit.quantize.observers import Method

    policy = load_target("onnxruntime").int8
    assert policy is not None

    def prepare(method: str, model: Path) -> Start:
        run = CalibrationRun(onnx.load(str(model)), policies=[policy], method=Method(name=method))

        def start(samples: int) -> None:
            run.feed(pictures(samples))
            run.result()

        return start

    return prepare


def onnxruntime_calibrates() -> Prepare:
    """The calibrators behind `quantize_static`, as it calls them."""
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    class Reader(CalibrationDataReader):
        def __init__(self, samples: int) -> None:
            self.source = pictures(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.source, None)

    def prepare(method: str, model: Path) -> Start:
        chosen = CalibrationMethod[ORT_METHODS[method]]
        operators = sorted({*QLinearOpsRegistry, *QDQRegistry})
        augmented = str(model.parent / f"augmented-{os.getpid()}.onnx")
        calibrator = create_calibrator(model, operators, augmented, calibrate_method=chosen)

        def start(samples: int) -> None:
            calibrator.collect_data(Reader(samples))
            calibrator.compute_data()

        return start

    return prepare


def nncf() -> Prepare:
    """`nncf.quantize` at its defaults, over every sample: statistics and the quantized graph."""
    import nncf as peer
    import onnx

    class Again:
        def __init__(self, samples: int) -> None:
            self.samples = samples

        def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
            return pictures(self.samples)

        def __len__(self) -> int:
            return self.samples

    def prepare(method: str, model: Path) -> Start:
        graph = onnx.load(str(model))

        def start(samples: int) -> None:
            peer.quantize(graph, peer.Dataset(Again(samples)), subset_size=samples)

        return start

    return prepare


CONTENDERS: dict[str, Callable[[], Prepare]] = {
    "samples": makes_samples, "inference": infers, "edgekit": edgekit, "onnxruntime": onnxruntime_calibrates,
    "nncf": nncf,
}  # fmt: skip


def peak_mib() -> float:
    """VmHWM of this process in MiB (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("this benchmark reads VmHWM from /proc/self/status: run it on Linux")


def write_mobilenet(path: Path) -> Path:
    """A MobileNetV2-like network with seeded random weights: inverted residuals, ReLU6, 1000 classes."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes: list[Any] = []
    weights: list[Any] = [
        numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(np.float32(6), "six")
    ]  # fmt: skip

    def conv(x: str, cin: int, cout: int, k: int, stride: int, group: int, act: bool) -> str:
        name = f"conv{len(nodes)}"
        scale = np.sqrt(2.0 / (cin // group * k * k))
        w = (random.standard_normal((cout, cin // group, k, k)) * scale).astype(np.float32)
        b = (random.standard_normal(cout) * 0.1).astype(np.float32)
        weights.extend([numpy_helper.from_array(w, f"{name}.w"), numpy_helper.from_array(b, f"{name}.b")])
        nodes.append(helper.make_node(
            "Conv", [x, f"{name}.w", f"{name}.b"], [name], name=name, group=group,
            kernel_shape=[k, k], strides=[stride, stride], pads=[k // 2] * 4,
        ))  # fmt: skip
        if act:
            nodes.append(helper.make_node("Clip", [name, "zero", "six"], [f"{name}.y"], name=f"{name}.clip"))
            return f"{name}.y"
        return name

    x, channels = conv("image", 3, 32, 3, 2, 1, True), 32
    for expand, out, repeats, stride in BLOCKS:
        for block in range(repeats):
            step, hidden, y = stride if block == 0 else 1, channels * expand, x
            if expand > 1:
                y = conv(y, channels, hidden, 1, 1, 1, True)
            y = conv(conv(y, hidden, hidden, 3, step, hidden, True), hidden, out, 1, 1, 1, False)
            if step == 1 and channels == out:
                nodes.append(helper.make_node("Add", [x, y], [f"add{len(nodes)}"], name=f"add{len(nodes)}"))
                y = nodes[-1].output[0]
            x, channels = y, out
    x = conv(x, channels, 1280, 1, 1, 1, True)
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"))
    head = (random.standard_normal((1000, 1280)) * 0.02).astype(np.float32)
    weights.append(numpy_helper.from_array(head, "fc"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc"], ["logits"], name="fc_node", transB=1))
    graph = helper.make_graph(
        nodes, "mobilenet_v2_like",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(onnx.shape_inference.infer_shapes(model), str(path))
    return path


if __name__ == "__main__":
    main()
