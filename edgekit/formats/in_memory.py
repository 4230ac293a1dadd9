"""Models that are objects in the caller's process: saved to a file, which a process of its own then reads."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError

__all__ = ["source_file"]


@contextmanager
def source_file(source: Any) -> Iterator[tuple[str, bool]]:
    """The file to read for `source`, and whether it was an object (and may so be trusted).

    A path is its own file; a Keras model, of Keras 3 on any backend or of Keras 2, is saved to a temporary
    one. No framework is imported: an object brings its own. Raises `UsageError` for any other object.
    """
    if isinstance(source, (str, Path)):
        yield str(source), False
        return
    families = {base.__module__.partition(".")[0] for base in type(source).__mro__}
    if not families & {"keras", "tf_keras"} or not hasattr(source, "save"):
        hint = "give a path or a Keras model"
        if "torch" in families:
            hint = "give module.py:factory, or save it with torch.export.save(…, 'model.pt2')"
        raise UsageError(f"the model is a {type(source).__name__}, which cannot be read as it is", hint=hint)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        name = re.sub(r"\W+", "_", str(getattr(source, "name", ""))) or "model"
        path = Path(folder) / f"{name}.keras"
        source.save(str(path))
        yield str(path), True
