"""One function for each kind of source: what its inputs and labels are fed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.samples import audio, images, shards
from edgekit.core.samples.arrays import ConvertedRows, MemoryRows, Rows, open_npy, open_npz
from edgekit.core.samples.check import check_signature
from edgekit.core.samples.folders import file_labels, list_files
from edgekit.core.samples.images import ImageRows, decode_image
from edgekit.core.samples.spec import ArrayOptions, ImageOptions, SampleSpec, TableOptions
from edgekit.core.samples.tables import table_rows
from edgekit.errors import UsageError, nearest

__all__ = ["LABEL_NAMES", "Opened", "open_arrays", "open_audio", "open_images", "open_shards", "open_table"]

LABEL_NAMES = ("labels", "label", "y")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Rows for every input, labels (None: there are none), a phrase for the report, and what was assumed."""

    rows: Mapping[str, Rows]
    labels: Rows | None
    text: str
    notes: tuple[str, ...] = ()


def open_images(folder: Path, spec: SampleSpec | None, signature: Signature, *, need_labels: bool) -> Opened:
    """Pictures, decoded when they are read. One is decoded now: for the size, and to find a wrong spec."""
    where = str(folder)
    check_signature(signature, where=where)
    if spec is None or spec.image is None:
        got = f"; {spec.name!r} prepares {spec.kind}" if spec else ""
        raise UsageError(
            f"a folder of images needs a preprocessing spec (size, colour order, mean, std){got}",
            where=where,
            hint="name a shipped one (imagenet-tf) or a .toml of your own: calibration/README.md",
        )
    only = _only_input(signature, where, "images feed")
    names, others = list_files(folder, images.SUFFIXES, "image")
    labels, text = _of_files(folder, names, spec, "image", need_labels=need_labels)
    rows = ImageRows(
        folder=folder, images=names, options=spec.image, size=_image_size(folder, names, spec.image)
    )
    notes = (f"{others} file(s) of the folder are no images that edgekit reads",) if others else ()
    line = f"{len(names)} images, {_image_text(spec.image)}{text}"
    return Opened(rows={only.name: rows}, labels=labels, text=line, notes=notes)


def open_audio(folder: Path, spec: SampleSpec | None, signature: Signature, *, need_labels: bool) -> Opened:
    """Windows of the WAV files of a folder."""
    where = str(folder)
    check_signature(signature, where=where)
    if spec is None or spec.audio is None:
        got = f"; {spec.name!r} prepares {spec.kind}" if spec else ""
        raise UsageError(
            f"a folder of sounds needs a preprocessing spec of kind 'audio' (rate, window){got}",
            where=where,
            hint="write one in a .toml file: calibration/README.md",
        )
    only = _only_input(signature, where, "sounds feed")
    names, _ = list_files(folder, audio.SUFFIXES, "sound")
    shape = tuple(d for d in only.shape[1:] if isinstance(d, int))
    fixed = shape if len(shape) == len(only.shape) - 1 else None
    rows, short = audio.cut_windows(folder, names, spec.audio, fixed)
    labels, text = _of_files(folder, names, spec, "sound", need_labels=need_labels)
    if labels is not None:
        labels = MemoryRows(labels.read(rows.file_of))
    notes = (f"{short} file(s) are shorter than a window and were passed over",) if short else ()
    a = spec.audio
    line = f"{len(rows.file_of)} windows of {a.window} at {a.rate} Hz, {len(names)} files, {a.channels}{text}"
    return Opened(rows={only.name: rows}, labels=labels, text=line, notes=notes)


def open_table(path: Path, spec: SampleSpec | None, signature: Signature, *, need_labels: bool) -> Opened:
    """Rows of a CSV or Parquet file; their values are checked as they are read."""
    check_signature(signature, where=str(path))
    if spec is not None and spec.kind != "table":
        raise UsageError(f"the spec {spec.name!r} prepares {spec.kind}, this is a table", where=str(path))
    options = (spec.table if spec is not None else None) or TableOptions()
    rows, labels, text = table_rows(path, options, signature, LABEL_NAMES)
    if need_labels and labels is None:
        raise UsageError(
            "the metric needs labels and the table has no column of that name",
            where=str(path),
            hint=f"name a column {LABEL_NAMES[0]!r}, or say which it is by label = ... in [table] of a spec",
        )
    return Opened(rows=rows, labels=labels, text=text)


def open_arrays(path: Path, spec: SampleSpec | None, signature: Signature, *, need_labels: bool) -> Opened:
    """The arrays of one .npz or .npy file."""
    where = str(path)
    options = _array_options(spec, where)
    notes: list[str] = []
    labels = None
    try:
        found = dict(open_npz(path)) if path.suffix == ".npz" else {}
    except UsageError:
        check_signature(signature, where=where)
        raise
    check_signature(signature, where=where, rows=found)
    if path.suffix == ".npy":
        rows = {_only_input(signature, where, "an .npy feeds").name: open_npy(path)}
    else:
        keys, label = _matched(found, signature, where, notes)
        rows, labels = {name: found[key] for name, key in keys.items()}, found.get(label)
    if need_labels and labels is None:
        raise UsageError(
            "the metric needs labels and the file holds none",
            where=where,
            hint=f"save them in the .npz as {LABEL_NAMES[0]!r}, one a sample; without labels, "
            "--metric mse compares with the source's own answers",
        )
    return _prepared(rows, labels, options, where, notes)


def open_shards(folder: Path, spec: SampleSpec | None, signature: Signature, *, need_labels: bool) -> Opened:
    """The arrays of a folder of .npz or .npy files, one sample or several in each."""
    where = str(folder)
    options = _array_options(spec, where)
    check_signature(signature, where=where)
    names, others = list_files(folder, shards.SUFFIXES, "array file")
    notes = [f"{others} file(s) of the folder are no arrays"] if others else []
    first = shards.first_arrays(folder, names)
    keys, label = {"": ""}, ""
    if set(first) == {""}:
        keys = {_only_input(signature, where, ".npy files feed").name: ""}
    else:
        keys, label = _matched(first, signature, where, notes)
    wanted = {spec.name: spec for spec in signature.inputs}
    reshaped = options is not None and options.reshape
    single = not reshaped and all(len(first[k].shape) == len(wanted[n].shape) - 1 for n, k in keys.items())
    found = shards.open_shards(folder, names, label=label, single=single)
    labels: Rows | None = found.get(label) if label else None
    text = ""
    if labels is None and (need_labels or (spec is not None and (folder / spec.labels.file).is_file())):
        labels, text = _of_files(folder, names, spec, "array file", need_labels=need_labels)
        counted = next(iter(found.values())).starts
        if labels is not None:
            labels = MemoryRows(labels.read(np.repeat(np.arange(len(names)), np.diff(counted))))
    rows = {name: found[key] for name, key in keys.items()}
    opened = _prepared(rows, labels, options, where, notes)
    return Opened(
        rows=opened.rows, labels=labels, text=f"{len(names)} files, {opened.text}{text}", notes=opened.notes
    )


def _of_files(
    folder: Path, names: tuple[str, ...], spec: SampleSpec | None, what: str, *, need_labels: bool
) -> tuple[Rows | None, str]:
    """One label a file where they are needed or a table gives them, and a phrase that says from where."""
    options = (spec or SampleSpec(schema=1, name="", kind="arrays")).labels
    if not need_labels and not (folder / options.file).is_file():
        return None, ""
    values, text = file_labels(folder, names, options, what)
    return MemoryRows(values), f", {text}"


def _only_input(signature: Signature, where: str, what: str) -> TensorSpec:
    if len(signature.inputs) != 1:
        names = ", ".join(repr(s.name) for s in signature.inputs)
        raise UsageError(
            f"{what} one input, the model has {len(signature.inputs)}: {names}",
            where=where,
            hint="save the prepared arrays of all inputs, by name, in one .npz",
        )
    return signature.inputs[0]


def _image_size(folder: Path, names: tuple[str, ...], options: ImageOptions) -> tuple[int, int]:
    try:
        sample = decode_image(folder / names[0], options)
    except UsageError as err:
        raise UsageError(err.message, where=str(folder / names[0]), hint=err.hint) from err
    h, w = sample.shape[1:] if options.layout == "nchw" else sample.shape[:2]
    return h, w


def _array_options(spec: SampleSpec | None, where: str) -> ArrayOptions | None:
    if spec is not None and spec.kind != "arrays":
        raise UsageError(f"the spec {spec.name!r} prepares {spec.kind}, these are arrays", where=where)
    return spec.array if spec is not None else None


def _matched(
    found: Iterable[str], signature: Signature, where: str, notes: list[str]
) -> tuple[dict[str, str], str]:
    """Input -> array, and the array of the labels ("": none). Arrays "0", "1", ... are taken by position."""
    inputs, names = [spec.name for spec in signature.inputs], list(found)
    if _numbered(names) and not set(names) & set(inputs) and len(names) in (len(inputs), len(inputs) + 1):
        ordered = sorted(names, key=int)
        label = ordered[len(inputs)] if len(ordered) > len(inputs) else ""
        return dict(zip(inputs, ordered, strict=False)), label
    label_names = [name for name in LABEL_NAMES if name in names and name not in inputs]
    problems = []
    if len(label_names) > 1:
        problems.append(f"{' and '.join(map(repr, label_names))} both look like labels: keep one")
    data = {name: name for name in names if name not in label_names}
    if len(inputs) == 1 and len(data) == 1 and inputs[0] not in data:
        (name,) = data
        notes.append(f"the only data array, {name!r}, was taken for the only input, {inputs[0]!r}")
        data = {inputs[0]: name}
    for name in data:
        if name not in inputs:
            problems.append(f"array {name!r} is no input of the model; {nearest(name, inputs)}")
    problems += [f"no array for the input {name!r}" for name in inputs if name not in data]
    if problems:
        raise UsageError(
            "the arrays do not go with the model",
            where=where,
            problems=problems,
            hint=f"the inputs are {', '.join(map(str, signature.inputs))}; labels are named "
            f"{', '.join(map(repr, LABEL_NAMES))}",
        )
    return {name: data[name] for name in inputs}, label_names[0] if label_names else ""


def _numbered(names: list[str]) -> bool:
    return sorted(names) == sorted(str(i) for i in range(len(names)))


def _prepared(
    rows: Mapping[str, Rows], labels: Rows | None, options: ArrayOptions | None, where: str, notes: list[str]
) -> Opened:
    if options is not None:
        rows = _converted(rows, options, where)
    text = "arrays " + ", ".join(f"{name} {list(r.shape)} {r.dtype}" for name, r in rows.items())
    if options is not None:
        text += f", (value * {options.scale:g} - {options.mean:g}) / {options.std:g}"
    return Opened(rows=rows, labels=labels, text=text, notes=tuple(notes))


def _converted(rows: Mapping[str, Rows], options: ArrayOptions, where: str) -> dict[str, Rows]:
    problems, out = [], dict[str, Rows]()
    for name, source in rows.items():
        shape = options.reshape or source.shape[1:]
        if np.prod(shape, dtype=np.int64) != np.prod(source.shape[1:], dtype=np.int64):
            stored = list(source.shape[1:])
            problems.append(f"array.reshape {list(shape)} does not fit samples of {stored} ({name!r})")
        out[name] = ConvertedRows(
            rows=source, scale=options.scale, mean=options.mean, std=options.std, sample_shape=tuple(shape)
        )
    if problems:
        raise UsageError("the arrays cannot be prepared", where=where, problems=problems)
    return out


def _image_text(options: ImageOptions) -> str:
    steps: list[str] = [options.color]
    if options.resize:
        steps.append(f"resized to {options.resize} ({options.resample})")
    if options.center_crop:
        steps.append(f"centre crop {options.center_crop}")
    if options.dtype == "float32":
        steps.append(f"(pixel * {options.scale:g} - {options.mean}) / {options.std}")
    return ", ".join([*steps, options.layout, options.dtype])
