"""The data files decode, and nothing that is committed names a machine."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from edgekit.core.codec import decode_toml
from edgekit.core.files import data_folder
from edgekit.core.target import PRECISIONS, Target, list_targets, load_target

TARGETS = sorted(data_folder("targets").glob("*.toml"))
SPECS = sorted(data_folder("calibration").glob("*.toml"))

# written so that this file does not name what it looks for
FORBIDDEN = [
    re.compile("/" + r"work/"),
    re.compile("/tmp/" + r"w\b"),
    re.compile("pypi" + r"\.org"),
    re.compile("files\\." + "pythonhosted"),
    re.compile("download\\." + "pytorch"),
]


@pytest.mark.parametrize("path", TARGETS, ids=lambda p: p.stem)
def test_every_target_profile_decodes_and_is_named_as_its_file(path: Path) -> None:
    target = decode_toml(Target, path)
    assert target.name == path.stem
    assert target.summary
    assert load_target(target.name) == target
    for precision in PRECISIONS:
        assert (precision in target.precisions) != (precision in target.refuse), precision


def test_the_shipped_targets_are_those_the_readme_promises() -> None:
    names = {target.name for target in list_targets()}
    assert {"tflite", "openvino", "onnxruntime", "onnxruntime-exact", "onnxruntime-cuda"} <= names


def test_only_toml_and_a_readme_lie_beside_the_data() -> None:
    for folder in (data_folder("targets"), data_folder("calibration")):
        for path in folder.rglob("*"):
            assert path.suffix in (".toml", ".md", ".npz", ".npy"), path


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.stem)
def test_every_sample_spec_decodes(path: Path) -> None:
    from edgekit.core.samples.spec import SampleSpec

    assert decode_toml(SampleSpec, path) is not None


def test_there_are_sample_specs() -> None:
    assert SPECS


def committed(root: Path) -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):  # an sdist has no history: everything in it counts
        return [p for p in root.rglob("*") if p.is_file() and "/." not in str(p.relative_to(root.parent))]
    return [root / name for name in listed.split("\0") if name and (root / name).is_file()]


def test_no_committed_file_names_a_machine_or_a_registry(root: Path) -> None:
    found = []
    for path in committed(root):
        data = path.read_bytes()
        if b"\0" in data:
            continue
        for number, line in enumerate(data.decode("utf-8").splitlines(), start=1):
            if any(pattern.search(line) for pattern in FORBIDDEN):
                found.append(f"{path.relative_to(root)}:{number}: {line.strip()}")
    assert found == []


@pytest.mark.parametrize("line", ["cd /" + "work/main", "https://pypi" + ".org/simple", "/tmp/" + "w/x"])
def test_the_search_finds_what_it_looks_for(line: str) -> None:
    assert any(pattern.search(line) for pattern in FORBIDDEN)
