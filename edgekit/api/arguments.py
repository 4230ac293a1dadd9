"""What the verbs take, made into what the pipeline reads: sources, and samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgekit.core.arrays import save_npz
from edgekit.core.recipe import DataSource, SourceOptions
from edgekit.core.samples.spool import spool
from edgekit.errors import UsageError
from edgekit.formats.in_memory import source_file

__all__ = ["Data", "data_source", "source_options"]

Data = str | Path | DataSource | Mapping[str, NDArray[Any]] | Iterable[Any]


@contextmanager
def source_options(
    source: str | Path | Any,
    example_inputs: Any,
    *,
    state: str | Path,
    trust: bool,
    signature: str,
    custom_objects: str | Path,
    shapes: Mapping[str, Sequence[int]] | None,
    dynamic: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[SourceOptions]:
    """Where and how to read `source`, while the context is open: a model in memory has a file that long."""
    with source_file(source, example_inputs) as (file, own):
        yield SourceOptions(
            model=file,
            state=str(state),
            signature=signature,
            custom_objects=str(custom_objects),
            trust=trust or own,
            shapes={name: tuple(int(d) for d in dims) for name, dims in (shapes or {}).items()},
            dynamic={name: tuple(dims) for name, dims in (dynamic or {}).items()},
        )


def data_source(data: Data, scratch: Path) -> DataSource:
    """Where to read `data`: what is in memory is written to the folder `scratch`, made if absent."""
    if isinstance(data, DataSource):
        return data
    if isinstance(data, (str, Path)):
        return DataSource(path=str(data))
    scratch.mkdir(parents=True, exist_ok=True)
    if isinstance(data, Mapping):
        if not data:
            raise UsageError("no arrays were given", hint="pass input name -> array, samples first")
        path = scratch / "samples.npz"
        save_npz(path, data)
        return DataSource(path=str(path))
    if isinstance(data, Iterable):
        spool(data, scratch / "samples")
        return DataSource(path=str(scratch / "samples"))
    raise UsageError(
        f"samples: got {type(data).__name__}",
        hint="give a path, a DataSource, arrays by input name, or an iterable of samples",
    )
