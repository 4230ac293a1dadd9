"""How good int8 is: edgekit beside ONNX Runtime's quantize_static, NNCF and ai-edge-quantizer. Prints JSON.

Every quantizer gets the same canonical ONNX graph (ai-edge-quantizer: our float32 .tflite) and the same
calibration samples; every file is judged on the same samples, none of them used for calibration, in each
engine that runs it. For each: the drop of the network's metric in points with its 95 % paired bootstrap
interval, agreement with the float network, signal over noise of the judged output, CPU time of a call from
interleaved rounds as the ratios ours / theirs and int8 / float32 with 95 % intervals, seconds and peak memory
of quantization. Folds are pooled; CPU time is that of the first fold's files. `litert_as_its_graph` is the
share of judged answers that the LiteRT artifact and the graph it was lowered from (ONNX Runtime, optimizer
off) give alike.

    python benchmarks/quantization_quality.py --networks digits magika --markdown table.md --keep FILES
    python benchmarks/quantization_quality.py --networks digits magika --timed FILES

Peers live in environments of their own, made under build/peers on the first run, or given by --nncf PYTHON
and so on. EfficientNet-Lite0 wants --pictures, a .zip of labelled ImageNet pictures with a labels.csv.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "benchmarks" / "support")]

from answers import ask, sqnr_db, tied, top1  # noqa: E402
from judged import NETWORKS, Fold, Judged, Places  # noqa: E402
from ours import SETTINGS  # noqa: E402
from peers import adopt, install, json_of  # noqa: E402
from quality_table import markdown  # noqa: E402
from quantizers import ENVIRONMENTS, QUANTIZERS  # noqa: E402

ENGINES = ("tflite", "openvino", "onnxruntime")
PICTURES = ROOT.parent / "shared" / "data" / "imagenet-300.zip"


def main() -> None:
    """Quantize, judge and time every network asked for."""
    options = arguments()
    given = {name: getattr(options, name.replace("-", "_")) for name in ENVIRONMENTS}

    def python_of(name: str) -> str:
        if not name:
            return sys.executable
        return given[name] or install(ENVIRONMENTS[name], ROOT / "build" / "peers" / name)

    rows = []
    for network in options.networks:
        print(f"== {network}", file=sys.stderr, flush=True)
        with ExitStack() as stack:
            work = options.timed or options.keep
            if work:
                work = work / network
                work.mkdir(parents=True, exist_ok=True)
            else:
                work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="quality-")))
            pictures = options.pictures if options.pictures.is_file() else None
            places = Places(work=work, pictures=pictures, python_of=python_of)
            comparison = Comparison(network, places, options)
            rows.append(comparison.kept() if options.timed else comparison.run())
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    from edgekit.core.machine import describe_machine, package_versions

    answer = {
        "machine": describe_machine(),
        "versions": package_versions(),
        "rounds": options.rounds,
        "threads": options.threads,
        "networks": rows,
    }
    if options.markdown:
        options.markdown.write_text(markdown(answer), encoding="utf-8")
    print(json.dumps(answer, indent=2, default=str))


def arguments() -> argparse.Namespace:
    """The command line."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--peers", nargs="*", choices=tuple(QUANTIZERS), default=list(QUANTIZERS))
    parser.add_argument("--ours", nargs="+", choices=tuple(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--folds", type=int, default=0, help="only so many of the folds (0: all)")
    parser.add_argument("--rounds", type=int, default=40, help="of latency (0: none)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="quantize and judge so many files at a time")
    parser.add_argument("--limit-s", type=float, default=3600, help="of one quantization")
    parser.add_argument("--pictures", type=Path, default=PICTURES)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a table, too")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave every file there; go on from it")
    parser.add_argument("--timed", type=Path, metavar="FOLDER", help="only time what --keep left there")
    for name in ENVIRONMENTS:
        parser.add_argument(f"--{name}", metavar="PYTHON", help=f"an interpreter that has {name}")
    return parser.parse_args()


@dataclass(slots=True)
class Contender:
    """One file in one engine: the artifact of every fold, and what it answered."""

    engine: str
    name: str
    folders: list[Path] = field(default_factory=list)
    costs: list[dict[str, Any]] = field(default_factory=list)
    answers: list[np.ndarray] = field(default_factory=list)
    others: list[dict[str, np.ndarray]] = field(default_factory=list)
    error: str = ""


class Comparison:
    """One network through every quantizer and engine."""

    def __init__(self, network: str, places: Places, options: argparse.Namespace) -> None:
        self.network, self.places, self.options = network, places, options
        self.contenders: dict[tuple[str, str], Contender] = {}

    def run(self) -> dict[str, Any]:
        """The network's row of the answer."""
        from edgekit import api

        judged = NETWORKS[self.network](self.places)
        folds = judged.folds[: self.options.folds or None]
        place = self.places.work / "model"
        shutil.rmtree(place, ignore_errors=True)
        model = api.open(**judged.source, out=place).path
        for number, fold in enumerate(folds):
            folder = self.places.work / f"fold{number}"
            folder.mkdir(exist_ok=True)
            np.savez(folder / "samples.npz", **fold.calibration)
            self.quantize(model, folder)
        for number, fold in enumerate(folds):
            self.answer(judged, fold, number)
        timed = self.time() if self.options.rounds else {}
        rows = [self.figures(c, judged, folds, timed) for c in self.contenders.values() if c.name != "source"]
        labels = [f.labels for f in folds if f.labels is not None]
        answers = np.concatenate(self.contenders["source", "source"].answers)
        return {
            "network": self.network,
            "judged": len(answers),
            "calibrated_on": [len(next(iter(f.calibration.values()))) for f in folds],
            "metric": "accuracy" if labels else "decisions" if judged.streams else "agreement",
            "limit_points": judged.limit,
            "limit_db": judged.limit_db,
            "float_accuracy": float(np.mean(top1(answers) == np.concatenate(labels))) if labels else None,
            "litert_as_its_graph": self.as_graph(),
            "rows": rows,
        }

    # ---- making the files

    def quantize(self, model: Path, folder: Path) -> None:
        """Every contender's artifact of one fold."""
        samples, script = folder / "samples.npz", str(ROOT / "benchmarks" / "support" / "quantizers.py")
        for setting in self.options.ours:
            out = folder / f"edgekit-{setting}"
            command = [sys.executable, script, "edgekit", setting, str(model), str(samples), str(out)]
            cost = self.made(out, command)
            for engine in (*ENGINES, "qdq"):
                self.add(engine, f"edgekit/{setting}", out / engine / "int8", cost)
        first = folder / f"edgekit-{self.options.ours[0]}"
        self.add("source", "source", first / "source" / "onnx", {})
        for engine in ENGINES:
            self.add(engine, "float32", first / engine / "float32", {})
        asked = [(peer, setting) for peer in self.options.peers for setting in QUANTIZERS[peer].settings]
        with ThreadPoolExecutor(self.options.jobs) as pool:
            costs = list(pool.map(lambda a: self.ask_peer(*a, model, folder, first), asked))
        for (peer, setting), cost in zip(asked, costs, strict=True):
            for engine in QUANTIZERS[peer].engines:
                place = self.artifact(folder / f"{peer}-{setting}", engine, first, cost)
                self.add(engine, f"{peer}/{setting}", place, cost)

    def ask_peer(self, peer: str, setting: str, model: Path, folder: Path, ours: Path) -> dict[str, Any]:
        """Let a peer make its file in folder/PEER-SETTING; what that took, or "error"."""
        kind, script = QUANTIZERS[peer], str(ROOT / "benchmarks" / "support" / "quantizers.py")
        given = ours / "tflite" / "float32" / "model.tflite" if kind.home == "tflite" else model
        try:
            python = self.places.python_of(kind.environment)
        except (OSError, RuntimeError) as err:
            return {"error": f"not installed: {err}"}
        out = folder / f"{peer}-{setting}"
        files = [str(p) for p in (given, folder / "samples.npz", out)]
        return self.made(out, [python, script, peer, setting, *files])

    def made(self, out: Path, command: list[str]) -> dict[str, Any]:
        """What a quantization took; one that an interrupted run left in --keep is not made again."""
        kept = out.with_suffix(".json")
        if kept.is_file():
            return dict(json.loads(kept.read_text(encoding="utf-8")))
        shutil.rmtree(out, ignore_errors=True)
        cost = json_of(command, self.options.limit_s)
        kept.write_text(json.dumps(cost), encoding="utf-8")
        return cost

    def artifact(self, made: Path, engine: str, ours: Path, cost: dict[str, Any]) -> Path:
        """What our runtime loads, around a peer's file."""
        from edgekit.core.codec import encode
        from edgekit.core.target import load_target
        from edgekit.errors import EdgekitError
        from edgekit.pipeline.steps import StepRunner

        place = made / engine
        if "error" in cost or (place / "manifest.json").is_file():
            return place
        try:
            if engine == "tflite":
                cost.update(adopt(made, ours / "tflite" / "float32"))
                return made
            place.mkdir()
            asked = {
                "model": str(made / "model.onnx"),
                "target": encode(load_target(engine)),
                "precision": "int8",
                "out": str(place),
                "source_digest": "",
            }
            StepRunner().run("edgekit.backends:lower_file", asked, label=f"lower {made.name}")
        except (EdgekitError, ValueError, RuntimeError) as err:
            cost[f"error_{engine}"] = f"does not load: {str(err).splitlines()[0]}"
        return place

    def add(self, engine: str, name: str, folder: Path, cost: dict[str, Any]) -> None:
        """One more fold of a contender."""
        contender = self.contenders.setdefault((engine, name), Contender(engine, name))
        contender.folders.append(folder)
        contender.costs.append(cost)
        contender.error = contender.error or cost.get("error", cost.get(f"error_{engine}", ""))

    # ---- judging them

    def answer(self, judged: Judged, fold: Fold, number: int) -> None:
        """The answers of every contender to the judged samples of one fold."""
        from edgekit.devices.local import Worker
        from edgekit.errors import EdgekitError

        def judge(contender: Contender) -> None:
            try:
                with Worker(label=f"{contender.engine} {contender.name}") as worker:
                    worker.load(contender.folders[number], threads=1, layout="source")
                    main, others = ask(worker, judged, fold)
                contender.answers.append(main)
                contender.others.append(others)
            except EdgekitError as err:
                contender.error = str(err).splitlines()[0]

        wanted = [c for c in self.contenders.values() if not c.error and c.name != "float32"]  # timed alone
        with ThreadPoolExecutor(self.options.jobs) as pool:
            list(pool.map(judge, wanted))

    def figures(
        self, contender: Contender, judged: Judged, folds: list[Fold], timed: dict[str, Any]
    ) -> dict[str, Any]:
        """One row: what one file of one engine is worth."""
        from edgekit.measure.metrics import compare_accuracy

        row: dict[str, Any] = {"engine": contender.engine, "file": contender.name}
        timing = timed.get(f"{contender.engine}:{contender.name}", {})
        if contender.error:
            return {**row, "error": contender.error}
        if not contender.answers:
            return {**row, **timing}
        source = self.contenders["source", "source"]
        expected, got = np.concatenate(source.answers), np.concatenate(contender.answers)
        if judged.streams:
            expected, got = expected.reshape(-1, 1), np.clip(got, 0, 1).reshape(-1, 1)  # codes may pass 1
        labels = expected.reshape(-1) > 0.5 if judged.streams else None
        if folds[0].labels is not None:
            labels = np.concatenate([f.labels for f in folds if f.labels is not None])
        if labels is not None:
            found = compare_accuracy("accuracy", expected, got, np.asarray(labels, np.int64))
            row.update(drop=round(found.drop, 3), interval=[round(v, 3) for v in found.interval], n=found.n)
        if expected.ndim == 2:
            row["agreement"] = round(float(np.mean(top1(expected) == top1(got))), 5)
        row["sqnr_db"] = round(sqnr_db(source.answers, contender.answers), 2)
        row["worst_output_sqnr_db"] = round(min(
            sqnr_db([o[name] for o in source.others], [o[name] for o in contender.others])
            for name in source.others[0]
        ), 2)  # fmt: skip
        for key in ("seconds", "peak_mib"):
            if all(key in c for c in contender.costs):
                row[key] = round(float(np.median([c[key] for c in contender.costs])), 2)
        return {**row, **timing}

    def as_graph(self) -> dict[str, Any]:
        """Whether LiteRT answers as the quantized graph does."""
        found = {}
        for setting in self.options.ours:
            ours = self.contenders.get(("tflite", f"edgekit/{setting}"))
            graph = self.contenders.get(("qdq", f"edgekit/{setting}"))
            if ours is None or graph is None or ours.error or graph.error:
                continue
            if ours.answers[0].ndim != 2:
                continue
            mine, theirs = np.concatenate(ours.answers), np.concatenate(graph.answers)
            equal = top1(mine) == top1(theirs)
            found[setting] = {
                "equal": int(equal.sum()),
                "equal_or_tied": int((equal | tied(mine, theirs) | tied(theirs, mine)).sum()),
                "of": len(equal),
                "share": float(equal.mean()),
            }
        return found

    # ---- timing them

    def time(self) -> dict[str, dict[str, Any]]:
        """CPU time of the first fold's files in interleaved rounds, engine by engine."""
        from edgekit.measure.latency import paired_speedup

        script = str(ROOT / "benchmarks" / "support" / "cpu_time.py")
        samples = str(self.places.work / "fold0" / "samples.npz")
        found: dict[str, dict[str, Any]] = {}
        for engine in ENGINES:
            loadable = [c for c in self.contenders.values() if c.engine == engine and not c.error]
            named = [f"{c.name}={c.folders[0]}" for c in loadable]
            asked = [sys.executable, script, samples, str(self.options.rounds), str(self.options.threads)]
            answer = json_of([*asked, *named], self.options.limit_s)
            for contender in loadable:
                contender.error = answer.get("error") or answer["errors"].get(contender.name, "")
            times = {name: np.array(taken) for name, taken in answer.get("times_ms", {}).items()}
            for name, taken in times.items():
                row = found.setdefault(f"{engine}:{name}", {"cpu_ms": round(float(np.median(taken)), 4)})
                for setting in self.options.ours:
                    ours = times.get(f"edgekit/{setting}")
                    if ours is not None and not name.startswith("edgekit/"):
                        ratio = paired_speedup(ours, taken)  # how many times as long ours takes
                        row[f"{setting}_over_this"] = [round(v, 3) for v in (ratio.ratio, *ratio.interval)]
                if name != "float32" and "float32" in times:
                    ratio = paired_speedup(taken, times["float32"])
                    row["over_float32"] = [round(v, 3) for v in (ratio.ratio, *ratio.interval)]
        return found

    def kept(self) -> dict[str, Any]:
        """The network's row of the answer from the files that an earlier run kept: their times alone."""
        first = self.places.work / "fold0"
        for setting in self.options.ours:
            for engine in ENGINES:
                folder = first / f"edgekit-{setting}" / engine
                self.add(engine, f"edgekit/{setting}", folder / "int8", {})
                if setting == self.options.ours[0]:
                    self.add(engine, "float32", folder / "float32", {})
        for peer in self.options.peers:
            kind = QUANTIZERS[peer]
            for setting in kind.settings:
                made = first / f"{peer}-{setting}"
                for engine in kind.engines:
                    self.add(engine, f"{peer}/{setting}", made if engine == "tflite" else made / engine, {})
        timed = self.time()
        rows = [
            {"engine": c.engine, "file": c.name, **({"error": c.error} if c.error else {}),
             **timed.get(f"{c.engine}:{c.name}", {})}
            for c in self.contenders.values()
        ]  # fmt: skip
        return {"network": self.network, "rows": rows, "litert_as_its_graph": {}}


if __name__ == "__main__":
    main()
