"""The child process: prepares cases, or lowers and runs them in one engine, by edgekit's own code.

Names of cases come in on standard input, one a line; one line of JSON an outcome goes out on the file
descriptor given as the last argument (engines write to standard output what they like).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from conformance_cases import CONSTANT, EXPECTED_OF_ONNX_RUNTIME, Case, read_case
from conformance_compare import first_difference, step_counts

from edgekit.errors import Reason, Unsupported, UsageError

_QUANTIZING = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "QLinearConv"})


def prepare(folder: Path, name: str) -> dict[str, Any]:
    """Read the case's model into its canonical graph, as `edgekit.pipeline.reading` does."""
    import onnx

    from edgekit.formats.onnx_file import load_onnx
    from edgekit.graph.canonical import finish, prepare, save_model

    case, place = read_case(folder, name), folder / name
    (place / "source.onnx").write_bytes(case.model)
    shapes = _open_shapes(onnx.load_from_string(case.model).graph, case)
    try:
        prepared, _ = prepare(load_onnx(place / "source.onnx"), shapes)
        save_model(prepared, place / "prepared.onnx")
        finish(str(place / "prepared.onnx"), str(place / "model.onnx"), simplified=False)
    except (Unsupported, UsageError) as err:
        (place / "model.onnx").unlink(missing_ok=True)
        return _refused(err, onnx.load_from_string(case.model).graph)
    return {"outcome": "ok"}


def run(folder: Path, name: str, engine: str, precision: Any = "float32") -> dict[str, Any]:
    """Lower the prepared case for an engine, run it, compare."""
    import onnx

    from edgekit.backends.request import Request
    from edgekit.core.target import load_target
    from edgekit.runtime import Session

    case, path = read_case(folder, name), folder / name / "model.onnx"
    graph, apart = onnx.load(path).graph, ""
    lower = import_module(f"edgekit.backends.{engine}").lower
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        try:
            lower(Request(
                model=path, target=load_target(engine), precision=precision, out=out, source_digest="0" * 64
            ))  # fmt: skip
        except (Unsupported, UsageError) as err:
            return _refused(err, graph)
        with Session(out, threads=1, layout="source") as session:
            for inputs, expected in case.sets:
                feeds = dict(zip((t.name for t in session.inputs), inputs, strict=True))
                by_runtime = name.removesuffix(CONSTANT) in EXPECTED_OF_ONNX_RUNTIME
                wanted = _reference(path, feeds) if by_runtime else expected
                answers = session.run(feeds)
                apart = step_counts(answers, wanted, case.step) if precision == "int8" else ""
                difference = first_difference(
                    answers,
                    wanted,
                    rtol=case.rtol,
                    atol=case.atol,
                    steps=int(any(node.op_type in _QUANTIZING for node in graph.node)),
                    bound=case.bound,
                )
                if difference:
                    return {"outcome": "mismatch", "detail": difference}
    return {"outcome": "ok", "detail": apart}


def _open_shapes(graph: Any, case: Case) -> dict[str, tuple[int, ...]]:
    """The shape of the case's own input for every input that leaves a dimension open."""
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    values = case.sets[0][0] if case.sets else []
    return {
        info.name: value.shape
        for info, value in zip(inputs, values, strict=False)
        if isinstance(value, np.ndarray)
        and info.type.HasField("tensor_type")
        and any(dim.dim_value < 1 for dim in info.type.tensor_type.shape.dim)
    }


def _reference(path: Path, feeds: dict[str, Any]) -> list[Any]:
    """ONNX Runtime's answer with the optimizer off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    answers: list[Any] = session.run(None, feeds)
    return answers


def _refused(err: Unsupported | UsageError, graph: Any) -> dict[str, Any]:
    """The reasons as [operator, why]; the operator of a reason without a node is that of the case."""
    reasons: list[Reason] = list(err.reasons) if isinstance(err, Unsupported) else []
    more = " ".join(getattr(err, "problems", ()))
    reasons = reasons or [Reason(why=f"{err.message} {more}".strip())]
    kinds = {node.name: node.op_type for node in graph.node if node.name}
    alone = graph.node[0].op_type if len(graph.node) == 1 else "(model)"
    found = []
    for reason in reasons:
        word = reason.node.split(" ")[0]
        inside = reason.node.rpartition("(")[2].rstrip(")") if reason.node.endswith(")") else ""
        operator = inside if inside in kinds.values() else kinds.get(word, alone)
        found.append([operator, reason.why])
    return {"outcome": "refused", "reasons": found}


def main(stage: str, folder: Path, answers: int) -> None:
    with os.fdopen(answers, "w") as out:
        for line in sys.stdin:
            name = line.strip()
            try:
                outcome = (
                    prepare(folder, name) if stage == "prepare" else run(folder, name, *stage.split(":"))
                )
            except Exception as err:  # whatever is not a refusal is a crash, and the next case goes on
                detail = " ".join(str(err).split())[:300]
                outcome = {"outcome": "crash", "detail": f"{type(err).__name__}: {detail}"}
            out.write(json.dumps(outcome) + "\n")
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
