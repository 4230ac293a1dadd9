"""Read a source in watched processes: which modules every process loads, and how much memory it takes.

`watched_open` runs `edgekit.api.open` in a process of its own; that process and every child that it starts
write down, as they end, the largest memory they held and the modules they had loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# VmHWM and not ru_maxrss: the latter is handed down from the process that starts a child.
_NOTE = """
import atexit, json, os, pathlib, sys

def _note():
    words = sys.argv[1:2]
    is_step = words and words[0].endswith("request.json")
    asked = json.loads(pathlib.Path(words[0]).read_text()) if is_step else {}
    status = pathlib.Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    loaded = sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None})
    note = {"step": asked.get("function", "parent"), "peak_bytes": peak, "modules": loaded}
    place = pathlib.Path(os.environ["EDGEKIT_WATCHED"]) / f"{os.getpid()}.json"
    place.write_text(json.dumps(note))

if os.environ.get("EDGEKIT_WATCHED"):
    atexit.register(_note)
"""

_OPEN = """
import json, sys
from edgekit import api
asked = json.loads(sys.argv[1])
api.open(asked.pop("source"), **asked)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process: the step it ran ("parent" for the one that asked), its peak, its top-level modules."""

    step: str
    peak_bytes: int
    modules: frozenset[str]


def watched_open(source: Path | str, place: Path, **options: Any) -> list[Process]:
    """Every process that reading `source` into the new folder `place` takes, in the order of their ends."""
    notes = place.with_name(f"{place.name}.notes")
    notes.mkdir(parents=True)
    (notes / "sitecustomize.py").write_text(_NOTE)
    search = os.pathsep.join(filter(None, [str(notes), str(ROOT), os.environ.get("PYTHONPATH", "")]))
    asked = {"source": str(source), "out": str(place), **options}
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, json.dumps(asked)],
        env={**os.environ, "PYTHONPATH": search, "EDGEKIT_WATCHED": str(notes)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    files = sorted(notes.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    read = [json.loads(file.read_text()) for file in files]
    return [
        Process(step=note["step"], peak_bytes=note["peak_bytes"], modules=frozenset(note["modules"]))
        for note in read
    ]
