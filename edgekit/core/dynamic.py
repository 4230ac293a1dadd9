"""Dimensions that stay dynamic, as a canonical ONNX file carries them.

The file itself is static, in the sizes that calibration and checks use; its metadata names the dimensions
that may change and the sizes at which the source has proven that the graph follows.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekit.core.codec import decode, encode

__all__ = ["Dynamic", "dynamic_of", "is_dynamic", "name_dimensions", "set_dynamic"]

_KEY = "edgekit.dynamic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dynamic:
    """`inputs` and `outputs`: name -> a name for each dimension, "" for a fixed one ("?" for a dynamic one
    that follows from others and has no name). `sizes`: name of a dimension -> the sizes it was proven at: the
    one the file has, one step more, two steps more.
    """

    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, ...]]
    sizes: dict[str, tuple[int, ...]]

    @property
    def variants(self) -> int:
        """How many sets of sizes were proven, the file's own included."""
        return min(len(sizes) for sizes in self.sizes.values())

    def shape(self, name: str, shape: tuple[int, ...], variant: int) -> tuple[int, ...]:
        """The shape of an input of `shape` in another set of sizes."""
        names = (*self.inputs.get(name, ()), *("" for _ in shape))
        return tuple(self.sizes[n][variant] if n else d for n, d in zip(names, shape, strict=False))

    def named(self, port: str, shape: tuple[int, ...], axes: tuple[int, ...] = ()) -> tuple[int | str, ...]:
        """`shape`, of an artifact that is source.transpose(axes), with names (or "") for what is dynamic."""
        names = self.inputs.get(port) or self.outputs.get(port, ())
        names = (*names, *("" for _ in shape[len(names) :]))
        here = tuple(names[axis] for axis in axes) if axes else names
        return tuple(n.replace("?", "") if n else d for n, d in zip(here, shape, strict=True))

    def manifest(self) -> dict[str, dict[str, int]]:
        """Name -> {"size", "step"}: what the manifest says of each dimension."""
        steps = {name: min(size - sizes[0] for size in sizes[1:]) for name, sizes in self.sizes.items()}
        return {name: {"size": self.sizes[name][0], "step": steps[name]} for name in sorted(steps)}

    @property
    def batches(self) -> frozenset[str]:
        """The dimensions that count samples: the first of every input that has them."""
        first = {names[0] for names in self.inputs.values() if names}
        return frozenset(first - {name for names in self.inputs.values() for name in names[1:]} - {""})

    def coarser(self, factor: int) -> Dynamic:
        """The same with steps `factor` times as large, those of batches excepted."""
        sizes = {
            name: known if name in self.batches else tuple(known[0] + factor * (s - known[0]) for s in known)
            for name, known in self.sizes.items()
        }
        return replace(self, sizes=sizes)


def is_dynamic(path: Path) -> bool:
    """Whether an ONNX file may have dynamic dimensions, without reading it into memory."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_KEY.encode()) >= 0


def dynamic_of(model: Any) -> Dynamic | None:
    """What a ModelProto says of its dynamic dimensions; None when it has none."""
    for entry in model.metadata_props:
        if entry.key == _KEY:
            return decode(Dynamic, json.loads(entry.value), where=_KEY)
    return None


def name_dimensions(model: Any, dynamic: Dynamic) -> None:
    """Put names in place of sizes at the inputs and outputs of a ModelProto; what lies between follows."""
    del model.graph.value_info[:]
    for ports, names in ((model.graph.input, dynamic.inputs), (model.graph.output, dynamic.outputs)):
        for value in ports:
            for dim, name in zip(value.type.tensor_type.shape.dim, names.get(value.name, ()), strict=False):
                if name:
                    dim.Clear()
                    if name != "?":
                        dim.dim_param = name


def set_dynamic(model: Any, dynamic: Dynamic) -> None:
    """Write it down in the metadata of a ModelProto."""
    kept: Mapping[str, str] = {e.key: e.value for e in model.metadata_props if e.key != _KEY}
    del model.metadata_props[:]
    for key, value in (*kept.items(), (_KEY, json.dumps(encode(dynamic), sort_keys=True))):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
