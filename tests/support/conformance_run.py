"""Runs batches of cases in long-lived child processes; a crash or a hang is the outcome of that one case."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ENGINES = ("tflite", "openvino", "onnxruntime")
DEADLINE_S = 120.0
_WORKER = Path(__file__).with_name("conformance_worker.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a case ended: with (operator, why) for a refusal, with `detail` for a mismatch or crash."""

    outcome: Literal["ok", "refused", "mismatch", "crash"]
    reasons: tuple[tuple[str, str], ...] = ()
    detail: str = ""


def run_cases(stage: str, folder: Path, names: Iterable[str]) -> dict[str, Outcome]:
    """The outcome of every case in one stage: "prepare" or the name of an engine."""
    outcomes: dict[str, Outcome] = {}
    child: _Child | None = None
    try:
        for name in names:
            child = child or _Child(stage, folder)
            outcomes[name] = child.ask(name)
            if child.ended:
                child.close()
                child = None
    finally:
        if child is not None:
            child.close()
    return outcomes


def conform(engine: str, folder: Path, prepared: dict[str, Outcome]) -> dict[str, Outcome]:
    """The outcome of every case for an engine, given what preparing it gave."""
    ready = [name for name, outcome in prepared.items() if outcome.outcome == "ok"]
    return {**prepared, **run_cases(engine, folder, ready)}


class _Child:
    """One process: a name in, a line of JSON out."""

    def __init__(self, stage: str, folder: Path) -> None:
        self._answers, theirs = os.pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        root = str(_WORKER.parent.parent.parent)
        environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(_WORKER), stage, str(folder), str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs,),
            env=environment,
        )
        os.close(theirs)
        self.ended = False

    def ask(self, name: str) -> Outcome:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n".encode())
        self._process.stdin.flush()
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], DEADLINE_S)
            part = os.read(self._answers, 65536) if ready else b""
            if not part:
                self.ended = True
                return Outcome(outcome="crash", detail=self._end(hung=not ready))
            line += part
        data = json.loads(line)
        reasons = tuple((op, why) for op, why in data.get("reasons", ()))
        return Outcome(outcome=data["outcome"], reasons=reasons, detail=data.get("detail", ""))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=DEADLINE_S)
        os.close(self._answers)

    def _end(self, *, hung: bool) -> str:
        if hung:
            self._process.kill()
            return f"no answer within {DEADLINE_S:.0f} s"
        return f"the process ended with {self._process.wait()}"
