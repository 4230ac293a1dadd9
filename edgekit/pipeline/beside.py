"""Take a `.tflite` file of another maker into an output folder: one more row that is compared, not judged.

It becomes an artifact like ours: a copy of the file and a manifest that gives its tensors the names and the
layout of the source model, so that everything that runs artifacts runs it, through the same runtime.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.core.arrays import load_arrays
from edgekit.core.artifact import Artifact, open_artifact, write_artifact
from edgekit.core.beside import Beside
from edgekit.core.events import Listener
from edgekit.core.files import digest_file
from edgekit.core.report import ArtifactReport, Report
from edgekit.core.target import Precision, load_target
from edgekit.errors import UsageError, nearest
from edgekit.pipeline.check import check_artifact
from edgekit.pipeline.layout import EXAMPLE, artifact_folder, yardstick_folder
from edgekit.pipeline.steps import StepRunner
from edgekit.runtime.manifest import TensorIO

__all__ = ["pair_ports", "place_beside", "typed"]


def place_beside(
    out: Path, report: Report, files: Sequence[Beside], *, deadline_s: float, on_event: Listener
) -> Report:
    """The report with a row for each file, which lies under `out` now; a row of the same name is replaced.

    Inputs and outputs are paired by name, or by `Beside.ports`; where one is left on either side, those two.
    Raises `UsageError` for a file that is no `.tflite`, names that leave it open what belongs to what, shapes
    that no order of axes brings together, or a row's name that an artifact of edgekit's has.
    """
    for beside in files:
        report = _placed(out, report, beside, deadline_s, on_event)
    return report


def typed(inputs: Mapping[str, NDArray[Any]], ports: Iterable[TensorIO]) -> dict[str, NDArray[Any]]:
    """The inputs as the ports take them: an integer type becomes the port's where every value fits.

    Makers narrow token ids to int32. Arrays that do not fit stay as they are, for the session to refuse.
    """
    wanted = {port.name: np.dtype(port.dtype) for port in ports}
    return {name: _narrowed(array, wanted.get(name, array.dtype)) for name, array in inputs.items()}


def _narrowed(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if array.dtype.kind not in "iu" or dtype.kind not in "iu":
        return array
    narrow = array.astype(dtype)
    return narrow if np.array_equal(narrow, array) else array


def _placed(out: Path, report: Report, beside: Beside, deadline_s: float, on_event: Listener) -> Report:
    path, row = Path(beside.path), beside.row
    if not path.is_file():
        raise UsageError("no such file", where=beside.path, hint="--beside takes a .tflite file")
    if row == "source" or any(e.target == row and not e.origin for e in report.artifacts):
        hint = f"give it another: --beside NAME={path.name}"
        raise UsageError(f"the name {row!r} is taken", where=beside.path, hint=hint)
    runner = StepRunner(deadline_s=deadline_s, on_event=on_event)
    facts = runner.run("edgekit.formats.tflite_file:describe", {"path": str(path)}, label=f"read {row}")
    if len(facts["signatures"]) > 1:
        raise UsageError(
            f"the file has several signatures: {', '.join(map(repr, facts['signatures']))}",
            where=beside.path,
            hint="one network is compared with one: convert the signature that is meant alone",
        )
    source = open_artifact(yardstick_folder(out)).manifest
    inputs, outputs = pair_ports(beside, facts, source.inputs, source.outputs)
    place = artifact_folder(out, row, facts["precision"])
    artifact = _written(path, out, place, inputs, outputs, source.source_digest)
    entry = ArtifactReport(
        target=row,
        precision=facts["precision"],
        status="ok",
        path=str(place.relative_to(out)),
        size_bytes=artifact.size_bytes,
        origin=beside.path,
        notes=(f"not made by edgekit: {path.name}, SHA-256 {digest_file(path)}",),
    )
    example = typed(load_arrays(out / EXAMPLE), inputs)
    checked = check_artifact(artifact, entry, example, deadline_s=deadline_s)
    kept = tuple(e for e in report.artifacts if not (e.origin and e.target == row))
    return replace(report, artifacts=(*kept, checked))


def _written(
    path: Path,
    out: Path,
    place: Path,
    inputs: tuple[TensorIO, ...],
    outputs: tuple[TensorIO, ...],
    source_digest: str,
) -> Artifact:
    """The artifact in `place` (OUT/row/precision): the file, and a manifest with the source's names."""
    with tempfile.TemporaryDirectory(prefix=".beside-", dir=out) as scratch:
        folder = Path(scratch) / place.name
        folder.mkdir(mode=0o755)
        shutil.copyfile(path, folder / "model.tflite")
        write_artifact(
            folder,
            target=replace(load_target("tflite"), name=place.parent.name),
            precision=cast(Precision, place.name),
            model="model.tflite",
            inputs=inputs,
            outputs=outputs,
            source_digest=source_digest,
        )
        shutil.rmtree(place.parent, ignore_errors=True)
        place.parent.mkdir()
        folder.rename(place)
    return open_artifact(place)


def pair_ports(
    beside: Beside, facts: dict[str, Any], inputs: Sequence[TensorIO], outputs: Sequence[TensorIO]
) -> tuple[tuple[TensorIO, ...], tuple[TensorIO, ...]]:
    """The file's inputs and outputs (of `describe`) under the names of the source's, axes in its order.

    Raises `UsageError` with everything that is left open.
    """
    known = [port.name for port in (*inputs, *outputs)]
    if unknown := [name for name in beside.ports if name not in known]:
        raise UsageError(
            f"--port names {unknown[0]!r}, no input or output of the source; {nearest(unknown[0], known)}",
            where=beside.path,
        )
    problems: list[str] = []
    sides = []
    for kind, ours, theirs in (("input", inputs, facts["inputs"]), ("output", outputs, facts["outputs"])):
        named = {port["name"]: port for port in theirs}
        chosen = _chosen(kind, ours, named, beside.ports, problems)
        found = [(port, *chosen[port.name]) for port in ours if port.name in chosen]
        sides.append(tuple(io for o, t, a in found if (io := _port(kind, o, t, a, problems)) is not None))
    if problems:
        raise UsageError(
            "the file's inputs and outputs cannot be paired with the source's",
            where=beside.path,
            problems=problems,
            hint="say what is what: --port OURS=THEIRS, and --port OURS=THEIRS@0,2,3,1 for the order of axes",
        )
    return sides[0], sides[1]


def _chosen(
    kind: str,
    ours: Sequence[TensorIO],
    theirs: Mapping[str, Any],
    ports: Mapping[str, str],
    problems: list[str],
) -> dict[str, tuple[Any, tuple[int, ...] | None]]:
    """Our name -> their port and the order of axes that was asked for, if any."""
    chosen: dict[str, tuple[Any, tuple[int, ...] | None]] = {}
    for port in ours:
        wanted, axes = _asked(ports.get(port.name, port.name), theirs)
        if wanted in theirs:
            chosen[port.name] = theirs[wanted], axes
        elif port.name in ports:
            problems.append(f"the file has no {kind} {wanted!r}; {nearest(wanted, theirs)}")
            return {}
    left = [port for port in ours if port.name not in chosen]
    taken = {port["name"] for port, _ in chosen.values()}
    free = [port for name, port in theirs.items() if name not in taken]
    if len(left) == len(free) == 1:
        chosen[left[0].name] = free[0], None
    elif left or (free and kind == "input"):
        listed = ", ".join(f"{p['name']} {_shown(p['shape'])}" for p in free) or "none"
        mine = ", ".join(f"{p.name} {_shown(p.shape)}" for p in left) or "none"
        problems.append(f"{kind}s of the source without a partner: {mine}; of the file: {listed}")
    return chosen


def _asked(text: str, theirs: Mapping[str, Any]) -> tuple[str, tuple[int, ...] | None]:
    """A name, and the axes behind the last "@" unless that belongs to the name."""
    name, at, axes = text.rpartition("@")
    parts = axes.split(",")
    if text in theirs or not at or not all(part.isascii() and part.isdigit() for part in parts):
        return text, None
    return name, tuple(int(part) for part in parts)


def _port(
    kind: str, ours: TensorIO, theirs: Any, axes: tuple[int, ...] | None, problems: list[str]
) -> TensorIO | None:
    """Their tensor under our name; None with a problem when no order of axes makes the shapes meet."""
    shape = tuple(theirs["shape"])
    orders = [axes] if axes is not None else _orders(len(ours.shape))
    fitting = [
        order for order in orders
        if sorted(order) == list(range(len(ours.shape))) and len(shape) == len(order)
        and all(d in ("", ours.shape[i]) for d, i in zip(shape, order, strict=True))
    ]  # fmt: skip
    words = f"{kind} {ours.name!r} is {_shown(ours.shape)}, {theirs['name']!r} of the file {_shown(shape)}"
    if not fitting:
        problems.append(f"{words}: no order of axes brings them together")
        return None
    if len({tuple(i for i in order if ours.shape[i] != 1) for order in fitting}) > 1:
        problems.append(f"{words}: as it is or channels last cannot be told apart")
        return None
    order = fitting[0]
    types = theirs["dtype"], ours.dtype
    if types[0] != types[1] and not theirs["scale"] and not _both_integers(*types):
        problems.append(f"{words}: the one is {ours.dtype}, the other {theirs['dtype']}")
        return None
    return TensorIO(
        name=ours.name,
        engine_name=theirs["name"],
        dtype=theirs["dtype"],
        shape=tuple(ours.shape[i] for i in order),
        axes=() if list(order) == list(range(len(order))) else order,
        scale=theirs["scale"],
        zero_point=theirs["zero_point"],
    )


def _orders(rank: int) -> list[tuple[int, ...]]:
    """As it is; channels last of channels first, and the other way round."""
    plain = tuple(range(rank))
    moved = [(0, *range(2, rank), 1), (0, rank - 1, *range(1, rank - 1))] if rank > 2 else []
    return list(dict.fromkeys([plain, *moved]))


def _both_integers(first: str, second: str) -> bool:
    return np.dtype(first).kind in "iu" and np.dtype(second).kind in "iu"


def _shown(shape: Iterable[int | str]) -> str:
    return f"[{', '.join(str(d) if d != '' else '?' for d in shape)}]"
