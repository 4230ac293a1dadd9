"""Where a model and samples come from, and the metrics by which answers are judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["DataSource", "Metric", "SourceOptions"]

Metric = Literal["accuracy", "top5", "precision", "recall", "f1", "mse", "mae", "rmse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """The trained model.

    `model`: an ONNX file, a Keras file, a SavedModel folder, a Transformers folder, `module.py:factory`, a
    `.pt2` or a TorchScript file. `state`: a state-dict file for the factory's module. `signature`: which of a
    SavedModel's or a Transformers folder's.
    `custom_objects`: a Python file with the layers that a Keras file needs. `trust`: allow files that can run
    code at load. `shapes`: input name -> fixed shape.
    `dynamic`: input name -> a name for each leading dimension that stays dynamic, "" for those that do not.
    """

    model: str
    state: str = ""
    signature: str = ""
    custom_objects: str = ""
    trust: bool = False
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dynamic: dict[str, tuple[str, ...]] = field(default_factory=dict)
    opset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where samples come from.

    `path`: an .npz or .npy file, a CSV or Parquet table, a folder of images, sounds or array files, or a
    `calibration/*.toml` sample spec (by path, or by the name of one that edgekit ships). `preprocessing`: a
    sample spec whose preprocessing is used when `path` is the data itself. `count` (0: all), `skip` and
    `seed` (-1: the order of the source) choose samples: shuffle by the seed, skip, take count.
    """

    path: str
    preprocessing: str = ""
    count: int = 0
    skip: int = 0
    seed: int = -1
