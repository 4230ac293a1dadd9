"""What importing loads, what is public, and which way imports point."""

from __future__ import annotations

import json
import os
import pkgutil
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import edgekit
from edgekit.cli.parser import COMMANDS

HEAVY = frozenset({
    "numpy", "torch", "tensorflow", "onnx", "onnxruntime", "onnxsim", "onnxscript", "onnx_ir", "openvino",
    "ai_edge_litert", "tflite_runtime", "flatbuffers", "PIL", "rich", "psutil", "scipy", "asyncio",
    "transformers",
})  # fmt: skip
REPORT_MODULES = "\nimport json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"


def modules() -> list[str]:
    found = pkgutil.walk_packages(edgekit.__path__, "edgekit.")
    return ["edgekit", *sorted(m.name for m in found if m.name != "edgekit.__main__")]


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", code + REPORT_MODULES], capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_point_down(root: Path) -> None:
    program = Path(sys.executable).parent / "lint-imports"
    found = str(program) if program.exists() else shutil.which("lint-imports")
    assert found, "import-linter is not installed: pip install 'edgekit-toolchain[test]'"
    done = subprocess.run([found], cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", ["import edgekit", "import edgekit.cli", "import edgekit.runtime"])
def test_importing_loads_no_framework_and_no_numpy(code: str) -> None:
    assert loaded_by(code) & HEAVY == set()


def test_the_check_sees_what_is_loaded() -> None:
    assert "numpy" in loaded_by("import numpy")


def test_no_module_loads_a_framework_at_import() -> None:
    """All modules in one process: numpy is allowed, frameworks and optional packages are not."""
    code = "".join(f"\nimport {name}" for name in modules())
    assert loaded_by(code) & (HEAVY - {"numpy", "asyncio"}) == set()


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_no_framework_and_no_numpy(words: list[str]) -> None:
    code = f"from edgekit.cli import main\nassert main({words!r}) == 0"
    assert loaded_by(code) & HEAVY == set()


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_takes_less_than_150_ms(words: list[str]) -> None:
    """CPU time, the least of some runs: on a machine busy with other tests the wall clock lies."""
    times = []
    for _ in range(3):
        command = [sys.executable, "-m", "edgekit", *words]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(used.ru_utime + used.ru_stime)
    assert min(times) < 0.150


def test_public_names_are_pinned() -> None:
    assert edgekit.__all__ == [
        "__version__", "Artifact", "EdgekitError", "Model", "Recipe", "Report", "Samples", "Session",
        "Target", "analyze", "benchmark", "convert", "open", "prune", "run",
        "train_quantized", "validate",
    ]  # fmt: skip
    for name in edgekit.__all__:
        assert getattr(edgekit, name) is not None
    from edgekit import api, cli, runtime

    assert api.__all__ == [
        "analyze", "benchmark", "convert", "open", "prune", "run", "train_quantized", "validate",
    ]  # fmt: skip
    assert cli.__all__ == ["main"]
    assert runtime.__all__ == ["Manifest", "Session", "read_manifest"]


def test_the_commands_are_pinned() -> None:
    assert list(COMMANDS) == [
        "convert", "validate", "analyze", "benchmark", "run", "prune", "train-quantized", "samples",
        "targets", "inspect", "doctor",
    ]  # fmt: skip


def test_every_module_says_what_it_exports() -> None:
    """`__all__` where a module has names of its own, and each exists; a mere place of modules has none."""
    problems = []
    for name in modules():
        module = import_module(name)
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == name and n[0] != "_"]
        exported = getattr(module, "__all__", None)
        if exported is None and own:
            problems.append(f"{name} has no __all__ but defines {', '.join(own)}")
        absent = [n for n in exported or () if not hasattr(module, n)]
        problems += [f"{name}.__all__ names {n!r}, which does not exist" for n in absent]
        if not (module.__doc__ or "").strip():
            problems.append(f"{name} has no docstring")
    assert problems == []


def test_the_words_of_the_command_line_are_those_of_the_core() -> None:
    """`edgekit.cli.options` copies them, for the time of --help."""
    from edgekit.cli import options
    from edgekit.core.recipe import CalibrationOptions, Metric, Recipe
    from edgekit.core.target import PRECISIONS, Precision

    assert get_args(Precision) == options.PRECISIONS == PRECISIONS
    assert get_args(Metric) == options.METRICS
    assert ("", *options.LAYOUTS) == get_args(get_type_hints(Recipe)["layout"])
    assert get_args(get_type_hints(CalibrationOptions)["method"]) == options.CALIBRATION_METHODS
    from edgekit.cli import prune
    from edgekit.core.pruning import PruningOptions

    words = get_type_hints(PruningOptions)
    assert get_args(words["method"]) == prune.METHODS
    assert get_args(words["measure"]) == prune.MEASURES
    assert get_args(words["criterion"]) == prune.CRITERIA
    assert get_args(words["scope"]) == prune.SCOPES
