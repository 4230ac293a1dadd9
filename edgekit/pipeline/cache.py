"""Results of steps by what they were made from: the same inputs are never worked on twice."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgekit import __version__
from edgekit.core.files import cache_root, digest_json, disk_full_named

__all__ = ["cached_folder", "partial_result"]


def cached_folder(
    step: str, *, version: int, inputs: Mapping[str, Any], build: Callable[[Path], None]
) -> tuple[Path, bool]:
    """The folder of a step's results, and whether it was there already.

    `inputs` are JSON values that decide the result: options, digests of input files, versions of packages.
    `build(folder)` fills a temporary folder that is renamed into place when it succeeds; a failure leaves
    nothing. Two processes that build the same key agree: the first rename wins.
    """
    place = _place(step, version, inputs)
    if place.is_dir():
        os.utime(place)
        return place, True
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=place.parent))
    try:
        with disk_full_named(place):
            build(temporary)
            try:
                os.rename(temporary, place)
            except OSError:
                if not place.is_dir():
                    raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return place, False


def partial_result(step: str, *, version: int, inputs: Mapping[str, Any]) -> Path:
    """Where a step that can be resumed keeps what it has so far: a file beside the folder of its results."""
    place = _place(step, version, inputs)
    return place.with_name(f"{place.name}.partial")


def _place(step: str, version: int, inputs: Mapping[str, Any]) -> Path:
    key = digest_json({"step": step, "version": version, "edgekit": __version__, "inputs": dict(inputs)})
    return cache_root() / "steps" / step / key[:32]
