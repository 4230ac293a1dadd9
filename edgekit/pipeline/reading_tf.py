"""Read a source of TensorFlow's family: one process exports it, answers for it, and is gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.core.arrays import load_arrays, save_arrays
from edgekit.core.codec import decode, encode
from edgekit.core.model import ModelFormat
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Reason, Unsupported, UsageError
from edgekit.formats.tf_export import ENVIRONMENT, Batch
from edgekit.pipeline.steps import StepRunner

__all__ = ["BATCHES", "export", "inner_values", "run_export"]

BATCHES: tuple[Batch, ...] = ("dynamic-batch", "static-batch")
_INPUT_SETS = 2


def run_export(
    kind: ModelFormat, source: SourceOptions, batch: str, folder: Path, runner: StepRunner
) -> tuple[Path, tuple[Path, ...], tuple[Path, ...], list[str]]:
    """Run `export` in a child: the prepared graph, the files of inputs and answers, the notes."""
    child = replace(runner, environment={**runner.environment, **ENVIRONMENT})
    answer = child.run(
        "edgekit.pipeline.reading_tf:export",
        {"kind": kind, "options": encode(source), "batch": batch, "out": str(folder)},
        label=f"export from TensorFlow ({batch})",
    )
    inputs = tuple(folder / f"{i}.inputs.npz" for i in range(answer["sets"]))
    outputs = tuple(folder / f"{i}.outputs.npz" for i in range(answer["sets"]))
    return folder / "prepared.onnx", inputs, outputs, answer["notes"]


def export(kind: ModelFormat, options: dict[str, Any], batch: Batch, out: str) -> dict[str, Any]:
    """The step: bring the source named by `options` (a `SourceOptions` as JSON) into the folder `out`.

    Writes `prepared.onnx` (the canonical opset, inputs fixed), and for each of the sets of inputs generated
    from it `N.inputs.npz` and `N.outputs.npz`, the framework's own answers. The source runs only after its
    graph was found to hold standard operators and nothing else. Returns {"sets", "notes"}. Raises
    `UsageError`, or `Unsupported` when the export fails.
    """
    from edgekit.formats.onnx_file import load_onnx
    from edgekit.formats.tf_export import export_tf, load_tf
    from edgekit.graph.canonical import prepare, save_model
    from edgekit.graph.generate import generate_files

    asked = decode(SourceOptions, options, where="source")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    source = load_tf(kind, asked, batch)
    export_tf(source, asked, batch, folder / "exported.onnx")
    try:
        loaded = load_onnx(folder / "exported.onnx", weights="in the file")
    except UsageError as err:  # tf2onnx is at fault, not the user
        why = "; ".join((err.message, *err.problems))
        raise Unsupported("tf2onnx wrote a file that is not valid", reasons=[Reason(why=why)]) from err
    inputs = {v.name for v in loaded.graph.input}  # tf2onnx drops what nothing reads
    shapes = {name: shape for name, shape in asked.shapes.items() if name in inputs}
    prepared, notes = prepare(loaded, shapes)
    save_model(prepared, folder / "prepared.onnx")
    files = [folder / f"{i}.inputs.npz" for i in range(_INPUT_SETS)]
    generate_files(str(folder / "prepared.onnx"), [str(file) for file in files])
    for i, file in enumerate(files):
        save_arrays(folder / f"{i}.outputs.npz", source.answers(load_arrays(file)))
    return {"sets": _INPUT_SETS, "notes": [*source.notes, f"exported by tf2onnx ({batch})", *notes]}


def inner_values(
    kind: ModelFormat, options: dict[str, Any], exporter: Batch, inputs: str, values: str
) -> dict[str, Any]:
    """The step: what the source computes inside on the arrays in the file `inputs`, written to `values`.

    Returns what `edgekit.pipeline.locating.in_source` asks for.
    """
    from edgekit.formats.tf_export import load_tf
    from edgekit.formats.tf_inner import inner_values as inner

    asked = decode(SourceOptions, options, where="source")
    found = inner(load_tf(kind, asked, exporter), load_arrays(Path(inputs)))
    save_arrays(Path(values), found.values)
    return {"kind": found.kind, "reads": found.reads}
