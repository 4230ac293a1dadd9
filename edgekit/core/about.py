"""What people know of a model and its file does not say: class names, how inputs are prepared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.core.codec import encode
from edgekit.core.model import Signature
from edgekit.core.recipe import DataSource, Recipe
from edgekit.core.samples.spec import (
    ArrayOptions,
    AudioOptions,
    ImageOptions,
    SampleSpec,
    TableOptions,
    load_spec,
)
from edgekit.errors import UsageError

__all__ = ["NOTHING", "About", "check_labels", "read_about"]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """`labels`: the names of the classes, in the order of the scores. `image`, `array`, `table` and `audio`:
    the preprocessing of the samples, where a sample spec says it; `summary`: that spec's own line.
    """

    labels: tuple[str, ...] = ()
    image: ImageOptions | None = None
    array: ArrayOptions | None = None
    table: TableOptions | None = None
    audio: AudioOptions | None = None
    summary: str = ""

    def preprocessing(self) -> dict[str, Any]:
        """As the manifest has it: {"kind": "image", "array", "table" or "audio", its options}; or empty."""
        for kind in ("image", "array", "table", "audio"):
            if (options := getattr(self, kind)) is not None:
                return {"kind": kind, **encode(options)}
        return {}


NOTHING = About()


def read_about(recipe: Recipe) -> About:
    """The labels of the recipe, and the preprocessing of its calibration samples, else of its validation's.

    Raises `UsageError` for a file of labels that is missing, empty, or no text.
    """
    labels = _labels(Path(recipe.labels)) if recipe.labels else ()
    for spec in _specs(recipe):
        return About(
            labels=labels,
            image=spec.image,
            array=spec.array,
            table=spec.table,
            audio=spec.audio,
            summary=spec.summary,
        )
    return About(labels=labels)


def check_labels(about: About, signature: Signature) -> None:
    """Refuse labels of which no output of the model has as many: `UsageError` with what there is."""
    if not about.labels or any(s.shape and s.shape[-1] == len(about.labels) for s in signature.outputs):
        return
    raise UsageError(
        f"{len(about.labels)} labels were given, no output has as many classes in its last dimension",
        where="labels",
        hint="the outputs are " + ", ".join(map(str, signature.outputs)),
    )


def _specs(recipe: Recipe) -> Iterator[SampleSpec]:
    for part in (recipe.calibration, recipe.validation):
        if part is not None and (name := _spec_name(part.data)):
            yield load_spec(name)


def _spec_name(source: DataSource) -> str:
    path = Path(source.path)
    bare = not path.exists() and "/" not in source.path and not path.suffix
    return source.path if path.suffix == ".toml" or bare else source.preprocessing


def _labels(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise UsageError(f"the labels cannot be read: {err}", where=str(path)) from err
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UsageError("no label is in this file", where=str(path), hint="one class a line, the first is 0")
    return tuple(line.strip() for line in lines)
