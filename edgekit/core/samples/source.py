"""From a `DataSource` and a model's signature to samples: every mismatch is found before the first batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgekit.core.model import Signature, TensorSpec
from edgekit.core.recipe import DataSource
from edgekit.core.samples.arrays import ConvertedRows, MemoryRows, Rows, open_npy, open_npz
from edgekit.core.samples.check import check_inputs, check_signature
from edgekit.core.samples.images import ImageRows, decode_image, image_labels, list_images
from edgekit.core.samples.spec import ArrayOptions, ImageOptions, SampleSpec, load_spec
from edgekit.core.samples.stream import Samples, select_rows
from edgekit.errors import UsageError, nearest

__all__ = ["LABEL_NAMES", "open_samples", "samples_from_arrays", "samples_from_iterable"]

LABEL_NAMES = ("labels", "label", "y")
_EVERYTHING = DataSource(path="")


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
        hint = "name an .npz, an .npy, a folder of images or a .toml sample spec"
        raise UsageError("no such file or folder", where=str(path), hint=hint)
    if path.is_dir():
        check_signature(signature, where=source.path)
        return _from_images(path, spec, source, signature, is_spec=is_spec, need_labels=need_labels)
    return _from_arrays(path, spec, source, signature, is_spec=is_spec, need_labels=need_labels)


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
    return _build(rows, label_rows, signature, (_EVERYTHING,), where=where, text=where, notes=())


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


def _from_images(
    folder: Path, spec: SampleSpec | None, source: DataSource, signature: Signature, *, is_spec: bool,
    need_labels: bool,
) -> Samples:
    where = str(folder)
    if spec is None or spec.image is None:
        got = f"; {spec.name!r} prepares arrays" if spec else ""
        raise UsageError(
            f"a folder of images needs a preprocessing spec (size, colour order, mean, std){got}",
            where=where,
            hint="name a shipped one (imagenet-tf) or a .toml of your own: calibration/README.md",
        )
    if len(signature.inputs) != 1:
        names = ", ".join(repr(s.name) for s in signature.inputs)
        raise UsageError(
            f"images feed one input, the model has {len(signature.inputs)}: {names}",
            where=where,
            hint="save the prepared arrays of all inputs in one .npz",
        )
    images, others = list_images(folder)
    labels, text = None, ""
    if need_labels or (folder / spec.labels.file).is_file():
        values, text = image_labels(folder, images, spec.labels)
        labels = MemoryRows(values)
    size = _image_size(folder, images, spec.image)
    rows = ImageRows(folder=folder, images=images, options=spec.image, size=size)
    notes = (f"{others} file(s) of the folder are no images that edgekit reads",) if others else ()
    line = f"{len(images)} images, {_image_text(spec.image)}{', ' + text if text else ''}"
    return _build(
        {signature.inputs[0].name: rows}, labels, signature, _selections(spec, source, is_spec=is_spec),
        where=where, text=line, notes=notes,
    )


def _image_size(folder: Path, images: tuple[str, ...], options: ImageOptions) -> tuple[int, int]:
    try:
        sample = decode_image(folder / images[0], options)
    except UsageError as err:
        raise UsageError(err.message, where=str(folder / images[0]), hint=err.hint) from err
    h, w = sample.shape[1:] if options.layout == "nchw" else sample.shape[:2]
    return h, w


def _from_arrays(
    path: Path, spec: SampleSpec | None, source: DataSource, signature: Signature, *, is_spec: bool,
    need_labels: bool,
) -> Samples:
    where = str(path)
    if path.suffix not in (".npz", ".npy"):
        raise UsageError(
            f"samples cannot be read from a file with the ending {path.suffix!r}",
            where=where,
            hint="give an .npz, an .npy, a folder of images, or a .toml sample spec",
        )
    if spec is not None and spec.kind != "arrays":
        raise UsageError(f"the spec {spec.name!r} prepares images, this is a file of arrays", where=where)
    notes: list[str] = []
    labels = None
    try:
        found = dict(open_npz(path)) if path.suffix == ".npz" else {}
    except UsageError:
        check_signature(signature, where=where)
        raise
    check_signature(signature, where=where, rows=found)
    if path.suffix == ".npy":
        if len(signature.inputs) != 1:
            raise UsageError(
                f"an .npy feeds one input, the model has {len(signature.inputs)}",
                where=where,
                hint="save all of them, by name, in one .npz",
            )
        rows = {signature.inputs[0].name: open_npy(path)}
    else:
        rows, labels = _named(found, signature, where, notes)
    if need_labels and labels is None:
        raise UsageError(
            "the metric needs labels and the file holds none",
            where=where,
            hint=f"save them in the .npz as {LABEL_NAMES[0]!r}, one a sample",
        )
    if spec is not None and spec.array is not None:
        rows = _converted(rows, spec.array, where)
    text = "arrays " + ", ".join(f"{name} {list(r.shape)} {r.dtype}" for name, r in rows.items())
    if spec is not None and spec.array is not None:
        a = spec.array
        text += f", (value * {a.scale:g} - {a.mean:g}) / {a.std:g}"
    return _build(
        rows, labels, signature, _selections(spec, source, is_spec=is_spec),
        where=where, text=text, notes=tuple(notes),
    )


def _named(
    found: dict[str, Rows], signature: Signature, where: str, notes: list[str]
) -> tuple[dict[str, Rows], Rows | None]:
    inputs = [spec.name for spec in signature.inputs]
    label_names = [name for name in LABEL_NAMES if name in found and name not in inputs]
    problems = []
    if len(label_names) > 1:
        problems.append(f"{' and '.join(map(repr, label_names))} both look like labels: keep one")
    labels = found[label_names[0]] if label_names else None
    data = {name: rows for name, rows in found.items() if name not in label_names}
    if len(inputs) == 1 and len(data) == 1 and inputs[0] not in data:
        ((name, rows),) = data.items()
        notes.append(f"the only data array, {name!r}, was taken for the only input, {inputs[0]!r}")
        data = {inputs[0]: rows}
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
    return {name: data[name] for name in inputs}, labels


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


def _selections(spec: SampleSpec | None, source: DataSource, *, is_spec: bool) -> tuple[DataSource, ...]:
    """The selection of a spec that names its own data, then that of the source within it."""
    if spec is None or not is_spec:
        return (source,)
    return (DataSource(path="", count=spec.count, skip=spec.skip, seed=spec.seed), source)


def _build(
    rows: Mapping[str, Rows], labels: Rows | None, signature: Signature,
    selections: tuple[DataSource, ...], *, where: str, text: str, notes: tuple[str, ...],
) -> Samples:
    check_inputs(rows, labels, signature, where=where)
    order = np.arange(next(iter(rows.values())).shape[0], dtype=np.int64)
    for chosen in selections:
        count, skip, seed = chosen.count, chosen.skip, chosen.seed
        order = order[select_rows(len(order), count=count, skip=skip, seed=seed, where=where)]
        if chosen != DataSource(path=chosen.path, preprocessing=chosen.preprocessing):
            shuffled = f"shuffled by seed {chosen.seed}, " if chosen.seed >= 0 else ""
            text += f"; {shuffled}skip {chosen.skip}, take {len(order)}"
    return Samples(
        specs=signature.inputs, rows=rows, labels=labels, order=order, where=where, spec=f"{where}: {text}",
        notes=notes,
    )


def _image_text(options: ImageOptions) -> str:
    steps: list[str] = [options.color]
    if options.resize:
        steps.append(f"resized to {options.resize} ({options.resample})")
    if options.center_crop:
        steps.append(f"centre crop {options.center_crop}")
    if options.dtype == "float32":
        steps.append(f"(pixel * {options.scale:g} - {options.mean}) / {options.std}")
    return ", ".join([*steps, options.layout, options.dtype])
