"""`edgekit inspect`: what a model or an artifact is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edgekit.cli.answer import Answer, size_text, table
from edgekit.cli.model_options import add_shapes
from edgekit.cli.options import add_source, shapes_of

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.core.artifact import Artifact
    from edgekit.pipeline.steps import StepRunner

__all__ = [
    "DESCRIPTION",
    "EXAMPLE",
    "add_arguments",
    "execute",
    "refusals_of_target",
    "write_draft",
]

DESCRIPTION = """\
Say what FILE is. For a model of any format: its signature, operators and multiply-adds, and what each target
would refuse of it in float32. For a .tflite file of any maker: its signature, operators and number types.
For an artifact folder: what its manifest says, its files verified. For a folder that `edgekit convert`
wrote: every artifact in it."""
EXAMPLE = "example: edgekit inspect model.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgekit inspect`."""
    parser.add_argument("file", metavar="FILE", help="a model, an artifact folder or an output folder")
    model = parser.add_argument_group("model that is no ONNX file")
    add_source(model)
    add_shapes(model)


def execute(arguments: argparse.Namespace) -> Answer:
    """Run `edgekit inspect`."""
    from pathlib import Path

    from edgekit.errors import UsageError

    path = Path(arguments.file)
    saved_model = any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))
    if path.is_dir() and not saved_model:
        return _inspect_folder(path)
    python = arguments.file.rpartition(":")[0].endswith(".py")
    if not path.exists() and not python:
        raise UsageError("no such file or folder", where=str(path))
    if path.suffix.lower() == ".tflite":
        return _inspect_tflite(path)
    if path.suffix.lower() == ".onnx" or not (saved_model or python or path.suffix):
        return _inspect_model(path, quiet=arguments.quiet)
    return _inspect_source(arguments)


def _inspect_tflite(path: Path) -> Answer:
    from edgekit.pipeline.steps import StepRunner

    step = "edgekit.formats.tflite_file:describe"
    value = StepRunner(deadline_s=120.0).run(step, {"path": str(path)}, label="read the .tflite file")
    value = {"format": "tflite", **value}
    hint = f"compare it with edgekit's artifacts: edgekit validate OUT --data DATA --beside {path.name}"
    return Answer(value=value, text=f"{_model_text(value)}\n\n{hint}")


def _inspect_source(arguments: argparse.Namespace) -> Answer:
    """Any other model: read as conversion would read it, then its canonical graph."""
    import tempfile
    from dataclasses import replace
    from pathlib import Path

    from edgekit import api
    from edgekit.cli.progress import show_progress

    with tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        with show_progress(quiet=arguments.quiet) as listener:
            model = api.open(
                arguments.file,
                out=Path(scratch) / "model",
                state=arguments.state,
                trust=arguments.trust,
                signature=arguments.signature,
                custom_objects=arguments.custom_objects,
                shapes=shapes_of(arguments.shapes),
                on_event=listener,
            )
        answer = _inspect_model(model.path, quiet=arguments.quiet)
    value = {"format": model.format, **answer.value, "notes": list(model.notes)}
    return replace(answer, value=value, text=_model_text(value))


def _inspect_folder(path: Path) -> Answer:
    from edgekit.core.artifact import find_artifacts, open_artifact
    from edgekit.errors import UsageError
    from edgekit.runtime.manifest import MANIFEST_NAME

    found = (open_artifact(path),) if (path / MANIFEST_NAME).is_file() else find_artifacts(path)
    if not found:
        raise UsageError(
            "no artifact in this folder",
            where=str(path),
            hint="name an artifact folder, or what `convert` wrote",
        )
    value = [
        {"folder": str(a.folder), "size_bytes": a.size_bytes, "manifest": a.manifest.to_json()} for a in found
    ]
    return Answer(value={"artifacts": value}, text="\n\n".join(_artifact_text(a) for a in found))


def _artifact_text(artifact: Artifact) -> str:
    manifest = artifact.manifest
    rows: list[tuple[str, ...]] = [
        ("artifact", f"{manifest.target} {manifest.precision}, in {artifact.folder}"),
        ("engine", f"{manifest.engine}, loads {manifest.model}"),
        ("size", f"{size_text(artifact.size_bytes)} in {len(manifest.files)} files, SHA-256 verified"),
    ]
    for kind, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for t in tensors:
            scale = f", scale {t.scale:g}, zero point {t.zero_point}" if t.scale else ""
            axes = f", source axes {list(t.axes)}" if t.axes else ""
            rows.append((kind, f"{t.name}: {t.dtype}{list(t.shape)}{scale}{axes}"))
    rows += [("option", f"{key} = {value}") for key, value in manifest.options.items()]
    if manifest.requires:
        rows.append(("requires", manifest.requires))
    rows += [("note", note) for note in manifest.notes]
    rows.append(("edgekit", manifest.edgekit))
    return table(rows)


def _inspect_model(path: Path, *, quiet: bool) -> Answer:
    import tempfile
    from pathlib import Path

    from edgekit.cli.progress import show_progress
    from edgekit.core.target import list_targets
    from edgekit.errors import EdgekitError
    from edgekit.pipeline.steps import StepRunner

    names = [target.name for target in list_targets()]
    with show_progress(quiet=quiet) as listener, tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        runner = StepRunner(deadline_s=120.0, on_event=listener)
        value = runner.run("edgekit.graph.inspect:inspect_model", {"path": str(path)}, label="read the model")
        draft = Path(scratch) / "draft.onnx"
        files = {"path": str(path), "out": str(draft)}
        try:
            runner.run("edgekit.cli.inspect:write_draft", files, label="fix the batch to 1")
        except EdgekitError as err:  # dimensions that only the user knows, operators nobody knows
            reasons = str(err).splitlines()
            value["targets"] = {name: {"takes": None, "reasons": reasons} for name in names}
        else:
            value["targets"] = {name: _asked(runner, draft, name) for name in names}
    return Answer(value=value, text=_model_text(value))


def write_draft(*, path: str, out: str) -> None:
    """Step: the model as conversion would lower it, but not simplified; a dynamic batch becomes 1."""
    from pathlib import Path

    from edgekit.formats.onnx_file import load_onnx
    from edgekit.graph import canonical, fold_batchnorm, fold_constants, infer_shapes

    model, _ = canonical.prepare(load_onnx(Path(path)), {})
    for fold in (fold_constants, infer_shapes, fold_batchnorm, infer_shapes):
        model = fold.apply(model).model
    canonical.save_model(model, Path(out))


def _asked(runner: StepRunner, path: Path, target: str) -> dict[str, Any]:
    """Whether one target takes the model (None: it could not be asked) and the reasons, as text."""
    from edgekit.errors import EdgekitError

    arguments = {"path": str(path), "target": target}
    try:
        reasons = runner.run("edgekit.cli.inspect:refusals_of_target", arguments, label=f"ask {target}")
    except EdgekitError as err:  # a missing package or a crash of one engine does not hide the others
        return {"takes": None, "reasons": [err.message]}
    return {"takes": not reasons, "reasons": reasons}


def refusals_of_target(*, path: str, target: str) -> list[str]:
    """Step: the reasons for which `target` cannot run the ONNX file in float32; empty means it can."""
    from importlib import import_module
    from pathlib import Path

    from edgekit.core.target import load_target

    profile = load_target(target)
    backend = import_module(f"edgekit.backends.{profile.engine}")
    return [str(reason) for reason in backend.why_not(Path(path), profile, "float32")]


def _model_text(value: dict[str, Any]) -> str:
    """The JSON value as text: numbers and words in rows, lists and tables below each other."""
    rows: list[tuple[str, ...]] = []
    for key, item in value.items():
        if key == "targets":
            continue
        name = key.replace("_", " ")
        if isinstance(item, dict):
            text = ", ".join(f"{k} {v}" for k, v in item.items())
            rows.append((name, text or "none"))
        elif key == "labels" and item:
            rows.append((name, f"{len(item)}: {', '.join(item[:5])}{', …' if len(item) > 5 else ''}"))
        elif isinstance(item, list):
            rows += [(name if i == 0 else "", _entry(entry)) for i, entry in enumerate(item)]
        elif key.endswith("_bytes"):
            rows.append((name.removesuffix(" bytes"), size_text(item)))
        elif item != "":
            rows.append((name, f"{item:,}" if isinstance(item, int) else str(item)))
    if "targets" not in value:
        return table(rows)
    verdicts: list[tuple[str, ...]] = []
    word = {True: "takes it in float32", False: "refuses it", None: "could not be asked"}
    shown: list[str] = []
    for target, asked in value["targets"].items():
        same = " (as above)" if asked["reasons"] and asked["reasons"] == shown else ""
        verdicts.append((target, word[asked["takes"]] + same))
        verdicts += [("", reason) for reason in asked["reasons"] if not same]
        shown = asked["reasons"]
    return f"{table(rows)}\n\ntargets\n{table(verdicts, indent='  ')}"


def _entry(entry: Any) -> str:
    """One element of a list: a tensor as name: dtype[shape], another mapping as its pairs."""
    if isinstance(entry, dict) and {"name", "dtype", "shape"} <= entry.keys():
        dims = ", ".join(str(d) if d != "" else "?" for d in entry["shape"])
        scale = f", scale {entry['scale']:g}, zero point {entry['zero_point']}" if entry.get("scale") else ""
        layout = f", {entry['layout']}" if entry.get("layout") else ""
        return f"{entry['name']}: {entry['dtype']}[{dims}]{scale}{layout}"
    if isinstance(entry, dict):
        return ", ".join(f"{k} {v}" for k, v in entry.items())
    return str(entry)
