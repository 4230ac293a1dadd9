"""Trained models in: read into canonical ONNX, and pruned."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekit.api.arguments import source_options
from edgekit.core.events import Listener, silent
from edgekit.core.files import new_folder
from edgekit.core.model import Model
from edgekit.core.pruning import PruningOptions
from edgekit.pipeline.compressing import pruned
from edgekit.pipeline.reading import read_model
from edgekit.pipeline.steps import StepRunner

__all__ = ["open", "prune"]


def open(  # the verb of the command line; the builtin is not used here
    source: str | Path | Any,
    *,
    out: str | Path,
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dynamic: Mapping[str, Sequence[str]] | None = None,
    on_event: Listener = silent,
) -> Model:
    """Read a trained model into canonical ONNX in the new folder `out`, and prove the reading.

    `source` is a file, a folder (SavedModel, Transformers), a Keras model in memory, of any backend, or a
    `torch.nn.Module` in memory with its `example_inputs`: a tensor, a tuple, or a dict by the names of
    forward's parameters (floats of standard normal values, if `shapes` says enough). `signature` chooses one
    of a SavedModel's or a Transformers folder's; `custom_objects` is a Python file with the layers that a
    Keras file needs. Raises `UsageError` for a source that is wrong or not trusted, `Unsupported` for one
    that cannot be read faithfully.
    """
    place = Path(out)
    reading = source_options(
        source,
        example_inputs,
        state=state,
        trust=trust,
        signature=signature,
        custom_objects=custom_objects,
        shapes=shapes,
        dynamic=dynamic,
    )
    with reading as options, new_folder(place) as folder:
        model = read_model(options, out=folder, runner=StepRunner(on_event=on_event))
    return _moved(model, place)


def prune(
    source: str | Path | Any,
    *,
    out: str | Path,
    options: PruningOptions,
    state: str | Path = "",
    trust: bool = False,
    signature: str = "",
    custom_objects: str | Path = "",
    example_inputs: Any = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    deadline_s: float = 900.0,
    on_event: Listener = silent,
) -> Model:
    """Read a trained model, prune it and write both forms of the smaller graph to the new folder `out`.

    What comes back is a source like any other: `out/model.onnx` can be converted. Its `notes` say what went
    and how the network scores. `source` is that of `open`. Raises `Unsupported`, with the layers and why,
    where nothing of the network can be pruned.
    """
    place = Path(out)
    runner = StepRunner(deadline_s=deadline_s, on_event=on_event)
    reading = source_options(
        source,
        example_inputs,
        state=state,
        trust=trust,
        signature=signature,
        custom_objects=custom_objects,
        shapes=shapes,
    )
    with reading as asked, tempfile.TemporaryDirectory(prefix="edgekit-") as scratch:
        model = read_model(asked, out=Path(scratch), runner=runner)
        smaller = pruned(model, options, runner=runner)
        with new_folder(place) as folder:
            for path in {smaller.path, smaller.unfolded}:
                shutil.copyfile(path, folder / path.name)
    return _moved(smaller, place)


def _moved(model: Model, place: Path) -> Model:
    """`model`, whose files are now in the folder `place`."""
    here = place.absolute()
    return replace(model, path=here / model.path.name, unfolded=here / model.unfolded.name)
