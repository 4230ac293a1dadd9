"""Several models in one .tflite file: a signature each, equal constants stored once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from edgekit.backends import refusal
from edgekit.backends.tflite.backend import MODEL_NAME, build_graph, tensor_io
from edgekit.backends.tflite.checks import check_graph
from edgekit.backends.tflite.cleanup import half_weights
from edgekit.backends.tflite.dynamic import build_in_every_size
from edgekit.backends.tflite.ir import Graph
from edgekit.backends.tflite.writer import serialize
from edgekit.core.about import NOTHING, About
from edgekit.core.artifact import Artifact, write_artifact
from edgekit.core.dynamic import Dynamic
from edgekit.core.files import atomic_file, digest_file, digest_json
from edgekit.core.packages import installed_version
from edgekit.core.target import Precision, Target
from edgekit.errors import Reason, Unsupported, UsageError
from edgekit.runtime.manifest import SignatureIO

__all__ = ["lower_signatures"]


def lower_signatures(
    models: Mapping[str, str | Path],
    *,
    target: Target,
    precision: Precision,
    out: str | Path,
    quantized_io: bool = False,
    about: About = NOTHING,
) -> Artifact:
    """Write `out/model.tflite` with one signature for each of `models` (name -> ONNX file), and its manifest.

    The files are what `lower` takes for this precision. A state is an input and an output of a model: the
    caller hands what one call gave to the next, to whichever signature. Run it with
    `Session(out, signature=name)`; the first name is the default. A dynamic dimension stays so; one name has
    the same sizes in every model that uses it. Raises `Unsupported` with the reasons of
    every model, `UsageError` for no models.
    """
    if not models or not all(models):
        raise UsageError(f"signatures need names and models, got {sorted(models)}")
    paths, out = {name: Path(path) for name, path in models.items()}, Path(out)
    reasons = refusal(target, precision)
    graphs: dict[str, Graph] = {}
    dynamics: dict[str, Dynamic | None] = {}
    build = partial(build_graph, target=target, precision=precision, quantized_io=quantized_io)
    for name, path in paths.items() if not reasons else ():
        graphs[name], found, dynamics[name] = build_in_every_size(path, build)
        reasons += [
            Reason(node=f"{name}: {r.node}" if r.node else name, why=r.why, hint=r.hint) for r in found
        ]
    reasons += _other_sizes(dynamics)
    if reasons:
        raise Unsupported(f"LiteRT cannot run these models in {precision}", reasons=reasons)
    notes = [f"{name}: {note}" for name, graph in graphs.items() for note in _finish(graph, precision)]
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / MODEL_NAME) as temporary:
        temporary.write_bytes(serialize(graphs, about=about))
    signatures = {
        name: SignatureIO(
            inputs=tuple(tensor_io(port, dynamics[name]) for port in graph.inputs),
            outputs=tuple(tensor_io(port, dynamics[name]) for port in graph.outputs),
        )
        for name, graph in graphs.items()
    }
    first = next(iter(signatures.values()))
    return write_artifact(
        out,
        target=target,
        precision=precision,
        model=MODEL_NAME,
        inputs=first.inputs,
        outputs=first.outputs,
        source_digest=digest_json({name: digest_file(path) for name, path in paths.items()}),
        about=about,
        dynamic=_all_sizes(dynamics),
        signatures=signatures,
        versions={"ai-edge-litert": installed_version("ai-edge-litert")},
        notes=tuple(notes),
    )


def _all_sizes(dynamics: Mapping[str, Dynamic | None]) -> Dynamic | None:
    """The dimensions of every signature, for the manifest of the file; None when all are static."""
    sizes = {name: s for one in dynamics.values() if one is not None for name, s in one.sizes.items()}
    return Dynamic(inputs={}, outputs={}, sizes=sizes) if sizes else None


def _other_sizes(dynamics: Mapping[str, Dynamic | None]) -> list[Reason]:
    """Dimensions of one name that two signatures do not take in the same sizes."""
    known: dict[str, tuple[str, dict[str, int]]] = {}
    reasons = []
    for signature, one in dynamics.items():
        for name, sizes in (one.manifest() if one is not None else {}).items():
            first, before = known.setdefault(name, (signature, sizes))
            if before != sizes:
                shown = [f"{s['size']} and steps of {s['step']}" for s in (before, sizes)]
                why = f"{name!r} is {shown[0]} in {first!r}, {shown[1]} here"
                reasons.append(Reason(node=signature, why=why, hint="give one of them another name"))
    return reasons


def _finish(graph: Graph, precision: Precision) -> list[str]:
    notes = list(graph.notes)
    if precision == "float16" and (left := half_weights(graph)):
        notes.append(f"kept in float32, beyond the range of float16: {', '.join(left)}")
    check_graph(graph)
    return notes
