"""A folder of files, a sample or several each: which, in which order, with which labels."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from edgekit.core.samples.spec import LabelOptions
from edgekit.errors import UsageError

__all__ = ["file_labels", "list_files"]


def list_files(folder: Path, suffixes: Sequence[str], what: str) -> tuple[tuple[str, ...], int]:
    """The files of these endings under `folder` and its sub-folders, and how many others were passed over.

    Paths are relative, with "/", in natural order ("2.jpg" before "10.jpg"). Hidden files are not seen; CSV
    and text files are not counted as passed over. Raises `UsageError` when there is none; `what` names one.
    """
    if not folder.is_dir():
        what = "this is a file, a folder is needed" if folder.exists() else "no such folder"
        raise UsageError(what, where=str(folder))
    found, others = [], 0
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or not path.is_file():
            continue
        if path.suffix.lower() in suffixes:
            found.append(relative.as_posix())
        elif path.suffix.lower() not in (".csv", ".txt", ".md"):
            others += 1
    if not found:
        raise UsageError(
            f"the folder holds no {what} ({others} other files)",
            where=str(folder),
            hint=f"read are {', '.join(s[1:] for s in suffixes)}",
        )
    return tuple(sorted(found, key=_natural)), others


def file_labels(
    folder: Path, files: tuple[str, ...], options: LabelOptions, what: str
) -> tuple[NDArray[np.int64] | NDArray[np.float64], str]:
    """One label a file, in the order of `files`, and a phrase that says where they come from.

    From `folder/options.file` when it exists (classes are whole numbers; any other number makes all of them
    float64), else from the first-level sub-folders: class index = place of the folder's name in sorted order
    (plain order of characters, as torchvision's ImageFolder has it). Raises `UsageError`.
    """
    table = folder / options.file
    if table.is_file():
        return _csv_labels(table, files, options), f"labels from {options.file}"
    outside = [name for name in files if "/" not in name]
    if outside:
        mixed = len(outside) < len(files)
        some = f"; {len(outside)} {what}s lie in no sub-folder ({outside[0]!r})" if mixed else ""
        raise UsageError(
            f"the {what}s have no labels{some}",
            where=str(folder),
            hint=f"put {options.file!r} with columns {options.file_column},{options.class_column} beside "
            "them, or one sub-folder a class",
        )
    folders = [PurePosixPath(name).parts[0] for name in files]
    index = {name: i for i, name in enumerate(sorted(set(folders)))}
    return np.array([index[f] for f in folders], np.int64), f"labels from {len(index)} sub-folders"


def _csv_labels(
    table: Path, files: tuple[str, ...], options: LabelOptions
) -> NDArray[np.int64] | NDArray[np.float64]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = list(reader.fieldnames or ())
            missing = [c for c in (options.file_column, options.class_column) if c not in columns]
            if missing:
                have = ", ".join(columns) or "none"
                raise UsageError(
                    f"no column {', '.join(map(repr, missing))}; the columns are {have}",
                    where=str(table),
                    hint="name them in [labels] of a sample spec: file_column, class_column",
                )
            entries = [
                (row[options.file_column], row[options.class_column], reader.line_num) for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as err:
        raise UsageError(f"not a readable CSV file: {err}", where=str(table)) from err
    values: dict[str, float] = {}
    problems = []
    for name, text, line in entries:
        try:
            value = float(text)
        except (TypeError, ValueError):
            problems.append(f"line {line}: {options.class_column} is {text!r}, a number is needed")
            continue
        if not np.isfinite(value):
            problems.append(f"line {line}: {options.class_column} is {text!r}")
        if values.setdefault(PurePosixPath(name).as_posix(), value) != value:
            problems.append(f"line {line}: {name!r} has two different labels")
    absent = [name for name in files if name not in values]
    if absent and not problems:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        problems.append(f"no label for {', '.join(map(repr, absent[:3]))}{more}")
    if problems:
        rest = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
        raise UsageError("the labels cannot be used", where=str(table), problems=[*problems[:10], *rest])
    found = np.array([values[name] for name in files], np.float64)
    return found.astype(np.int64) if np.all(found == np.floor(found)) else found

def _natural(path: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    parts = re.split(r"(\d+)", path)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p.lower()) for p in parts if p), path
