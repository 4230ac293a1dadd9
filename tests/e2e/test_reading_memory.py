"""What reading a source costs: the memory of every process it takes, and the frameworks they load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watched import watched_open

pytestmark = pytest.mark.xdist_group("memory")
SUPPORT = Path(__file__).resolve().parents[1] / "support"
FRAMEWORKS = {"torch", "tensorflow", "keras", "tf_keras", "transformers", "jax"}
FRAMEWORK = {
    ".onnx": "torch", "state": "torch", ".ts": "torch", ".pt2": "torch",
    ".keras": "keras", ".h5": "keras", "saved": "keras",
}  # fmt: skip
LIMIT = 4.0  # times the size of the model, above what the same step takes for a tiny one


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]) -> Callable[[str], Path]:
    """The folder that `large_models.py` fills for a framework, made once."""
    folders: dict[str, Path] = {}

    def folder(framework: str) -> Path:
        need("torch" if framework == "torch" else "tensorflow")
        if framework not in folders:
            folders[framework] = tmp_path_factory.mktemp(framework)
            words = [sys.executable, str(SUPPORT / "large_models.py"), framework, str(folders[framework])]
            subprocess.run(words, check=True, capture_output=True)
        return folders[framework]

    return folder


def options(kind: str, network: str, size: str) -> tuple[str, dict[str, Any]]:
    """The file name of a source, and what `edgekit.api.open` has to be told."""
    name, width = f"{network}_{size}", 4096 if size == "large" else 8
    if kind == "saved":
        return name, {}
    if kind == "state":
        return f"net.py:{name}", {"state": f"{name}.pt"}
    features = 1024 if size == "large" else 8
    shape = {"dense": [1, width], "convolutions": [1, 3, 4, 4], "sequences": [1, 5, features]}[network]
    shapes = {"input" if network != "sequences" else "x": shape}
    more: dict[str, dict[str, Any]] = {".ts": {"trust": True, "shapes": shapes}, ".pt2": {"trust": True}}
    return f"{name}{kind}", more.get(kind, {})


def growth(folder: Path, kind: str, network: str, place: Path) -> dict[str, float]:
    """How much more every step takes for the large model than for the tiny one, over the model's size."""
    runs = []
    for size in ("large", "tiny"):
        file, more = options(kind, network, size)
        if "state" in more:
            more = {"state": str(folder / more["state"])}
        runs.append(watched_open(folder / file, place / size, **more))
    assert [process.step for process in runs[0]] == [process.step for process in runs[1]]
    suffix = ".onnx" if (folder / f"{network}_large.onnx").is_file() else ".keras"
    weights = (folder / f"{network}_large{suffix}").stat().st_size
    assert weights > 100e6
    return {
        f"{i} {one.step}": (one.peak_bytes - other.peak_bytes) / weights
        for i, (one, other) in enumerate(zip(*runs, strict=True))
    }


@pytest.mark.conformance
@pytest.mark.parametrize("network", ["dense", "convolutions", "sequences"])
@pytest.mark.parametrize("kind", [".onnx", "state", ".ts", ".pt2", ".keras", ".h5", "saved"])
def test_reading_takes_less_than_four_times_the_model(made, tmp_path, kind, network):
    taken = growth(made(FRAMEWORK[kind]), kind, network, tmp_path)
    print(kind, network, {step: round(times, 2) for step, times in taken.items()})
    assert max(taken.values()) < LIMIT, taken


def test_an_onnx_file_is_read_without_any_framework(made_small, tmp_path):
    for process in watched_open(made_small / "m.onnx", tmp_path / "out"):
        assert not process.modules & FRAMEWORKS, process.step


def test_a_pytorch_module_is_read_without_tensorflow_and_by_one_process_with_torch(made_small, tmp_path):
    processes = watched_open(f"{made_small}/net.py:make", tmp_path / "out")
    loading = [process.step for process in processes if process.modules & FRAMEWORKS]
    assert loading == ["edgekit.formats.torch_export:export"]
    assert not any(process.modules & (FRAMEWORKS - {"torch"}) for process in processes)


@pytest.mark.conformance
def test_a_keras_file_is_read_without_torch_and_by_one_process_with_tensorflow(made, tmp_path):
    processes = watched_open(made("keras") / "dense_tiny.keras", tmp_path / "out")
    loading = [process.step for process in processes if process.modules & FRAMEWORKS]
    assert loading == ["edgekit.pipeline.reading_tf:export"]
    assert not any("torch" in process.modules for process in processes)


@pytest.fixture
def made_small(tmp_path: Path, need: Callable[[str], None]) -> Path:
    """A folder with an ONNX file and a PyTorch factory."""
    for package in ("torch", "onnx", "onnxsim", "onnxruntime"):
        need(package)
    import onnx
    from quantize_models import classifier

    onnx.save(classifier(), tmp_path / "m.onnx")
    (tmp_path / "net.py").write_text(
        "import torch\ndef make(): return torch.nn.Conv2d(1, 2, 3), torch.zeros(1, 1, 8, 8)\n"
    )
    return tmp_path
