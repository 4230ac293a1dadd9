"""Batches for training: several sources of samples mixed, some held out, each step's batch by its number."""

from __future__ import annotations

import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.model import Signature
from edgekit.core.samples import Samples, open_samples, samples_from_arrays
from edgekit.core.training import TrainingOptions
from edgekit.errors import UsageError, nearest

__all__ = ["ArrayBatch", "Augment", "TrainingData", "load_augmentation", "training_data", "training_data_of"]

Arrays = dict[str, NDArray[Any]]
Augment = Callable[[Arrays, NDArray[Any] | None, np.random.Generator], tuple[Arrays, NDArray[Any] | None]]
_JUDGED_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayBatch:
    """`inputs` by name, each [n, ...]; `labels` [m, ...] of the m samples that `labelled` [n] marks."""

    inputs: Arrays
    labels: NDArray[Any] | None
    labelled: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What training sees: `parts` with what each gives to a batch, and `validation` (None: nothing held out).

    Which samples a step sees follows from the seed and the step's number alone, so that a run that is resumed
    goes on as if it had never stopped.
    """

    parts: tuple[Samples, ...]
    sizes: tuple[int, ...]
    validation: tuple[Samples, ...]
    seed: int
    augment: Augment | None = None

    @property
    def steps_per_epoch(self) -> int:
        """How many batches the part gives that takes most: the others go round as often as they must."""
        return max(p.count // size for p, size in zip(self.parts, self.sizes, strict=True))

    @property
    def has_labels(self) -> bool:
        """Whether some samples carry labels."""
        return any(p.has_labels for p in self.parts)

    @property
    def digest(self) -> str:
        """What decides all samples."""
        return ",".join(s.digest for s in (*self.parts, *self.validation))

    def labels(self) -> NDArray[Any] | None:
        """All labels, of training and validation, one part after another; None where there are none."""
        held = [s.labels.read(s.order) for s in (*self.parts, *self.validation) if s.labels is not None]
        return np.concatenate(held) if held else None

    def batch(self, step: int) -> ArrayBatch:
        """The batch of this step, counted from 0 over all epochs. Raises `UsageError` for bad samples."""
        pieces = [self._piece(i, step) for i in range(len(self.parts))]
        names = self.parts[0].names
        inputs = {name: np.concatenate([p.inputs[name] for p in pieces]) for name in names}
        labels = [p.labels for p in pieces if p.labels is not None]
        return ArrayBatch(
            inputs=inputs,
            labels=np.concatenate(labels) if labels else None,
            labelled=np.concatenate([p.labelled for p in pieces]),
        )

    def judged(self) -> Iterator[ArrayBatch]:
        """The validation samples in their order, as they are."""
        for part in self.validation:
            for batch in part.batches(_JUDGED_AT_ONCE):
                marked = np.full(len(batch), batch.labels is not None)
                yield ArrayBatch(inputs=dict(batch.inputs), labels=batch.labels, labelled=marked)

    def _piece(self, number: int, step: int) -> ArrayBatch:
        part, size = self.parts[number], self.sizes[number]
        turn, place = divmod(step, part.count // size)
        order = np.random.default_rng([self.seed, number, turn]).permutation(part.count)
        rows = part.order[order[place * size : (place + 1) * size]]
        batch = next(replace(part, order=rows).batches(size))
        inputs, labels = dict(batch.inputs), batch.labels
        if self.augment is not None:
            rng = np.random.default_rng([self.seed, 1, number, step])
            inputs, labels = self._augmented(inputs, labels, rng)
        return ArrayBatch(inputs=inputs, labels=labels, labelled=np.full(size, labels is not None))

    def _augmented(
        self, inputs: Arrays, labels: NDArray[Any] | None, rng: np.random.Generator
    ) -> tuple[Arrays, NDArray[Any] | None]:
        assert self.augment is not None
        given = {name: value.copy() for name, value in inputs.items()}
        try:
            answer = self.augment(given, None if labels is None else labels.copy(), rng)
            made, new = answer
            changed = {name: np.asarray(value) for name, value in made.items()}
        except Exception as err:  # the user's own code: whatever it raises is for them to see
            traceback.print_exc()
            raise UsageError(f"the augmentation failed: {type(err).__name__}: {err}") from err
        problems = [
            f"{name!r}: {_kind(inputs.get(name))} became {_kind(changed.get(name))}"
            for name in {*inputs, *changed}
            if _kind(inputs.get(name)) != _kind(changed.get(name))
        ]
        problems += [f"{n!r} holds NaN or infinity" for n, v in changed.items() if not _is_finite(v)]
        if (labels is None) != (new is None) or (labels is not None and len(np.asarray(new)) != len(labels)):
            problems.append(f"labels: {_kind(labels)} became {_kind(new)}")
        if problems:
            raise UsageError(
                "the augmentation must keep names, shapes, dtypes and the number of labels", problems=problems
            )
        return changed, None if new is None else np.asarray(new)


def training_data(options: TrainingOptions, signature: Signature, *, need_labels: bool) -> TrainingData:
    """The data that `options` name, for the inputs of `signature`.

    With `need_labels` at least one source must carry labels. Raises `UsageError`.
    """
    parts = [open_samples(source, signature) for source in options.data]
    if need_labels and not any(p.has_labels for p in parts):
        parts = [open_samples(source, signature, need_labels=True) for source in options.data]
    held: tuple[Samples, ...] = ()
    if options.validation is not None:
        held = (open_samples(options.validation, signature, need_labels=need_labels),)
    return _split(parts, held, options)


def training_data_of(
    inputs: Mapping[str, Any], labels: Any = None, *, options: TrainingOptions, validation: Any = None
) -> TrainingData:
    """The data in arrays: input name -> [n, ...] and labels [n, ...]; `validation` as (inputs, labels)."""
    held = () if validation is None else (samples_from_arrays(*validation),)
    return _split([samples_from_arrays(inputs, labels)], held, options)


def _split(parts: Sequence[Samples], held: tuple[Samples, ...], options: TrainingOptions) -> TrainingData:
    if not held and options.held_out:
        cut = [_held_out(part, options) for part in parts]
        parts, held = [kept for kept, _ in cut], tuple(out for _, out in cut)
        if any(p.has_labels for p in parts):  # those without labels cannot be judged by a metric of labels
            held = tuple(h for h in held if h.has_labels)
    counts = [p.count for p in parts]
    total, problems = sum(counts), []
    if not options.shares and options.batch_size > total:
        problems.append(
            f"batch_size: got {options.batch_size}, there are {total} samples to train on; lower it"
        )
    sizes = _sizes(options, counts)
    problems += [
        f"source {i + 1} would give {size} samples to a batch and has {count}"
        for i, (size, count) in enumerate(zip(sizes, counts, strict=True))
        if size > count and total >= options.batch_size
    ]
    problems += [f"source {i + 1} would give no sample to a batch of {options.batch_size}"
                 for i, size in enumerate(sizes) if size < 1]  # fmt: skip
    if problems:
        raise UsageError("training cannot draw its batches", where=parts[0].where, problems=problems)
    augment = load_augmentation(options.augmentation) if options.augmentation else None
    return TrainingData(
        parts=tuple(parts), sizes=sizes, validation=held, seed=options.seed, augment=augment
    )


def _sizes(options: TrainingOptions, counts: Sequence[int]) -> tuple[int, ...]:
    """How many samples of each source a batch holds: whole numbers that add up, nearest to the shares."""
    shares = options.shares or tuple(count / sum(counts) for count in counts)
    exact = [share * options.batch_size for share in shares]
    sizes = [math.floor(e) for e in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (sizes[i] - exact[i], i))
    for i in by_rest[: options.batch_size - sum(sizes)]:
        sizes[i] += 1
    return tuple(sizes)


def _held_out(part: Samples, options: TrainingOptions) -> tuple[Samples, Samples]:
    count = round(part.count * options.held_out)
    if count < 1 or count >= part.count:
        raise UsageError(
            f"held_out: {options.held_out:g} of {part.count} samples leaves none for training or validation",
            where=part.where,
            hint="give more samples, another share, or validation samples of their own",
        )
    order = np.random.default_rng([options.seed, 2]).permutation(part.count)
    kept, out = np.sort(order[count:]), np.sort(order[:count])
    return replace(part, order=part.order[kept]), replace(part, order=part.order[out])


def load_augmentation(place: str) -> Augment:
    """The function that "file.py:function" names; a Python file is trusted by being named.

    Raises `UsageError` for a file that is missing or fails, or has no such function.
    """
    file, _, name = place.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"augmentation: there is no file {file!r}", hint="write file.py:function")
    spec = importlib.util.spec_from_file_location(f"edgekit_augmentation_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError("this file cannot be imported as Python", where=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as err:  # the user's own code, again
        traceback.print_exc()
        raise UsageError(f"importing it raised {type(err).__name__}: {err}", where=file) from err
    found = getattr(module, name, None)
    if not callable(found):
        own = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UsageError(f"{path.name} has no function {name!r}; {nearest(name, own)}", where=file)
    function: Augment = found
    return function


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{np.asarray(value).dtype}{list(np.shape(value))}"


def _is_finite(value: NDArray[Any]) -> bool:
    return value.dtype.kind != "f" or bool(np.isfinite(value).all())
