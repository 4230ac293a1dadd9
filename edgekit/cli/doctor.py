"""`edgekit doctor`: what is installed, what is missing, the command that adds it, what this CPU needs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgekit.cli.answer import Answer, size_text, table

if TYPE_CHECKING:
    from edgekit.core.cpu import Saturation

__all__ = ["DESCRIPTION", "EXAMPLE", "add_arguments", "execute"]

DESCRIPTION = """\
Say what this machine can do: packages, engines (each imported in a process of its own), CUDA, the cache, and
whether this CPU's int8 multiply-add saturates. The exit code is 0 when at least one engine works, else 1."""
EXAMPLE = "example: edgekit doctor --json"

PROBE_DEADLINE_S = 60.0

# engine -> the modules that serve it, the first that imports wins
ENGINES: dict[str, tuple[str, ...]] = {
    "tflite": ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow"),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
ENGINE_EXTRAS = {"tflite": "tflite", "onnxruntime": "onnx", "openvino": "openvino"}

# Runs in the child: finds the first module that imports and, for ONNX Runtime, names its providers.
_PROBE = """
import importlib, json, sys
missing = []
for name in sys.argv[1:]:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is None or err.name.partition(".")[0] != name.partition(".")[0]:
            raise
        missing.append(name)
        continue
    providers = module.get_available_providers() if name == "onnxruntime" else []
    print(json.dumps({"module": name, "providers": providers}))
    break
else:
    print(json.dumps({"missing": missing}))
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`edgekit doctor` takes no options of its own."""


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit doctor`."""
    import os
    import platform
    import sys
    from concurrent.futures import ThreadPoolExecutor

    from edgekit import __version__
    from edgekit.core.cpu import detect_cpu, int8_multiply_add_saturates

    cpu = detect_cpu()
    saturation = int8_multiply_add_saturates(cpu)
    with ThreadPoolExecutor(max_workers=2) as pool:
        engines = list(pool.map(probe_engine, ENGINES))
    value = {
        "edgekit": __version__,
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "system": platform.platform(),
        "cpu": {
            "name": cpu.name,
            "architecture": cpu.architecture,
            "cores": os.cpu_count(),
            "int8_multiply_add_saturates": saturation.saturates,
            "reason": saturation.reason,
            "advice": _advice(saturation),
        },
        "packages": _packages(),
        "engines": engines,
        "cuda": _cuda(engines),
        "cache": _cache(),
    }
    works = any(engine["works"] for engine in engines)
    return Answer(value=value, text=_text(value), exit_code=0 if works else 1)


def probe_engine(engine: str, *, deadline_s: float = PROBE_DEADLINE_S) -> dict[str, Any]:
    """Import an engine in a process of its own: an import can crash or hang, and that is an answer too.

    The process is the interpreter that EDGEKIT_PYTHON_<ENGINE> names, where it is set, as for the workers.
    """
    import json
    import os
    import signal
    import subprocess
    import sys

    found: dict[str, Any] = {"engine": engine, "works": False, "module": "", "problem": "", "add": ""}
    interpreter = os.environ.get(f"EDGEKIT_PYTHON_{engine.upper()}") or sys.executable
    found["python"] = interpreter
    command = [interpreter, "-c", _PROBE, *ENGINES[engine]]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=deadline_s, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return {**found, "problem": f"its import did not finish in {deadline_s:g} s"}
    except OSError as err:
        return {**found, "problem": f"cannot start {interpreter!r}: {err.strerror}"}
    if done.returncode < 0:
        return {**found, "problem": f"its import crashed with {signal.Signals(-done.returncode).name}"}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {**found, "problem": f"its import failed: {last}"}
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    if "missing" in answer:
        return {**found, "problem": "not installed", "add": _add(ENGINE_EXTRAS[engine])}
    return {**found, "works": True, "module": answer["module"], "providers": answer["providers"]}


def _advice(saturation: Saturation) -> str:
    everywhere = "target 'onnxruntime' is right on every CPU"
    if saturation.saturates is None:
        return everywhere
    if saturation.saturates:
        return f"{everywhere}; not 'onnxruntime-exact' (8-bit weights): its sums would saturate here"
    return f"{everywhere}; 'onnxruntime-exact' (8-bit weights) is right here too, and more accurate"


def _packages() -> list[dict[str, str]]:
    from edgekit.core.packages import EXTRAS, installed_version

    rows = []
    for distribution, extra in (("numpy", ""), *EXTRAS.values()):
        version = installed_version(distribution)
        add = "" if version else _add(extra)
        rows.append({"package": distribution, "version": version, "extra": extra, "add": add})
    return rows


def _add(extra: str) -> str:
    return f"pip install 'edgekit-toolchain[{extra}]'" if extra else "pip install edgekit-toolchain"


def _cuda(engines: list[dict[str, Any]]) -> dict[str, Any]:
    from pathlib import Path

    driver = ""
    try:
        driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0].strip()
    except (OSError, IndexError):
        if Path("/dev/nvidiactl").exists() or Path("/dev/nvhost-gpu").exists():
            driver = "NVIDIA device (version not readable)"
    provider = any("CUDAExecutionProvider" in engine.get("providers", ()) for engine in engines)
    add = "pip install onnxruntime-gpu" if driver and not provider else ""
    usable = bool(driver) and provider
    return {"driver": driver, "onnxruntime_provider": provider, "usable": usable, "add": add}


def _cache() -> dict[str, Any]:
    import os
    import shutil

    from edgekit.core.files import cache_root

    root = cache_root()
    size, files = 0, 0
    for folder, _, names in os.walk(root):
        for name in names:
            try:
                size += os.lstat(os.path.join(folder, name)).st_size
            except OSError:  # another process removed it meanwhile
                continue
            files += 1
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    return {"path": str(root), "size_bytes": size, "files": files, "free_disk_bytes": free}


def _text(value: dict[str, Any]) -> str:
    cpu, cuda, cache = value["cpu"], value["cuda"], value["cache"]
    word = {True: "yes", False: "no", None: "not known"}[cpu["int8_multiply_add_saturates"]]
    head = [
        ("edgekit", value["edgekit"]),
        ("Python", f"{value['python']['version']} ({value['python']['executable']})"),
        ("system", value["system"]),
        ("CPU", f"{cpu['name'] or 'unknown'}, {cpu['architecture']}, {cpu['cores']} cores"),
        ("int8 saturates", f"{word}: {cpu['reason']}"),
        ("", cpu["advice"]),
        ("CUDA", _cuda_text(cuda)),
        ("cache", f"{cache['path']}, {size_text(cache['size_bytes'])} in {cache['files']} files"),
        ("free disk", size_text(cache["free_disk_bytes"])),
    ]
    packages: list[tuple[str, ...]] = [
        (row["package"], row["version"] or "missing", row["add"]) for row in value["packages"]
    ]
    engines: list[tuple[str, ...]] = [
        (row["engine"], "works" if row["works"] else "no", row["module"] or f"{row['problem']}  {row['add']}")
        for row in value["engines"]
    ]
    return "\n\n".join(
        [
            table([*head]),
            "packages\n" + table(packages, indent="  "),
            "engines\n" + table(engines, indent="  "),
        ]
    )


def _cuda_text(cuda: dict[str, Any]) -> str:
    if not cuda["driver"]:
        return "no NVIDIA driver here"
    if cuda["usable"]:
        return f"{cuda['driver']}; ONNX Runtime has the CUDA provider"
    return f"{cuda['driver']}; ONNX Runtime lacks the CUDA provider: {cuda['add']}"
