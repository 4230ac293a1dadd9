"""Models that are objects in the caller's process, and the file that a process of its own reads for each."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError
from edgekit.formats.torch_module import module_file, program_file

__all__ = ["source_file"]


@contextmanager
def source_file(source: Any, example_inputs: Any = None) -> Iterator[tuple[str, bool]]:
    """The file to read for `source`, and whether it was an object (and may so be trusted).

    A path is its own file; a Keras model, of Keras 3 on any backend or of Keras 2, is saved to a temporary
    one, and so is a `torch.export.ExportedProgram`. A `torch.nn.Module` stays in this process, where it is
    exported: a file stands for it while the context is open. `example_inputs` are those of a module: a
    tensor, a tuple, or a dict by the names of forward's parameters. No framework is imported: an object
    brings its own. Raises `UsageError` for any other object.
    """
    families = {base.__module__.partition(".")[0] for base in type(source).__mro__}
    keras = families & {"keras", "tf_keras"} and hasattr(source, "save")
    module = not keras and "torch" in families and hasattr(source, "named_parameters")
    if example_inputs is not None and not (module and hasattr(source, "modules")):
        raise UsageError("example_inputs belong to a torch.nn.Module in memory", hint="leave them out")
    if isinstance(source, (str, Path)):
        yield str(source), False
    elif keras:
        with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
            name = re.sub(r"\W+", "_", str(getattr(source, "name", ""))) or "model"
            path = Path(folder) / f"{name}.keras"
            source.save(str(path))
            yield str(path), True
    elif module and hasattr(source, "modules"):
        with module_file(source, example_inputs) as file:
            yield file, True
    elif module:  # a program of torch.export
        with program_file(source) as file:
            yield file, True
    else:
        raise UsageError(
            f"the model is a {type(source).__name__}, which cannot be read as it is",
            hint="give a path, a Keras model, a torch.nn.Module or a program of torch.export",
        )
