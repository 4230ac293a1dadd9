"""Files at every border: digests, atomic writes, the data folders, the cache root."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import StepError, UsageError

__all__ = [
    "atomic_file",
    "cache_root",
    "data_folder",
    "digest_file",
    "digest_json",
    "disk_full_named",
    "new_folder",
    "write_json",
    "write_text",
]


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return (
            hashlib.file_digest(stream, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else (hashlib.sha256(stream.read()).hexdigest())
        )


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def disk_full_named(path: Path) -> Iterator[None]:
    """Turn "no space left" into a `StepError` that names the place; everything else passes."""
    try:
        yield
    except OSError as err:
        if err.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StepError(
            f"no space left on the disk while writing {str(path)!r}",
            kind="disk_full",
            hint="free some space or choose another place with -o; nothing half-written was left",
        ) from err


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it when the block ends well, removed when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with disk_full_named(path):
            yield temporary
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically as UTF-8."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value atomically: sorted where the caller sorted it, two spaces, a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends well.

    On any failure (Ctrl-C included) the temporary folder is removed and an existing `path` stays as it was.
    Raises `UsageError` when `path` exists and `overwrite` is not set.
    """
    path = path.absolute()
    if path.exists() and not overwrite:
        raise UsageError(
            f"the output folder {str(path)!r} exists",
            hint="choose another with -o, or pass --overwrite to replace it",
        )
    if path.exists() and not path.is_dir():
        raise UsageError(f"the output {str(path)!r} is a file", hint="choose another place with -o")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    os.chmod(temporary, 0o755)
    try:
        with disk_full_named(path):
            yield temporary
        _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace_folder(temporary: Path, path: Path) -> None:
    if not path.exists():
        os.rename(temporary, path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    os.rename(path, old / path.name)
    try:
        os.rename(temporary, path)
    except OSError:
        os.rename(old / path.name, path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def data_folder(kind: Literal["targets", "calibration"]) -> Path:
    """Where the data files of `kind` lie: in the wheel, or at the top of a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_data" / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise UsageError(
        f"the {kind} folder of edgekit is missing", where=str(package), hint="reinstall edgekit-toolchain"
    )


def cache_root() -> Path:
    """The cache folder: $EDGEKIT_CACHE, else $XDG_CACHE_HOME/edgekit, else ~/.cache/edgekit."""
    if chosen := os.environ.get("EDGEKIT_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).absolute() / "edgekit"
