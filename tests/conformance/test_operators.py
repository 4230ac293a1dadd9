"""The operator cases of the onnx package's backend test suite: ok or refused by name, never wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import conformance_table
import pytest
from conformance_cases import collect
from conformance_run import ENGINES, Outcome, conform, run_cases

CHUNKS = 8

_MODULES = {"tflite": "ai_edge_litert", "openvino": "openvino", "onnxruntime": "onnxruntime"}
_cases = [
    pytest.param(chunk, engine, marks=pytest.mark.xdist_group(f"operators-{chunk}"))
    for chunk in range(CHUNKS)
    for engine in ENGINES
]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the cases, shared by the processes of one test run."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    return shared / "operator-cases"


@cache
def prepared(suite: Path, chunk: int) -> dict[str, Outcome]:
    """What the reading says of every eighth case; the three engines of a chunk run in one test process."""
    return run_cases("prepare", suite, collect(suite)[chunk::CHUNKS])


@pytest.mark.parametrize(("chunk", "engine"), _cases)
def test_every_operator_case_is_answered_rightly_or_refused(
    chunk: int, engine: str, suite: Path, need: Callable[[str], None]
) -> None:
    need(_MODULES[engine])
    outcomes = conform(engine, suite, prepared(suite, chunk))
    wrong = [
        f"{n}: {o.outcome}: {o.detail}" for n, o in outcomes.items() if o.outcome not in ("ok", "refused")
    ]
    assert not wrong
    kept = conformance_table.read_outcomes()[engine]
    lost = {n: o.reasons for n, o in outcomes.items() if o.outcome == "refused" and kept.get(n) == "ok"}
    assert not lost, "these were ok before; if that is meant: make conformance ACCEPT=1"


def test_a_refusal_always_says_why(suite: Path) -> None:
    refused = [o for o in prepared(suite, 0).values() if o.outcome == "refused"]
    assert refused
    assert all(o.reasons and all(why for _, why in o.reasons) for o in refused)


def test_the_kept_record_covers_the_suite_and_its_table_agrees_with_it(suite: Path) -> None:
    kept = conformance_table.read_outcomes()
    table = conformance_table.REFUSED.read_text()
    for engine in ENGINES:
        assert sorted(kept[engine]) == collect(suite)
        count = Counter(kept[engine].values())
        assert set(count) == {"ok", "refused"}
        assert f"| {engine} | {count['ok']} | {count['refused']} | 0 | 0 |" in table
