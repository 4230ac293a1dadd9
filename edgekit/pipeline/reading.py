"""Read a source into the canonical graph and prove the reading: each framework in a process of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.core.arrays import load_arrays
from edgekit.core.codec import decode, encode
from edgekit.core.events import Event
from edgekit.core.files import atomic_file, digest_file
from edgekit.core.model import CANONICAL_OPSET, Model, ModelFormat, Signature
from edgekit.core.recipe import SourceOptions
from edgekit.errors import MissingPackage, Reason, StepError, Unsupported, UsageError
from edgekit.formats import detect, digest_source, require_trust, source_name
from edgekit.graph.compare import Difference, first_difference
from edgekit.pipeline import reading_tf, reading_torch
from edgekit.pipeline.locating import Locate, in_graph, in_source, named
from edgekit.pipeline.reading_dynamic import read_dynamic
from edgekit.pipeline.steps import StepRunner

__all__ = ["prepare_onnx", "read_model"]

_FOLDED, _UNFOLDED = "model.onnx", "unfolded.onnx"
_INPUT_SETS = 2  # generated for an ONNX source
_EXPORTERS: dict[ModelFormat, tuple[str, ...]] = {  # in the order they are tried
    **reading_torch.EXPORTERS,
    "keras": reading_tf.BATCHES,
    "saved-model": reading_tf.BATCHES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """Input sets and what the source answers to them, as files of arrays."""

    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]


def read_model(source: SourceOptions, *, out: Path, runner: StepRunner, simplify: bool = True) -> Model:
    """Read a trained model into `out/model.onnx`, the canonical graph, and prove it against the source.

    Static shapes (`source.shapes` by input name; a dynamic first dimension becomes 1; with `source.dynamic`
    the file also says which dimensions may change), opset `CANONICAL_OPSET`, names of inputs and outputs
    kept, BatchNorm folded, rich operators whole, no other metadata; the same source gives the same bytes.
    Where there is BatchNorm, `out/unfolded.onnx` is the same graph before it was folded. Both must answer
    like the source on generated inputs.

    Raises `UsageError` for a source that is damaged, incomplete, not trusted or not fully described,
    `Unsupported` for one that cannot be read faithfully, `StepError` when a child process dies.
    """
    if source.opset not in (0, CANONICAL_OPSET):
        raise UsageError(
            f"opset: got {source.opset}, the canonical graph has opset {CANONICAL_OPSET}",
            where=source.model,
            hint="leave it out",
        )
    kind = detect(source.model)
    require_trust(kind, source)
    _check_options(source, kind)
    out.mkdir(parents=True, exist_ok=True)
    if source.dynamic:

        def read(static: SourceOptions, folder: Path) -> Model:
            return read_model(static, out=folder, runner=runner, simplify=simplify)

        return read_dynamic(source, out=out, runner=runner, read=read)
    with tempfile.TemporaryDirectory(prefix=".reading.", dir=out) as scratch:
        work = Path(scratch)
        try:
            if kind == "onnx":
                return _read_onnx(source, work, out, runner, simplify)
            return _read_exported(kind, source, work, out, runner, simplify)
        except (UsageError, Unsupported) as err:
            if not source.state or err.where != str(Path(source.state)):
                # the user's name for it, not that of a file or step between
                err.where = source_name(kind, source.model)
            raise


def _check_options(source: SourceOptions, kind: ModelFormat) -> None:
    """Refuse options that belong to sources of another kind."""
    if source.state and kind != "torch":
        raise UsageError(
            "--state belongs to module.py:factory; this file holds its weights itself", where=source.model
        )
    if source.signature and kind not in ("saved-model", "transformers"):
        raise UsageError(
            "--signature chooses one of a SavedModel's or a Transformers folder's; this is none",
            where=source.model,
        )
    if source.custom_objects and kind != "keras":
        raise UsageError("--custom-objects belongs to Keras files; this is none", where=source.model)


def prepare_onnx(model: str, out: str, shapes: dict[str, list[int]], inputs: list[str]) -> dict[str, Any]:
    """The step: read an ONNX file and bring it into the canonical opset with fixed inputs.

    A generated input set is written to each of `inputs`. Returns {"parts": external data files, "notes"}.
    """
    from edgekit.formats.onnx_file import external_files, load_onnx
    from edgekit.graph.canonical import prepare, save_model
    from edgekit.graph.generate import generate_files

    loaded = load_onnx(Path(model), weights="in the file")
    prepared, notes = prepare(loaded, {name: tuple(shape) for name, shape in shapes.items()})
    save_model(prepared, Path(out))
    generate_files(out, inputs)
    return {"parts": external_files(Path(model)), "notes": list(notes)}


def _read_onnx(source: SourceOptions, work: Path, out: Path, runner: StepRunner, simplify: bool) -> Model:
    prepared = work / "prepared.onnx"
    inputs = tuple(work / f"{i}.inputs.npz" for i in range(_INPUT_SETS))
    answer = _prepare(runner, source.model, prepared, source.shapes, inputs, "read the ONNX file")
    notes = list(answer["notes"])
    try:
        evidence = _Evidence(inputs=inputs, outputs=_run(source.model, inputs, work, runner, "source"))
    except Unsupported as err:
        # ONNX Runtime does not read every opset a file may have: the converted graph is then the yardstick.
        notes.append(f"the conversion to opset {CANONICAL_OPSET} is not proven: {err.message}")
        evidence = _Evidence(inputs=inputs, outputs=_run(prepared, inputs, work, runner, "prepared"))
    difference = _disagreement([prepared], evidence, work, runner, in_graph(source.model, runner))
    if difference is not None:
        raise Unsupported(
            "the graph converted to the canonical opset does not answer like the file",
            reasons=[Reason(why=str(difference))],
            hint=f"export the model at opset {CANONICAL_OPSET}",
        )
    signature, more = _finished(prepared, evidence, work, out, runner, simplify)
    return _model("onnx", source, out, signature, answer["parts"], [*notes, *more])


def _read_exported(
    kind: ModelFormat, source: SourceOptions, work: Path, out: Path, runner: StepRunner, simplify: bool
) -> Model:
    reasons: list[Reason] = []
    missing: list[MissingPackage] = []
    exporters: tuple[str, ...] = _EXPORTERS[kind]
    for exporter in exporters:
        folder = work / exporter
        try:
            prepared, evidence, notes = _exported(kind, source, exporter, folder, runner)
            locate = in_source(kind, source, exporter, folder, runner)
            difference = _disagreement([prepared], evidence, folder, runner, locate)
        except (Unsupported, MissingPackage) as err:
            missing += [err] if isinstance(err, MissingPackage) else []
            found = err.reasons if isinstance(err, Unsupported) else ()
            why = "; ".join(r.why for r in found)
            hint = next((r.hint for r in found if r.hint), err.hint)
            reasons.append(Reason(node=f"{exporter} exporter", why=why or err.message, hint=hint))
            continue
        if difference is None:
            notes = [*notes, *(f"the {r.node} was not used: {r.why}" for r in reasons)]
            try:
                signature, more = _finished(prepared, evidence, folder, out, runner, simplify)
            except Unsupported as err:
                if exporter == exporters[-1] and not reasons:
                    raise
                nodes = "; ".join(f"{r.node}: {r.why}" for r in err.reasons)
                why = f"{err.message}: {nodes}"
                reasons.append(Reason(node=f"{exporter} exporter", why=why, hint=err.hint))
                continue
            return _model(kind, source, out, signature, [], [*notes, *_unread(evidence, signature), *more])
        reasons.append(Reason(
            node=f"{exporter} exporter",
            why=f"its graph does not answer like the module: {difference}",
            hint="a branch or loop that depends on the data is the usual cause",
        ))  # fmt: skip
    if missing and len(missing) == len(exporters):
        raise missing[0]
    raise Unsupported("the model cannot be exported faithfully to ONNX", reasons=reasons)


def _unread(evidence: _Evidence, signature: Signature) -> list[str]:
    """Notes on the inputs of the source that are none of the graph: exporters drop what no answer needs."""
    kept = {spec.name for spec in signature.inputs}
    return [
        f"the input {name!r} changes no answer and is left out"
        for name in load_arrays(evidence.inputs[0])
        if name not in kept
    ]


def _exported(
    kind: ModelFormat, source: SourceOptions, exporter: str, folder: Path, runner: StepRunner
) -> tuple[Path, _Evidence, list[str]]:
    if kind in ("keras", "saved-model"):
        prepared, inputs, outputs, notes = reading_tf.run_export(kind, source, exporter, folder, runner)
        return prepared, _Evidence(inputs=inputs, outputs=outputs), notes
    answer = reading_torch.run_export(kind, source, exporter, folder, runner)
    prepared = folder / "prepared.onnx"
    try:
        exported = str(folder / "exported.onnx")
        # What the legacy exporter writes is static, and lacks inputs that nothing reads.
        shapes = answer["shapes"] if exporter == "dynamo" else {}
        read = _prepare(runner, exported, prepared, shapes, (), "read the exported graph")
    except UsageError as err:  # the exporter's file is at fault, not the user
        why = "; ".join((err.message, *err.problems))
        raise Unsupported(f"its file is not valid: {why}") from err
    sets = range(answer["sets"])
    evidence = _Evidence(
        inputs=tuple(folder / f"{i}.inputs.npz" for i in sets),
        outputs=tuple(folder / f"{i}.outputs.npz" for i in sets),
    )
    return prepared, evidence, [*answer["notes"], *read["notes"]]


def _finished(
    prepared: Path, evidence: _Evidence, work: Path, out: Path, runner: StepRunner, simplify: bool
) -> tuple[Signature, list[str]]:
    """The simplified graph where it answers like the source, else the plain one; written to `out`.

    Both its forms must: with BatchNorm folded, and as it was before.
    """
    reason = "not asked for"
    if simplify:
        folder = work / "simplified"
        try:
            signature, notes = _finish(runner, prepared, folder, simplified=True)
            difference = _disagreement(_forms(folder), evidence, work, runner, in_graph(prepared, runner))
            if difference is None:
                _deliver(folder, out)
                return signature, notes
            reason = f"the simplified graph does not answer like its input: {difference}"
        except (StepError, Unsupported, MissingPackage) as err:
            reason = err.message
        runner.on_event(Event(step="simplify", state="note", note=f"not simplified: {reason}"))
    folder = work / "plain"
    signature, notes = _finish(runner, prepared, folder, simplified=False)
    difference = _disagreement(_forms(folder), evidence, work, runner, in_graph(prepared, runner))
    if difference is not None:
        raise Unsupported(
            "the canonical graph does not answer like the source", reasons=[Reason(why=str(difference))]
        )
    _deliver(folder, out)
    return signature, [*notes, f"not simplified: {reason}"]


def _prepare(
    runner: StepRunner,
    model: str,
    out: Path,
    shapes: Mapping[str, Sequence[int]],
    inputs: tuple[Path, ...],
    label: str,
) -> dict[str, Any]:
    arguments = {"model": model, "out": str(out), "shapes": encode(shapes), "inputs": encode(inputs)}
    value: dict[str, Any] = runner.run("edgekit.pipeline.reading:prepare_onnx", arguments, label=label)
    return value


def _finish(
    runner: StepRunner, source: Path, folder: Path, *, simplified: bool
) -> tuple[Signature, list[str]]:
    folder.mkdir()
    answer = runner.run(
        "edgekit.graph.canonical:finish",
        {
            "source": str(source),
            "out": str(folder / _FOLDED),
            "unfolded": str(folder / _UNFOLDED),
            "simplified": simplified,
        },
        label="simplify" if simplified else "finish the graph",
    )
    return decode(Signature, answer["signature"], where="signature"), answer["notes"]


def _run(
    model: Path | str, inputs: tuple[Path, ...], work: Path, runner: StepRunner, name: str
) -> tuple[Path, ...]:
    outputs = tuple(work / f"{i}.{name}.npz" for i in range(len(inputs)))
    runner.run(
        "edgekit.graph.evaluate:evaluate",
        {"model": str(model), "inputs": [str(p) for p in inputs], "outputs": [str(p) for p in outputs]},
        label=f"run the {name} graph",
    )
    return outputs


def _disagreement(
    graphs: Sequence[Path], evidence: _Evidence, work: Path, runner: StepRunner, locate: Locate
) -> Difference | None:
    """The first output of a graph that is not the source's answer, over all input sets, and its place."""
    for graph in graphs:
        answers = _run(graph, evidence.inputs, work, runner, graph.stem)
        for inputs, expected, got in zip(evidence.inputs, evidence.outputs, answers, strict=True):
            difference = first_difference(load_arrays(expected), load_arrays(got))
            if difference is not None:
                return named(difference, locate, graph, inputs)
    return None


def _forms(folder: Path) -> list[Path]:
    """The forms of the canonical graph that a folder holds."""
    return [path for name in (_FOLDED, _UNFOLDED) if (path := folder / name).is_file()]


def _deliver(folder: Path, out: Path) -> None:
    (out / _UNFOLDED).unlink(missing_ok=True)
    for path in _forms(folder):
        with atomic_file(out / path.name) as temporary:
            shutil.copyfile(path, temporary)


def _model(
    kind: ModelFormat,
    source: SourceOptions,
    out: Path,
    signature: Signature,
    parts: list[str],
    notes: list[str],
) -> Model:
    path, unfolded = out / _FOLDED, out / _UNFOLDED
    return Model(
        path=path,
        unfolded=unfolded if unfolded.is_file() else path,
        source=source_name(kind, source.model),
        format=kind,
        signature=signature,
        digest=digest_file(path),
        source_digest=digest_source(kind, source, parts),
        notes=tuple(notes),
    )
