"""What a Keras file says about itself, read without Keras: its version, its layers, whether it holds code."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.errors import UsageError

__all__ = ["KerasFile", "code_layers", "read_keras_file"]

_AGAIN = "copy or download it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasFile:
    """`version` of the Keras that wrote it ("" when it does not say); `config` of the whole model."""

    version: str
    config: dict[str, Any]

    @property
    def legacy(self) -> bool:
        """Whether Keras 2 (or 1) wrote it: Keras 3 refuses some of its keys and reads others differently."""
        return not self.version or int(self.version.partition(".")[0]) < 3


def read_keras_file(path: Path) -> KerasFile:
    """The version and configuration in a `.keras` archive or an HDF5 file; no layer is made.

    Raises `UsageError` for a file that is damaged or holds weights alone.
    """
    return _archive(path) if zipfile.is_zipfile(path) else _hdf5(path)


def code_layers(file: KerasFile) -> list[str]:
    """The names of layers that hold Python code as bytes, which runs when the model is loaded or called."""
    found = []
    for item in _objects(file.config):
        if item.get("class_name") == "Lambda":
            config = item.get("config")
            name = config.get("name") if isinstance(config, dict) else ""
            found.append(str(name or item.get("name") or "lambda"))
        elif item.get("class_name") == "__lambda__":
            found.append("a Python lambda")
    # A Lambda of Keras 3 holds its lambda as an object of its own: one layer, named once.
    layers = [name for name in found if name != "a Python lambda"]
    return layers or found


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from _objects(item)
    elif isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _archive(path: Path) -> KerasFile:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            if "config.json" not in names:
                raise UsageError(
                    "a zip archive that is no Keras model: it has no config.json",
                    where=str(path),
                    hint="save the model again with model.save('model.keras')",
                )
            config = json.loads(archive.read("config.json"))
            metadata = json.loads(archive.read("metadata.json")) if "metadata.json" in names else {}
    except (zipfile.BadZipFile, ValueError, EOFError) as err:
        raise UsageError(f"the archive is damaged: {err}", where=str(path), hint=_AGAIN) from err
    return KerasFile(version=str(metadata.get("keras_version", "")), config=config)


def _hdf5(path: Path) -> KerasFile:
    h5py = require("h5py", needed_for="reading HDF5 files of Keras")
    try:
        with h5py.File(path, "r") as file:
            attributes = {name: file.attrs[name] for name in ("model_config", "keras_version")
                          if name in file.attrs}  # fmt: skip
            inside = "model_weights" in file and file["model_weights"].attrs.get("keras_version")
    except (OSError, KeyError, RuntimeError) as err:
        raise UsageError(f"the HDF5 file is damaged: {err}", where=str(path), hint=_AGAIN) from err
    if "model_config" not in attributes:
        raise UsageError(
            "this file holds weights, not the network (no model_config in it)",
            where=str(path),
            hint="build the model in Python, load_weights, then model.save('model.keras')",
        )
    try:
        config = json.loads(_text(attributes["model_config"]))
    except ValueError as err:
        raise UsageError(f"its model_config is no JSON: {err}", where=str(path), hint=_AGAIN) from err
    return KerasFile(version=_text(attributes.get("keras_version", inside or "")), config=config)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
