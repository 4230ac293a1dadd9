"""What the end-to-end tests share: the digits network, trained once, and the command line as a process."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from quantize_models import classifier, pictures
from readme import Outcome, run_readme

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def digits(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits.pt, calibration.npz and held-back.npz: `examples/digits/train.py`, run once."""
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    place = shared / "digits"
    with (shared / "digits.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "held-back.npz").is_file():
            train = root / "examples" / "digits" / "train.py"
            subprocess.run([sys.executable, str(train), "--out", str(place)], check=True, capture_output=True)
    return place


@pytest.fixture(scope="session")
def readme_place(root: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the checkout is after `make demo` has trained the network."""
    place = tmp_path_factory.mktemp("readme")
    shutil.copytree(root / "examples", place / "examples")
    shutil.copytree(digits, place / "build" / "digits")
    return place


@pytest.fixture(scope="session")
def readme_run(root: Path, readme_place: Path) -> list[Outcome]:
    """Every block of the README, run once in `readme_place`."""
    return run_readme(root, readme_place)


@pytest.fixture
def edgekit(root: Path, tmp_path: Path) -> Command:
    """`edgekit("convert", ...)`: run the command line from `tmp_path`."""

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        extra = options.pop("environment", {})
        assert isinstance(extra, dict)
        search = os.pathsep.join(filter(None, [extra.get("PYTHONPATH", ""), str(root)]))
        return subprocess.run(
            [sys.executable, "-m", "edgekit", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, **extra, "PYTHONPATH": search},
            **options,  # type: ignore[call-overload]
        )

    return run


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with model.onnx (a small classifier), calibration.npz and labelled.npz (32 samples each)."""
    onnx.save(classifier(), str(tmp_path / "model.onnx"))
    images = np.concatenate([s["image"] for s in pictures(32)])
    np.savez(tmp_path / "calibration.npz", image=images)
    np.savez(tmp_path / "labelled.npz", image=images, labels=np.arange(32) % 5)
    return tmp_path
