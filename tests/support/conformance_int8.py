"""Prints, as JSON, how far int8 artifacts are from the QDQ graph in ONNX Runtime with its optimizer off.

For every engine and network: steps apart -> number of values. `python tests/support/conformance_int8.py`
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from conformance_run import ENGINES, Outcome
from random_cases import answers
from random_graphs import network
from tflite_networks import NETWORKS

RANDOM = 100


def distribution() -> tuple[dict[str, dict[str, dict[str, int]]], list[str]]:
    """Engine -> network -> steps -> values, all random networks as one; and every case that was not ok."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    wrong: list[str] = []
    for engine in ENGINES:
        with tempfile.TemporaryDirectory(prefix="edgekit-conformance-") as scratch:
            outcomes = answers(f"{engine}:int8", Path(scratch), network, range(RANDOM))
            whole = {name: _one(engine, Path(scratch), name) for name in NETWORKS}
        table = {name: _counts([outcome]) for name, outcome in whole.items()}
        found[engine] = {**table, f"{RANDOM} random networks": _counts(list(outcomes.values()))}
        bad = {n: o for n, o in {**outcomes, **whole}.items() if o.outcome != "ok"}
        wrong += [f"{engine} {name}: {o.outcome}: {o.detail or o.reasons}" for name, o in bad.items()]
    return found, wrong


def _one(engine: str, folder: Path, name: str) -> Outcome:
    def make(seed: int) -> Any:
        return NETWORKS[name]()

    make.__name__ = name
    (outcome,) = answers(f"{engine}:int8", folder, make, [0]).values()
    return outcome


def _counts(outcomes: list[Outcome]) -> dict[str, int]:
    counts: Counter[int] = Counter()
    for outcome in outcomes:
        if outcome.outcome == "ok":
            counts.update({int(steps): n for steps, n in json.loads(outcome.detail).items()})
    return {str(steps): n for steps, n in sorted(counts.items())}


if __name__ == "__main__":
    table, problems = distribution()
    print(json.dumps({"int8 steps from the QDQ graph": table}, indent=1))
    sys.exit("\n".join(problems) or 0)
