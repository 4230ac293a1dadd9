"""Constants by name; those that only some readers need are computed when one asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekit.backends.tflite.ir import Array

__all__ = ["Constants"]


class Constants(dict[str, Array]):
    """A dict of arrays, some of them deferred: integer operators read codes, never the dequantized floats."""

    def __init__(self, known: dict[str, Array]) -> None:
        super().__init__(known)
        self._deferred: dict[str, Callable[[], Array]] = {}

    def defer(self, name: str, make: Callable[[], Array], placeholder: Array) -> None:
        """Let `name` be what `make` gives at the first look; until then `placeholder` fills its place."""
        self._deferred[name] = make
        super().__setitem__(name, placeholder)

    def __getitem__(self, name: str) -> Array:
        if make := self._deferred.pop(name, None):
            super().__setitem__(name, make())
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The array, or `default`."""
        if name not in self:
            return default
        return self[name]
