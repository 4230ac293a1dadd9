"""What a pickle would make, told from its opcodes: nothing in it is run."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

__all__ = ["pickled_class"]

# what a dict of tensors and numbers needs
_PLAIN = ("_codecs.encode", "builtins.", "collections.OrderedDict", "numpy.", "torch._", "torch.storage.")
_MOST = 10_000  # opcodes that are looked at
_PARTS = 5  # pickles in a row: the old format of torch.save has four


def pickled_class(path: Path) -> str:
    """The first class of code that loading the pickle at `path` would run; "" for tensors and plain values.

    `path` is a pickle, or the zip archive with one that `torch.save` writes.
    Source: https://docs.python.org/3/library/pickletools.html
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found = [n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl"]
            return _first(io.BytesIO(archive.read(found[0]) if found else b""))
    with path.open("rb") as stream:
        return _first(stream)


def _first(stream: BinaryIO) -> str:
    for name in islice(_names(stream), _MOST):
        is_storage = name.startswith("torch.") and name.endswith("Storage")
        if name and not is_storage and not name.startswith(_PLAIN):
            return name
    return ""


def _names(stream: BinaryIO) -> Iterator[str]:
    """For every opcode the name it looks up, or ""; until the last pickle ends or is cut off."""
    for _ in range(_PARTS):
        words: list[str] = []
        memo: list[str] = []
        last = ""
        try:
            for opcode, value, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield str(value).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(words[-2:])
                elif opcode.name == "MEMOIZE":
                    memo.append(last)
                    continue
                yield ""
                kept = memo[int(value or 0)] if opcode.name in ("BINGET", "LONG_BINGET") and memo else value
                last = kept if isinstance(kept, str) and opcode.name != "GLOBAL" else ""
                words += [last] if last else []
        except (ValueError, IndexError):  # no pickle, or half a one: whoever loads it says so
            return
