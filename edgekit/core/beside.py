"""A file that someone else converted, to be judged and timed beside edgekit's own artifacts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Beside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """A `.tflite` file at `path`, shown in the report as `name` (made of the file's name when empty).

    `ports`: name of an input or output of the source model -> its name in the file, for those whose names
    differ and cannot be paired otherwise; "THEIRS@0,2,3,1" says in which order the file has the axes, too.
    """

    path: str
    name: str = ""
    ports: Mapping[str, str] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """What its row in the report is called."""
        return self.name or re.sub(r"[^\w.-]+", "-", Path(self.path).stem)
