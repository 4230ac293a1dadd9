"""What the wheel and the sdist carry, and what a bare `pip install .` brings."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import edgekit

# what is built and installed is built and installed once: pytest-xdist keeps a group on one worker
pytestmark = pytest.mark.xdist_group("packaging")


@pytest.fixture(scope="module")
def built(root: Path, tmp_path_factory: pytest.TempPathFactory, need: Callable[[str], None]) -> Path:
    """A folder with the wheel and the sdist of this checkout, built without any index."""
    need("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    [path] = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_carries_the_package_and_its_data_and_nothing_else(
    wheel: zipfile.ZipFile, root: Path
) -> None:
    names = set(wheel.namelist())
    expected = {
        str(path.relative_to(root))
        for path in (root / "edgekit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    for kind in ("targets", "calibration"):
        files = [path for path in (root / kind).rglob("*") if path.is_file()]
        assert any(path.suffix == ".toml" for path in files)
        expected |= {f"edgekit/_data/{path.relative_to(root)}" for path in files}
    assert "edgekit/py.typed" in expected
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == expected


def test_the_wheel_needs_numpy_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    [name] = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Name"] == "edgekit-toolchain"
    assert metadata["Version"] == edgekit.__version__
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert [re.split(r"[^\w-]", line)[0] for line in needed] == ["numpy"]


def test_every_extra_that_an_error_names_exists(wheel: zipfile.ZipFile) -> None:
    from edgekit.core.packages import EXTRAS

    [name] = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    extras = set(metadata.get_all("Provides-Extra", []))
    lines = metadata.get_all("Requires-Dist", [])
    for distribution, extra in EXTRAS.values():
        assert extra in extras
        assert any(
            re.split(r"[^\w-]", line)[0] == distribution and f"'{extra}'" in line.replace('"', "'")
            for line in lines
        ), f"the extra {extra} does not bring {distribution}"


def test_the_wheel_has_the_command(wheel: zipfile.ZipFile) -> None:
    [name] = [n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt")]
    assert "edgekit = edgekit.cli:main" in wheel.read(name).decode()


def test_the_sdist_holds_what_its_readme_and_makefile_name(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in (
        "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt",
        "tests/data-requirements.txt", "tests/conftest.py", "targets/tflite.toml", "edgekit/py.typed",
    ):  # fmt: skip
        assert needed in names
    assert not any(".venv" in name or "__pycache__" in name for name in names)


def test_every_extra_is_pinned_in_the_constraints(root: Path, wheel: zipfile.ZipFile) -> None:
    """`make` installs with constraints.txt: a package it does not pin is a package nobody tested."""
    lines = (root / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert "torch==2.13.0" in lines  # exactly: a bare torch, or a range, can bring a CUDA build
    [name] = [n for n in wheel.namelist() if n.endswith(".dist-info/METADATA")]
    for line in email.message_from_bytes(wheel.read(name)).get_all("Requires-Dist", []):
        distribution = re.split(r"[^\w-]", line)[0].lower()
        if distribution == "edgekit-toolchain" or "python_version" in line:
            continue
        assert distribution in pinned, f"{line} is not in constraints.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bare:
    """A fresh virtual environment after `pip install .`: its programs, and the packages that brought."""

    programs: Path
    brought: dict[str, str]

    def run(self, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [str(self.programs / words[0]), *words[1:]],
            cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def bare(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """THE ONE TEST FIXTURE THAT USES THE PACKAGE INDEX, through pip as it is configured here."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    venv.create(folder, with_pip=True)
    fresh = Bare(programs=folder / "bin", brought={})
    before = _packages(fresh, folder)
    done = fresh.run("python", "-m", "pip", "install", "-q", "-q", str(root), cwd=folder)
    if done.returncode:
        reason = f"pip could not install the checkout; is there a package index? {done.stderr.strip()}"
        if os.environ.get("EDGEKIT_REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    after = _packages(fresh, folder)
    return Bare(programs=fresh.programs, brought={k: v for k, v in after.items() if k not in before})


def _packages(environment: Bare, cwd: Path) -> dict[str, str]:
    done = environment.run("python", "-m", "pip", "list", "--format", "json", cwd=cwd)
    return {row["name"]: row["version"] for row in json.loads(done.stdout)}


def test_pip_install_alone_brings_numpy_and_nothing_else(bare: Bare) -> None:
    assert set(bare.brought) == {"numpy", "edgekit-toolchain"}


def test_a_bare_install_has_the_runtime_and_the_command_line(bare: Bare, tmp_path: Path) -> None:
    code = "import edgekit, edgekit.cli; from edgekit.runtime import Session; print(edgekit.__file__)"
    done = bare.run("python", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(bare.programs.parent) in done.stdout


def test_a_bare_install_lists_targets_and_reports_with_doctor(bare: Bare, tmp_path: Path) -> None:
    done = bare.run("edgekit", "targets", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"tflite", "openvino"} <= {t["name"] for t in json.loads(done.stdout)["targets"]}
    done = bare.run("edgekit", "doctor", cwd=tmp_path)
    assert done.returncode == 1, "no engine works in a bare install"
    assert "pip install 'edgekit-toolchain[tflite]'" in done.stdout


def test_a_bare_install_that_cannot_convert_names_the_extra(bare: Bare, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    words = ["convert", "model.onnx", "-t", "onnxruntime", "-p", "float32", "-o", "out"]
    done = bare.run("edgekit", *words, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "pip install 'edgekit-toolchain[onnx]'" in done.stderr
    assert not (tmp_path / "out").exists()
    done = bare.run("edgekit", "inspect", "model.onnx", "--json", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["error"]["extra"] == "onnx"
