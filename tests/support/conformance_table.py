"""The kept record of the operator suite: `outcomes.txt` (every case) and `refused.md` (every reason).

`python tests/support/conformance_table.py` runs the whole suite, prints the table and writes both files,
unless a case is wrong, or was ok in the kept record and is refused now; `--accept` lets such refusals pass.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conformance_cases import collect
from conformance_run import ENGINES, Outcome, conform, run_cases

FOLDER = Path(__file__).resolve().parent.parent / "conformance"
OUTCOMES, REFUSED = FOLDER / "outcomes.txt", FOLDER / "refused.md"

Outcomes = Mapping[str, Mapping[str, Outcome]]  # engine -> case -> outcome


def read_outcomes() -> dict[str, dict[str, str]]:
    """The kept outcome of every case: engine -> case -> "ok" or "refused"."""
    kept: dict[str, dict[str, str]] = {engine: {} for engine in ENGINES}
    lines = OUTCOMES.read_text().splitlines()
    engines = lines[0].split()[1:]
    for line in lines[1:]:
        name, *words = line.split()
        for engine, word in zip(engines, words, strict=True):
            kept[engine][name] = word
    return kept


def write_tables(outcomes: Outcomes) -> None:
    """Write both files."""
    names = sorted(outcomes[ENGINES[0]])
    rows = [" ".join(["case", *ENGINES])]
    rows += [" ".join([name, *(outcomes[e][name].outcome for e in ENGINES)]) for name in names]
    OUTCOMES.write_text("\n".join(rows) + "\n")
    REFUSED.write_text(refused_table(outcomes))


def refused_table(outcomes: Outcomes) -> str:
    """Refused cases by engine, operator and reason, the most frequent first, as Markdown."""
    parts = [
        "# Operator cases that are refused",
        "",
        "The operator cases of the `onnx` package's backend test suite, by what edgekit says of them. Cases",
        "of operators with parameters come twice: as they are, and with every input but the first constant.",
        "A case counts once for each of its reasons. `make conformance` writes this file and `outcomes.txt`.",
        "",
        "| engine | ok | refused | mismatch | crash |",
        "|---|---:|---:|---:|---:|",
    ]
    for engine in ENGINES:
        count = Counter(o.outcome for o in outcomes[engine].values())
        numbers = [str(count[word]) for word in ("ok", "refused", "mismatch", "crash")]
        parts.append(f"| {engine} | {' | '.join(numbers)} |")
    for engine in ENGINES:
        parts += ["", f"## {engine}", "", "| operator | cases | reason |", "|---|---:|---|"]
        parts += [f"| {op} | {n} | {why} |" for (op, why), n in _counted(outcomes[engine])]
    return "\n".join(parts) + "\n"


def _counted(outcomes: Mapping[str, Outcome]) -> list[tuple[tuple[str, str], int]]:
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes.values():
        counts.update({(op, _general(why)) for op, why in outcome.reasons})
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _general(why: str) -> str:
    """A reason without what belongs to one case: names, numbers, places in an engine's source."""
    why = re.sub(r"\S*\.(h|cpp|cc):\d+:?\s*", "", why)
    why = re.sub(r"\((did you mean|allowed)[^)]*\)", "", why)
    why = re.sub(r"'[^']*'", "'…'", why)
    why = re.sub(r"\b\d+(,\d+)*\b", "N", why)
    why = re.sub(r"[\w/]*(unk__|test_)\w*", "…", why).replace("|", "\\|")
    return " ".join(why.split())[:160]


def lost(outcomes: Outcomes) -> list[str]:
    """The cases that were ok in the kept record and are refused now."""
    kept = read_outcomes() if OUTCOMES.exists() else {engine: {} for engine in ENGINES}
    return [
        f"{engine} {name} was ok and is refused: {o.reasons[0][1]}"
        for engine in ENGINES
        for name, o in outcomes[engine].items()
        if o.outcome == "refused" and kept[engine].get(name) == "ok"
    ]


def run_suite() -> Outcomes:
    """The outcome of every case for every engine, two cases at a time."""
    with tempfile.TemporaryDirectory(prefix="edgekit-conformance-") as scratch:
        folder = Path(scratch)
        names = collect(folder)

        def part(index: int) -> dict[str, dict[str, Outcome]]:
            prepared = run_cases("prepare", folder, names[index::2])
            return {engine: conform(engine, folder, prepared) for engine in ENGINES}

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(part, (0, 1))
    return {engine: {**first[engine], **second[engine]} for engine in ENGINES}


def main(arguments: list[str]) -> None:
    outcomes = run_suite()
    print(refused_table(outcomes))
    problems = [
        f"{engine} {name}: {o.outcome}: {o.detail}"
        for engine in ENGINES
        for name, o in outcomes[engine].items()
        if o.outcome in ("mismatch", "crash")
    ]
    if "--accept" not in arguments:
        problems += lost(outcomes)
    if problems:
        sys.exit("\n".join(problems))
    write_tables(outcomes)


if __name__ == "__main__":
    main(sys.argv[1:])
