"""From a `DataSource` and a model's signature to samples: every mismatch is found before the first batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.samples import audio, images, shards, tables
from edgekit.core.samples.arrays import MemoryRows
from edgekit.core.samples.check import check_inputs, check_signature
from edgekit.core.samples.openers import (
    LABEL_NAMES,
    Opened,
    open_arrays,
    open_audio,
    open_images,
    open_shards,
    open_table,
)
from edgekit.core.samples.spec import SampleSpec, load_spec
from edgekit.core.samples.stream import Samples, select_rows
from edgekit.errors import UsageError, nearest

__all__ = ["LABEL_NAMES", "open_samples", "samples_from_arrays", "samples_from_iterable"]



def open_samples(source: DataSource, signature: Signature, *, need_labels: bool = False) -> Samples:
    """Open the samples that `source` names, for the inputs of `signature`.

    The first axis of every input is the batch axis; a sample of an input has the shape after it, in the
    model's own layout. An input without a batch axis is given whole, (samples, *shape), or refused. Labels
    are read where there are any (class sub-folders only when `need_labels` is set); with `need_labels` their
    absence is an error. Integer data for a float input is refused: how to scale it is for the caller to say,
    in a sample spec. Checksums of an .npz are verified here and one image is decoded; values are checked as
    batches flow. Raises `UsageError` with every problem.
    """
    path, spec, is_spec = Path(source.path), None, _is_spec(source.path)
    if is_spec:
        spec = load_spec(source.path)
        if source.preprocessing:
            raise UsageError(
                "a sample spec as data and a preprocessing spec were both given; one must say what holds",
                where=source.path,
            )
        if not spec.path:
            raise UsageError(
                f"the spec {spec.name!r} says how samples are prepared, not where they lie",
                where=source.path,
                hint=f"name the data itself and use this as its preprocessing: {source.path!r}",
            )
        path = Path(spec.path)
    elif source.preprocessing:
        spec = load_spec(source.preprocessing)
    if not path.exists():
        hint = "name an .npz, an .npy, a table, a folder of images, sounds or arrays, or a .toml sample spec"
        raise UsageError("no such file or folder", where=str(path), hint=hint)
    opened = _opener(path, spec)(path, spec, signature, need_labels=need_labels)
    own = DataSource(path="", count=spec.count, skip=spec.skip, seed=spec.seed) if spec and is_spec else None
    return _build(opened, signature, source, own, where=str(path), digest=spec.digest if spec else "")


def _opener(path: Path, spec: SampleSpec | None) -> Callable[..., Opened]:
    suffix = path.suffix.lower()
    if path.is_dir():
        endings = {p.suffix.lower() for p in path.rglob("*")}
        read = {"images": images.SUFFIXES, "audio": audio.SUFFIXES, "arrays": shards.SUFFIXES}
        openers = {"images": open_images, "audio": open_audio, "arrays": open_shards}
        held = [kind for kind, suffixes in read.items() if endings.intersection(suffixes)]
        if spec is not None and spec.kind == "table":
            raise UsageError("this is a folder, a table is one file: .csv, .tsv or .parquet", where=str(path))
        if spec is not None and (spec.kind in held or not held):
            return openers[spec.kind]
        if not held:
            listed = ", ".join(s[1:] for suffixes in read.values() for s in suffixes)
            raise UsageError("the folder holds no samples", where=str(path), hint=f"read are {listed}")
        return openers[held[0]]
    if suffix in tables.SUFFIXES:
        return open_table
    if suffix not in (".npz", ".npy"):
        raise UsageError(
            f"samples cannot be read from a file with the ending {path.suffix!r}",
            where=str(path),
            hint="give an .npz, an .npy, a .csv or .parquet table, a folder of images, sounds or arrays, or "
            "a .toml sample spec",
        )
    return open_arrays


def samples_from_arrays(
    arrays: Mapping[str, ArrayLike], labels: ArrayLike | None = None, *, signature: Signature | None = None
) -> Samples:
    """Samples from arrays in memory: input name -> [n, *sample shape]; `labels` [n, ...].

    With `signature` they are checked as those of a file are. Raises `UsageError`.
    """
    rows = {name: MemoryRows(np.asarray(value)) for name, value in arrays.items()}
    where = "arrays in memory"
    scalars = [f"array {name!r} is a single value" for name, value in rows.items() if not value.shape]
    if scalars or not rows:
        raise UsageError("the first axis of an array must count samples", where=where, problems=scalars)
    if signature is None:
        signature = Signature(
            inputs=tuple(
                TensorSpec(name=name, dtype=r.dtype.name, shape=("", *r.shape[1:]))
                for name, r in rows.items()
            ),
            outputs=(),
        )
    check_signature(signature, where=where, rows=rows)
    label_rows = None if labels is None else MemoryRows(np.asarray(labels))
    opened = Opened(rows=rows, labels=label_rows, text=where)
    return _build(opened, signature, DataSource(path=""), None, where=where)


def samples_from_iterable(
    batches: Iterable[Mapping[str, ArrayLike]], *, labels: str = "", signature: Signature | None = None
) -> Samples:
    """Samples from an iterable of batches, each a mapping of input name -> [n, *sample shape].

    `labels` names the key that holds the labels ("": none). The iterable is read once, into memory: use an
    .npz or a folder for data larger than that. Raises `UsageError`.
    """
    parts: dict[str, list[NDArray[Any]]] = {}
    names: set[str] | None = None
    for i, batch in enumerate(batches):
        if names is not None and set(batch) != names:
            raise UsageError(f"batch {i} has arrays {sorted(batch)}, the first one had {sorted(names)}")
        names = set(batch)
        for name, value in batch.items():
            parts.setdefault(name, []).append(np.asarray(value))
    if not parts:
        raise UsageError("the set of samples is empty", where="iterable of batches")
    try:
        arrays = {name: np.concatenate(values) for name, values in parts.items()}
    except ValueError as err:
        raise UsageError(f"the batches do not fit together: {err}", where="iterable of batches") from err
    if labels and labels not in arrays:
        raise UsageError(f"no array {labels!r} for the labels; {nearest(labels, arrays)}")
    return samples_from_arrays(arrays, arrays.pop(labels) if labels else None, signature=signature)


def _is_spec(path: str) -> bool:
    return path.endswith(".toml") or (not Path(path).exists() and "/" not in path and not Path(path).suffix)


def _build(
    opened: Opened, signature: Signature, source: DataSource, own: DataSource | None, *, where: str,
    digest: str = "",
) -> Samples:  # fmt: skip
    """`own` is the selection of a spec that names its data, which `digest` is of; `source` selects within."""
    check_inputs(opened.rows, opened.labels, signature, where=where)
    order = np.arange(next(iter(opened.rows.values())).shape[0], dtype=np.int64)
    samples = Samples(
        specs=signature.inputs, rows=opened.rows, labels=opened.labels, order=order, where=where, spec="",
        notes=opened.notes,
    )  # fmt: skip
    text = opened.text
    for chosen in filter(None, (own, source)):
        count, skip, seed = chosen.count, chosen.skip, chosen.seed
        order = order[select_rows(len(order), count=count, skip=skip, seed=seed, where=where)]
        samples = replace(samples, order=order)
        if chosen is own and digest:
            _verify(samples, digest)
        if chosen != DataSource(path=chosen.path, preprocessing=chosen.preprocessing):
            shuffled = f"shuffled by seed {chosen.seed}, " if chosen.seed >= 0 else ""
            text += f"; {shuffled}skip {chosen.skip}, take {len(order)}"
    return replace(samples, spec=f"{where}: {text}")


def _verify(samples: Samples, digest: str) -> None:
    found = samples.fingerprint
    if found != digest:
        raise UsageError(
            "the samples are not those that the spec was written for",
            where=samples.where,
            problems=[f"digest: {digest} is wanted, they have {found}"],
            hint="files, labels, preparation or selection changed: restore them, or put the new digest into "
            "the spec",
        )
