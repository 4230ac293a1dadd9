"""The README's own commands, run in order, as a new user types them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LANGUAGES = ("bash", "python")


def blocks(root: Path) -> list[tuple[str, str]]:
    """Every block that is meant to run: (language, text). `text` blocks are output or need a network."""
    text = (root / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(language, body) for language, body in found if language in LANGUAGES]


@pytest.fixture
def place(root: Path, digits: Path, tmp_path: Path) -> Path:
    """A folder as the checkout is after `make demo` has trained the network."""
    shutil.copytree(root / "examples", tmp_path / "examples")
    shutil.copytree(digits, tmp_path / "build" / "digits")
    return tmp_path


def test_every_block_of_the_readme_runs(root, place):
    programs = place / "bin"
    programs.mkdir()
    script = f'#!/bin/sh\nexec "{sys.executable}" -m edgekit "$@"\n'
    (programs / "edgekit").write_text(script, encoding="utf-8")
    (programs / "edgekit").chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(root),
    }
    run = blocks(root)
    assert [language for language, _ in run] == ["bash", "python", "python"]
    for language, body in run:
        shell = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, body], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"
    for made in ("build/tour", "build/digits/out", "build/api"):
        assert (place / made / "report.md").is_file()


def test_every_path_the_readme_links_to_exists(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (root / link).exists()] == []


def test_every_target_the_readme_lists_exists_and_none_is_missing(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w-]+)` \| yes", text, flags=re.MULTILINE))
    assert listed == {path.stem for path in (root / "targets").glob("*.toml")}
