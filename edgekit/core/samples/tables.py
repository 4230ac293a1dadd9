"""Tables of features: CSV by the standard library, Parquet by pyarrow. Rows are read where they lie.

Of a CSV file the places of its rows are kept, 8 bytes each, of a Parquet file one row group at a time: memory
does not grow with the values.
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgekit.core.model import Signature
from edgekit.core.packages import require
from edgekit.core.samples.arrays import Rows
from edgekit.core.samples.spec import TableOptions
from edgekit.errors import UsageError, nearest

__all__ = ["SUFFIXES", "open_table", "table_rows"]

SUFFIXES = (".csv", ".tsv", ".parquet")
_MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
_MOST_PROBLEMS = 10
_EXACT = 2**53  # whole numbers up to here are exact in float64

Floats = NDArray[np.float64]


class Table(Protocol):
    """A table with named columns of numbers."""

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def count(self) -> int: ...

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Floats:
        """[len(rows), len(columns)]. Raises `UsageError` for what is missing or no number."""

    def describe(self, row: int) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Csv:
    path: Path
    delimiter: str
    columns: tuple[str, ...]
    offsets: array[int]
    lines: array[int]

    @property
    def count(self) -> int:
        return len(self.offsets)

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Floats:
        places = [self.columns.index(name) for name in columns]
        out = np.empty((len(rows), len(places)), np.float64)
        problems: list[str] = []
        with self.path.open("rb") as stream:
            for target, row in zip(out, rows.tolist(), strict=True):
                stream.seek(self.offsets[row])
                record = next(csv.reader(_decoded(stream), delimiter=self.delimiter), [])
                for i, place in enumerate(places):
                    target[i] = self._number(record, place, row, problems)
        _refuse(problems, self.path)
        return out

    def _number(self, record: list[str], place: int, row: int, problems: list[str]) -> float:
        text = record[place].strip() if place < len(record) else ""
        try:
            return float(text) if text.lower() not in _MISSING else self._bad("", row, place, problems)
        except ValueError:
            return self._bad(text, row, place, problems)

    def _bad(self, text: str, row: int, place: int, problems: list[str]) -> float:
        what = f"{text!r} is no number" if text else "the value is missing"
        problems.append(f"line {self.lines[row]}, column {self.columns[place]!r}: {what}")
        return 0.0

    def describe(self, row: int) -> str:
        return f"line {self.lines[row]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parquet:
    path: Path
    columns: tuple[str, ...]
    starts: NDArray[np.int64]  # of the row groups, and the number of rows
    held: dict[tuple[int, tuple[str, ...]], Floats] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return int(self.starts[-1])

    def read(self, rows: NDArray[np.int64], columns: Sequence[str]) -> Floats:
        out = np.empty((len(rows), len(columns)), np.float64)
        groups = np.searchsorted(self.starts, rows, side="right") - 1
        for group in np.unique(groups):
            mine = groups == group
            out[mine] = self._group(int(group), tuple(columns))[rows[mine] - self.starts[group]]
        return out

    def _group(self, group: int, columns: tuple[str, ...]) -> Floats:
        key = (group, columns)
        if key not in self.held:
            for old in [k for k in self.held if k[1] == columns]:
                del self.held[old]
            self.held[key] = self._load(group, columns)
        return self.held[key]

    def _load(self, group: int, columns: tuple[str, ...]) -> Floats:
        parquet = require("pyarrow.parquet", needed_for="reading Parquet files")
        problems: list[str] = []
        with parquet.ParquetFile(self.path) as file:
            table = file.read_row_group(group, columns=list(columns))
        out = np.empty((table.num_rows, len(columns)), np.float64)
        for i, name in enumerate(columns):
            column = table.column(name)
            if column.null_count:
                first = int(np.argmax(column.is_null().to_numpy())) + int(self.starts[group])
                problems.append(f"row {first}, column {name!r}: the value is missing")
                continue
            try:
                out[:, i] = column.to_numpy()
            except (ValueError, TypeError):
                problems.append(f"column {name!r} holds {column.type}, numbers are needed")
        _refuse(problems, self.path)
        return out

    def describe(self, row: int) -> str:
        return f"row {row}"


def open_table(path: Path, delimiter: str) -> Table:
    """A CSV file with a line of column names, or a Parquet file. Raises `UsageError` when it is neither."""
    if not path.is_file():
        raise UsageError("no such file", where=str(path))
    table = _open_parquet(path) if path.suffix == ".parquet" else _open_csv(path, delimiter)
    unnamed = [i for i, name in enumerate(table.columns, start=1) if not name]
    if unnamed:
        raise UsageError(
            f"column {unnamed[0]} has no name",
            where=str(path),
            hint="is it an index? pandas leaves it out with index=False",
        )
    twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
    if twice:
        raise UsageError(f"two columns are named {twice[0]!r}", where=str(path))
    return table


def _open_csv(path: Path, delimiter: str) -> _Csv:
    if delimiter == "":
        delimiter = "\t" if path.suffix == ".tsv" else ","
    offsets, lines = array("q"), array("q")
    problems: list[str] = []
    try:
        with path.open("rb") as stream:
            if stream.read(3) != b"\xef\xbb\xbf":  # a byte order mark, as spreadsheets write it
                stream.seek(0)
            reader = csv.reader(_decoded(stream), delimiter=delimiter, strict=True)
            header = tuple(name.strip() for name in next(reader, []))
            start, line = stream.tell(), reader.line_num
            for record in reader:
                if record:
                    offsets.append(start)
                    lines.append(line + 1)
                    if len(record) != len(header) and len(problems) < _MOST_PROBLEMS:
                        problems.append(f"line {line + 1}: {len(record)} values, {len(header)} columns")
                start, line = stream.tell(), reader.line_num
    except (UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"not a readable CSV file: {err}", where=str(path)) from err
    if not header:
        raise UsageError("the file is empty; its first line names the columns", where=str(path))
    if all(_is_number(name) for name in header):
        raise UsageError(
            f"the first line holds numbers ({', '.join(header[:3])}), names of the columns are needed",
            where=str(path),
        )
    if len(header) == 1 and (other := next((d for d in ";\t|" if d in header[0]), "")):
        problems.append(f"one column, {header[0]!r}; is {other!r} the delimiter? a [table] can say so")
    _refuse(problems, path)
    return _Csv(path=path, delimiter=delimiter, columns=header, offsets=offsets, lines=lines)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _decoded(stream: Any) -> Iterator[str]:
    """Lines of a binary stream as text, one at a time: its position is always the end of the last one."""
    while line := stream.readline():
        yield line.decode("utf-8")


def _open_parquet(path: Path) -> _Parquet:
    parquet = require("pyarrow.parquet", needed_for="reading Parquet files")
    errors = require("pyarrow").ArrowException
    try:
        with parquet.ParquetFile(path) as file:
            meta = file.metadata
            counts = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
            names = tuple(file.schema_arrow.names)
    except (errors, OSError) as err:
        raise UsageError(f"not a readable Parquet file: {err}", where=str(path)) from err
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    return _Parquet(path=path, columns=names, starts=starts)


def _refuse(problems: list[str], path: Path) -> None:
    if problems:
        rest = len(problems) - _MOST_PROBLEMS
        more = [f"and {rest} more"] if rest > 0 else []
        raise UsageError(
            "the table cannot be used",
            where=str(path),
            problems=[*problems[:_MOST_PROBLEMS], *more],
            hint="leave out the rows or fill in the values as the training did",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ColumnRows:
    """Columns of a table as samples: (value - mean) / std in float64, then `dtype`, in `sample_shape`."""

    table: Table
    columns: tuple[str, ...]
    sample_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    mean: Floats
    std: Floats

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.table.count, *self.sample_shape)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        values = (self.table.read(rows, self.columns) - self.mean) / self.std
        if self.dtype.kind in "iu" and (bad := (values != np.rint(values)) | (abs(values) > _EXACT)).any():
            row, column = (int(i[0]) for i in np.nonzero(bad))
            raise UsageError(
                f"{self.describe(int(rows[row]))}, column {self.columns[column]!r}: {values[row, column]:g} "
                "is no whole number up to 2**53, and the input takes whole numbers"
            )
        with np.errstate(over="ignore"):
            return values.astype(self.dtype).reshape(len(rows), *self.sample_shape)

    def content(self, rows: NDArray[np.int64]) -> Iterator[bytes]:
        yield repr((self.columns, self.sample_shape, self.dtype.name)).encode()
        for start in range(0, len(rows), 256):
            values = self.read(rows[start : start + 256])
            yield values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()

    def describe(self, row: int) -> str:
        return self.table.describe(row)


def table_rows(
    path: Path, options: TableOptions, signature: Signature, label_names: Sequence[str]
) -> tuple[dict[str, Rows], Rows | None, str]:
    """The inputs' rows, the labels' (None: there is no such column) and a phrase for the report.

    Without `options.columns` an input that has a column of its name takes that, and a model of one input all
    columns but the label's, in the order of the file. Raises `UsageError` with every problem.
    """
    table = open_table(path, options.delimiter)
    label = options.label or next((n for n in label_names if n in table.columns), "")
    features = tuple(name for name in table.columns if name != label)
    chosen = _chosen(options.columns, features, signature)
    problems = _unknown(chosen, [options.label] if options.label else [], table.columns, signature)
    rows: dict[str, Rows] = {}
    for spec in signature.inputs:
        columns = chosen.get(spec.name, ())
        shape = tuple(d for d in spec.shape[1:] if isinstance(d, int))
        needed = int(np.prod(shape, dtype=np.int64))
        if spec.name in chosen and len(shape) < len(spec.shape) - 1:
            problems.append(f"input {spec}: a table feeds inputs of fixed shape")
        elif spec.name in chosen and needed != len(columns):
            problems.append(f"{len(columns)} columns for the input {spec}: a sample of it has {needed}")
        mean, std = (np.asarray(v, np.float64) for v in (options.mean, options.std))
        bad = [n for n, v in (("mean", mean), ("std", std)) if v.ndim and v.size != len(columns)]
        problems += [f"table.{n}: {len(columns)} columns need as many values, or one" for n in bad]
        whole = np.dtype(spec.dtype).kind in "iu"  # whether they fit the input's own dtype, batches check
        dtype = np.dtype(np.int64 if whole else spec.dtype)
        rows[spec.name] = _ColumnRows(
            table=table, columns=columns, sample_shape=shape, dtype=dtype, mean=mean, std=std
        )
    if problems:
        raise UsageError("the table does not go with the model", where=str(path), problems=problems)
    labels: Rows | None = None
    if label:
        zero, one, kind = np.zeros(()), np.ones(()), np.dtype(np.float64)
        labels = _Labels(table=table, columns=(label,), sample_shape=(), dtype=kind, mean=zero, std=one)
    fed = "; ".join(f"{name} from {len(c)} column(s)" for name, c in chosen.items())
    return rows, labels, f"table of {table.count} rows, {fed}{f', labels from {label!r}' if label else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels(_ColumnRows):
    """Labels are classes where they are whole numbers."""

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        values = _ColumnRows.read(self, rows)
        return values.astype(np.int64) if (values == np.rint(values)).all() else values


def _chosen(
    columns: Mapping[str, tuple[str, ...]], features: tuple[str, ...], signature: Signature
) -> dict[str, tuple[str, ...]]:
    if columns:
        return dict(columns)
    named: dict[str, tuple[str, ...]] = {s.name: (s.name,) for s in signature.inputs if s.name in features}
    if len(named) < len(signature.inputs) == 1:
        return {signature.inputs[0].name: features}
    return named


def _unknown(
    chosen: Mapping[str, tuple[str, ...]], labels: list[str], have: tuple[str, ...], signature: Signature
) -> list[str]:
    inputs = [spec.name for spec in signature.inputs]
    problems = [f"table.columns: {n!r} is no input; {nearest(n, inputs)}" for n in chosen if n not in inputs]
    absent = [name for name in inputs if name not in chosen]
    problems += [f"no column for the input {n!r}: say in table.columns which are its" for n in absent]
    wanted = [name for columns in chosen.values() for name in columns]
    return problems + [f"no column {n!r}; {nearest(n, have)}" for n in [*wanted, *labels] if n not in have]
