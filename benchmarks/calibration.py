"""Time and peak memory of calibration beside ONNX Runtime's `quantize_static`: same model, same samples.

Each measurement is a process of its own; peak memory is that process's VmHWM. The samples are made as they
are asked for (seeded noise smoothed into picture-like fields), so that neither side holds them. The order of
the contenders turns with every repetition; figures are medians. Prints JSON.

    python benchmarks/calibration.py --samples 32 256 --methods minmax percentile
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 224
# expansion, output channels, repeats, stride of the inverted residuals of MobileNetV2
BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
)  # fmt: skip


def main() -> None:
    """Run every contender in a child process and print the figures."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--methods", nargs="+", choices=("minmax", "percentile"), default=["minmax"])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model", type=Path, help="an ONNX file (default: a MobileNetV2-like network)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        who, method, samples, model = options.child
        print(json.dumps(measure(who, method, int(samples), Path(model))))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or write_mobilenet(Path(folder) / "model.onnx")
        print(json.dumps(compare(model, options.samples, options.methods, options.repeat), indent=2))


def compare(model: Path, counts: list[int], methods: list[str], repeat: int) -> dict[str, Any]:
    """Medians over `repeat` rounds; in each round every contender runs once, the order turning."""
    cases = [("inference", "none", n) for n in counts]
    cases += [(who, method, n) for method in methods for n in counts for who in ("edgekit", "onnxruntime")]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {case: [] for case in cases}
    for turn in range(repeat):
        for case in cases[turn % len(cases) :] + cases[: turn % len(cases)]:
            print(f"round {turn + 1}/{repeat}: {case[0]} {case[1]} {case[2]} samples", file=sys.stderr)
            found[case].append(in_child(*case, model))
    rows = []
    for (who, method, n), runs in found.items():
        seconds = statistics.median(r["seconds"] for r in runs)
        plain = statistics.median(r["seconds"] for r in found["inference", "none", n])
        rows.append(
            {
                "contender": who,
                "method": method,
                "samples": n,
                "seconds": round(seconds, 3),
                "times_plain_inference": round(seconds / plain, 2),
                "peak_memory_mib": round(statistics.median(r["peak_mib"] for r in runs), 1),
                "runs": len(runs),
            }
        )
    return {"model_mib": round(model.stat().st_size / 2**20, 1), "side": SIDE, "rows": rows}


def in_child(who: str, method: str, samples: int, model: Path) -> dict[str, float]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--child", who, method, str(samples), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{who} {method} with {samples} samples failed:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def pictures(count: int) -> Iterator[dict[str, np.ndarray]]:
    """Picture-like inputs, one at a time, the same for every contender."""
    for seed in range(count):
        coarse = np.random.default_rng(seed).standard_normal((1, 3, SIDE // 8, SIDE // 8))
        yield {"image": np.kron(coarse, np.ones((1, 1, 8, 8))).astype(np.float32)}


def measure(who: str, method: str, samples: int, model: Path) -> dict[str, float]:
    """Seconds of the whole quantization (or of plain inference) and the peak memory of this process."""
    started = time.perf_counter()
    if who == "inference":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        started = time.perf_counter()
        for inputs in pictures(samples):
            session.run(None, inputs)
    elif who == "edgekit":
        edgekit_quantizes(method, samples, model)
    else:
        onnxruntime_quantizes(method, samples, model)
    return {"seconds": time.perf_counter() - started, "peak_mib": peak_mib()}


def edgekit_quantizes(method: str, samples: int, model: Path) -> None:
    """Calibration and the QDQ graph, written to a file."""
    import onnx

    from edgekit.core.target import load_target
    from edgekit.quantize.calibrate import calibrate
    from edgekit.quantize.observers import Method
    from edgekit.quantize.qdq import quantize

    policy = load_target("onnxruntime").int8
    assert policy is not None
    graph = onnx.load(str(model))
    found = calibrate(graph, pictures(samples), policies=[policy], method=Method(name=method))
    quantized, _ = quantize(graph, calibration=found, policy=policy)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(quantized, f"{folder}/q.onnx")


def onnxruntime_quantizes(method: str, samples: int, model: Path) -> None:
    """`quantize_static` with the format and dtypes that fuse on x86."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.source = pictures(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.source, None)

    chosen = CalibrationMethod.MinMax if method == "minmax" else CalibrationMethod.Percentile
    with tempfile.TemporaryDirectory() as folder:
        quantize_static(
            str(model),
            f"{folder}/q.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=chosen,
        )


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
