"""The other converters: how each is installed and called, and how its file becomes an artifact of ours."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PEERS", "adopt", "environment", "in_child"]

_LIMIT_S = 600
_PERMUTATIONS = ((), (0, 2, 3, 1), (0, 2, 1), (0, 3, 1, 2), (1, 0, 2))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`packages` for pip, in order; `python312`: needs it; `torch`: converts modules, not ONNX."""

    packages: tuple[str, ...]
    precisions: tuple[str, ...]
    python312: bool = False
    torch: bool = False


PEERS = {
    "onnx2tf": Peer(packages=("onnx2tf==2.6.9",), precisions=("float32", "int8"), python312=True),
    "ai-edge-quantizer": Peer(packages=("ai-edge-quantizer==0.10.0",), precisions=("int8",)),
    "litert-torch": Peer(packages=("torch==2.13.0", "litert-torch"), precisions=("float32",), torch=True),
}


def environment(peer: str, place: Path, python312: str) -> str:
    """The interpreter of the peer's own environment, made at first use; raises when that fails."""
    python = place / peer / "bin" / "python"
    if not (place / peer / ".complete").is_file():
        made_by = python312 if PEERS[peer].python312 else sys.executable
        subprocess.run([made_by, "-m", "venv", "--clear", str(place / peer)], check=True, capture_output=True)
        for package in PEERS[peer].packages:
            subprocess.run(
                [str(python), "-m", "pip", "install", "-q", package], check=True, capture_output=True
            )
        (place / peer / ".complete").touch()
    return str(python)


def in_child(python: str, who: str, model: Path, out: Path, precision: str, *more: Path) -> dict[str, Any]:
    """Convert in a fresh process: {"seconds", "peak_mib", …}, or {"error"}."""
    command = [python, __file__, who, str(model), str(out), precision, *map(str, more)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {_LIMIT_S} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def adopt(made: Path, ours: Path) -> Path:
    """Give a peer's file (made/model.tflite) a manifest, its tensors paired with ours by name, else by order.

    Raises ValueError or RuntimeError when it does not load or its tensors are not those of the network.
    """
    from ai_edge_litert.interpreter import Interpreter

    from edgekit.core.artifact import open_artifact, write_artifact
    from edgekit.core.target import load_target

    manifest = open_artifact(ours).manifest
    interpreter = Interpreter(str(made / "model.tflite"), num_threads=1)
    details = {d["index"]: d for d in interpreter.get_tensor_details()}
    signature = next(iter(interpreter._get_full_signature_list().values()), None)
    if signature is None:
        named = [{d["name"]: d["index"] for d in found} for found in
                 (interpreter.get_input_details(), interpreter.get_output_details())]  # fmt: skip
    else:
        named = [signature["inputs"], signature["outputs"]]
    ports = [_paired(wanted, found, details) for wanted, found in
             zip((manifest.inputs, manifest.outputs), named, strict=True)]  # fmt: skip
    write_artifact(
        made, target=load_target("tflite"), precision=manifest.precision, model="model.tflite",
        inputs=ports[0], outputs=ports[1], source_digest=manifest.source_digest,
    )  # fmt: skip
    return made


def _paired(wanted: Any, found: dict[str, int], details: dict[int, Any]) -> tuple[Any, ...]:
    import numpy as np

    from edgekit.runtime.manifest import TensorIO

    by_name = all(port.name in found for port in wanted)
    if len(wanted) != len(found):
        raise ValueError(f"{len(found)} tensors for {len(wanted)}")
    ports = []
    for port, name in zip(wanted, [p.name for p in wanted] if by_name else found, strict=True):
        detail = details[found[name]]
        shape = tuple(int(d) for d in detail["shape"])
        back = np.argsort(port.axes) if port.axes else range(len(port.shape))
        source = [port.shape[i] for i in back]
        fits = [p for p in _PERMUTATIONS if not p and shape == tuple(source)]
        fits += [p for p in _PERMUTATIONS if len(p) == len(source) and shape == tuple(source[i] for i in p)]
        if not fits:
            raise ValueError(f"{name} has shape {shape}, the source has {source}")
        scale, zero = detail["quantization"]
        dtype = np.dtype(detail["dtype"]).name
        ports.append(TensorIO(
            name=port.name, engine_name=name, dtype=dtype, shape=shape, axes=fits[0],
            scale=float(scale) if dtype.startswith(("int8", "uint8")) else 0.0,
            zero_point=int(zero) if dtype.startswith(("int8", "uint8")) else 0,
        ))  # fmt: skip
    return tuple(ports)


def _edgekit(model: Path, out: Path, precision: str, *_: Path) -> dict[str, Any]:
    """Lowering alone, the graph in memory; memory is counted from behind the imports and the graph."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import ai_edge_litert.schema_py_generated
    import flatbuffers
    import onnx

    from edgekit.backends.request import Request
    from edgekit.backends.tflite.backend import lower
    from edgekit.core.target import load_target

    del ai_edge_litert, flatbuffers
    target = load_target("tflite")
    loading = time.perf_counter()
    onnx.load(str(model))
    started, before = time.perf_counter(), _now_mib()
    request = Request(
        model=model, target=target, precision=precision, out=out, source_digest=""  # type: ignore[arg-type]
    )
    lower(request)
    seconds = time.perf_counter() - started
    growth = _peak_mib() - before
    size = model.stat().st_size / 2**20
    return {
        "lower_seconds": round(max(0.0, seconds - (started - loading)), 3),
        "lower_and_load_seconds": round(seconds, 3),
        "growth_mib": round(growth, 1),
        "source_mib": round(size, 2),
        "growth_over_source": round(growth / size, 2),
    }


def _onnx2tf(model: Path, out: Path, precision: str, *_: Path) -> dict[str, Any]:
    tool = Path(sys.executable).parent / "onnx2tf"
    copy = out.with_suffix(".onnx")  # it writes over its input
    copy.write_bytes(model.read_bytes())
    started = time.perf_counter()
    subprocess.run([str(tool), "-i", str(copy), "-o", str(out), "-n"], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    made = [p for p in sorted(out.glob("*.tflite")) if "float16" not in p.name]
    for other in sorted(out.iterdir()):
        if other.is_file() and other != made[0]:
            other.unlink()
    made[0].rename(out / "model.tflite")
    return {"seconds": round(seconds, 2), "child_peak_mib": _children_mib()}


def _quantizer(model: Path, out: Path, precision: str, samples: Path) -> dict[str, Any]:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    interpreter = Interpreter(str(model))
    indexes = interpreter._get_full_signature_list()["serving_default"]["inputs"]
    found = {d["index"]: tuple(int(n) for n in d["shape"]) for d in interpreter.get_input_details()}
    shapes = {name: found[index] for name, index in indexes.items()}
    out.mkdir()
    started = time.perf_counter()
    with np.load(samples) as file:
        arrays = {name: file[name] for name in file.files}
    rows = []
    for i in range(len(next(iter(arrays.values())))):
        rows.append({name: _as(array[i], shapes[name]) for name, array in arrays.items()})
    tool = quantizer.Quantizer(str(model), recipe.static_wi8_ai8())
    ranges = tool.calibrate({"serving_default": rows}, num_threads=1)
    tool.quantize(ranges, enable_progress_report=False).export_model(str(out / "model.tflite"))
    return {"seconds": round(time.perf_counter() - started, 2), "peak_mib": _peak_mib()}


def _as(sample: Any, shape: tuple[int, ...]) -> Any:
    """A sample in the layout of the file: as it is, or channels last."""
    import numpy as np

    batch = sample[None] if sample.ndim < len(shape) else sample
    if batch.shape != shape and batch.ndim >= 3:
        batch = np.moveaxis(batch, 1, -1)
    return np.ascontiguousarray(batch.reshape(shape))


def _litert_torch(model: Path, out: Path, precision: str, *_: Path) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))
    import litert_torch
    import networks
    import torch

    network = networks.make(str(model), large=True)
    example = tuple(torch.from_numpy(v[:1]) for v in network.samples.values())
    out.mkdir()
    started = time.perf_counter()
    litert_torch.convert(network.module, example).export(str(out / "model.tflite"))
    return {"seconds": round(time.perf_counter() - started, 2), "peak_mib": _peak_mib()}


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return round(int(line.split()[1]) / 1024, 1)
    raise SystemExit("this benchmark reads /proc/self/status: run it on Linux")


def _peak_mib() -> float:
    return _status_mib("VmHWM:")


def _now_mib() -> float:
    return _status_mib("VmRSS:")


def _children_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, 1)


_CALLS = {
    "edgekit": _edgekit, "onnx2tf": _onnx2tf, "ai-edge-quantizer": _quantizer, "litert-torch": _litert_torch
}  # fmt: skip

if __name__ == "__main__":
    who, source, place, wanted, *rest = sys.argv[1:]
    print(json.dumps(_CALLS[who](Path(source), Path(place), wanted, *map(Path, rest))))
