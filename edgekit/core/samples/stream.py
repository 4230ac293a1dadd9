"""Samples: named arrays in batches, checked as they flow, the same in every process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.model import TensorSpec
from edgekit.core.samples.arrays import Rows, given_whole
from edgekit.errors import UsageError

__all__ = ["Batch", "Samples", "select_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`count` samples: `inputs` by the model's input names, each [count, *sample shape] in the source model's
    layout and dtype, or of the input's own shape when it has no batch axis; `labels` [count, ...] or None."""

    inputs: dict[str, NDArray[Any]]
    labels: NDArray[Any] | None
    count: int

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Named arrays, read in batches; no more than one batch is held.

    `specs` says what the model takes, `rows` where each input comes from, `order` which rows of the source
    in which order. `spec` describes source, preparation and selection in one line for the report; `notes`
    says what was assumed.
    """

    specs: tuple[TensorSpec, ...]
    rows: Mapping[str, Rows]
    labels: Rows | None
    order: NDArray[np.int64]
    where: str
    spec: str
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The input names, in the order of the model."""
        return tuple(spec.name for spec in self.specs)

    @property
    def count(self) -> int:
        """How many samples there are."""
        return len(self.order)

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self.labels is not None

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the samples: stored content, preparation, order, labels; read in pieces.

        Images count by their files' bytes and the options that turn them into samples.
        """
        return self._hashed([spec.name for spec in self.specs])

    @property
    def fingerprint(self) -> str:
        """As `digest`, written "sha256:...", for a sample spec: the name of an only input does not count."""
        names = [spec.name for spec in self.specs]
        return f"sha256:{self._hashed(names if len(names) > 1 else [''])}"

    def _hashed(self, names: Sequence[str]) -> str:
        total = hashlib.sha256()
        for name, spec in zip(names, self.specs, strict=True):
            total.update(f"{name}:{spec.dtype};".encode())
            for piece in self.rows[spec.name].content(self.order):
                total.update(piece)
        if self.labels is not None:
            total.update(b"labels;")
            for piece in self.labels.content(self.order):
                total.update(piece)
        return total.hexdigest()

    @property
    def model_batch(self) -> int:
        """How many samples one call of the model takes: its fixed first dimension, 1 where that is open."""
        return max((_fixed_batch(spec, self.rows[spec.name]) for spec in self.specs), default=1)

    def calls(self) -> Iterator[Batch]:
        """All samples in order, as many at a time as one call of the model takes.

        Raises `UsageError` as `batches` does, and when the number of samples is not a multiple of that.
        """
        size = self.model_batch
        if self.count % size:
            raise UsageError(
                f"the model takes {size} samples at a time, {self.count} are no multiple of that",
                where=self.where,
                hint=f"choose {self.count - self.count % size or size} of them by count, or fix a batch of 1",
            )
        return self.batches(size)

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, `size` at a time; the last batch may be smaller.

        Raises `UsageError` when a batch holds NaN or infinity or whole numbers that do not fit the input, and
        for a size other than 1 when an input has no batch axis.
        """
        if size < 1:
            raise UsageError(f"batch size: got {size!r}, at least 1 is needed")
        if size > 1 and any(given_whole(spec, self.rows[spec.name]) for spec in self.specs):
            raise UsageError(f"batch size: got {size!r}, but an input has no batch axis", where=self.where)
        for start in range(0, self.count, size):
            rows = self.order[start : start + size]
            problems: list[str] = []
            inputs = {spec.name: self._read(spec, rows, problems) for spec in self.specs}
            labels = None if self.labels is None else self.labels.read(rows)
            if labels is not None:
                _check_finite("labels", labels, self.labels, rows, problems)
            if problems:
                raise UsageError("the samples cannot be used", where=self.where, problems=problems)
            yield Batch(inputs=inputs, labels=labels, count=len(rows))

    def _read(self, spec: TensorSpec, rows: NDArray[np.int64], problems: list[str]) -> NDArray[Any]:
        source = self.rows[spec.name]
        stored = source.read(rows)
        wanted = np.dtype(spec.dtype)
        _check_finite(spec.name, stored, source, rows, problems)
        if given_whole(spec, source):
            stored = np.reshape(stored, [int(d) for d in spec.shape])
        if stored.dtype == wanted:
            return stored
        if stored.dtype.kind in "iu" and wanted.kind in "iu":
            _check_range(spec.name, stored, wanted, source, rows, problems)
            return stored.astype(wanted)
        with np.errstate(over="ignore"):
            cast = stored.astype(wanted)
        if not problems:
            _check_finite(f"{spec.name} (as {wanted})", cast, source, rows, problems)
        return cast


def _fixed_batch(spec: TensorSpec, rows: Rows) -> int:
    first = spec.shape[0] if spec.shape and not given_whole(spec, rows) else 1
    return first if isinstance(first, int) else 1


def select_rows(available: int, *, count: int, skip: int, seed: int, where: str) -> NDArray[np.int64]:
    """Row numbers: shuffle by `numpy.random.default_rng(seed).permutation`, skip, take count.

    seed -1 keeps the order; count 0 takes all. Raises `UsageError` when there are not that many.
    """
    problems = [
        f"{name}: got {value!r}, at least {low} is needed"
        for name, value, low in (("count", count, 0), ("skip", skip, 0), ("seed", seed, -1))
        if value < low
    ]
    if problems:
        raise UsageError("the selection of samples is out of range", where=where, problems=problems)
    if available == 0:
        raise UsageError("the set of samples is empty", where=where)
    if skip + count > available or skip >= available:
        wanted = f"skip {skip} and count {count}" if skip else f"count {count}"
        left = available - skip
        raise UsageError(
            f"not enough samples: {wanted} need {skip + max(count, 1)}, the source has {available}",
            where=where,
            hint=f"ask for at most {left}" if left > 0 else f"skip fewer than {available}",
        )
    order = np.arange(available) if seed < 0 else np.random.default_rng(seed).permutation(available)
    return order[skip : skip + count if count else None].astype(np.int64)


def _check_finite(
    name: str, values: NDArray[Any], source: Rows | None, rows: NDArray[np.int64], problems: list[str]
) -> None:
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return
    bad = ~np.isfinite(values.reshape(len(values), -1))
    first = int(np.argmax(bad.any(axis=1)))
    kind = "NaN" if np.isnan(values[first]).any() else "infinity"
    place = source.describe(int(rows[first])) if source is not None else f"sample {int(rows[first])}"
    problems.append(f"{name!r} holds {kind}: {int(bad[first].sum())} value(s) in {place}, the first such")


def _check_range(
    name: str, values: NDArray[Any], wanted: np.dtype[Any], source: Rows, rows: NDArray[np.int64],
    problems: list[str],
) -> None:
    limits = np.iinfo(wanted)
    bad = ((values < limits.min) | (values > limits.max)).reshape(len(values), -1)
    if bad.any():
        first = int(np.argmax(bad.any(axis=1)))
        value = values.reshape(len(values), -1)[first][int(np.argmax(bad[first]))]
        problems.append(
            f"{name!r} holds {value} in {source.describe(int(rows[first]))}: {wanted} goes from {limits.min} "
            f"to {limits.max}"
        )
