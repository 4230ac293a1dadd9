"""What ONNX Runtime answers with its graph optimizations off: the graph as it is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.core.arrays import load_arrays, save_arrays
from edgekit.core.packages import require
from edgekit.errors import Unsupported, UsageError

__all__ = ["evaluate"]


def evaluate(model: str, inputs: list[str], outputs: list[str]) -> list[str]:
    """The step: run an ONNX file on each file of named arrays and write its named outputs beside.

    Input arrays that the graph does not have are left out (an exporter drops inputs that nothing reads).
    Returns the names of the graph's inputs. Raises `Unsupported` with ONNX Runtime's own words when the model
    cannot be loaded or run.
    """
    ort = require("onnxruntime", needed_for="checking the reading")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [i.name for i in session.get_inputs()]
        for source, target in zip(inputs, outputs, strict=True):
            arrays = load_arrays(Path(source))
            if missing := [n for n in names if n not in arrays]:
                raise UsageError(f"no value for the input(s) {', '.join(missing)}", where=source)
            answer = session.run(None, {n: arrays[n] for n in names})
            save_arrays(Path(target), dict(zip([o.name for o in session.get_outputs()], answer, strict=True)))
    except Exception as err:
        if isinstance(err, (UsageError, MemoryError)):
            raise
        # ONNX Runtime raises one class of its own for each status code; they share no base but Exception.
        raise Unsupported(f"ONNX Runtime cannot run the model: {_words(err)}") from err
    return names


def _words(err: Exception) -> str:
    lines: list[Any] = [line.strip() for line in str(err).splitlines() if line.strip()]
    return " ".join(lines[:3])[:600]
