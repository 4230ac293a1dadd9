"""The README's own blocks, and how they are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("bash", "python")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A block that was run: its text, its exit code, and all it said."""

    block: str
    code: int
    said: str


def readme_blocks(root: Path) -> list[tuple[str, str]]:
    """Every block that is meant to run: (language, text). `text` blocks are output or need a network."""
    text = (root / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [(language, body) for language, body in found if language in LANGUAGES]


def run_readme(root: Path, place: Path) -> list[Outcome]:
    """Run every block in order in `place`, as a new user does; stops at the first that fails."""
    programs = place / "bin"
    programs.mkdir()
    script = f'#!/bin/sh\nexec "{sys.executable}" -m edgekit "$@"\n'
    (programs / "edgekit").write_text(script, encoding="utf-8")
    (programs / "edgekit").chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(root)}
    outcomes = []
    for language, body in readme_blocks(root):
        shell = ["bash", "-euo", "pipefail", "-c"] if language == "bash" else [sys.executable, "-c"]
        done = subprocess.run(
            [*shell, body], cwd=place, env=environment, capture_output=True, text=True, check=False
        )
        outcomes.append(Outcome(block=body, code=done.returncode, said=done.stdout + done.stderr))
        if done.returncode != 0:
            break
    return outcomes
