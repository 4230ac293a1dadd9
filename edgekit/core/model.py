"""A model: a file, its format, its signature and its digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["CANONICAL_OPSET", "Model", "ModelFormat", "Signature", "TensorSpec"]

CANONICAL_OPSET = 20  # the lowest that holds Gelu whole; every engine edgekit lowers for reads it

ModelFormat = Literal[
    "keras", "onnx", "saved-model", "torch", "torch-export", "torch-module", "torchscript", "transformers"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One named input or output.

    `dtype` is a numpy name ("float32", "int64"); `shape` holds an int for a fixed dimension and a name for a
    dynamic one ("" when the file gives it no name).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return all(isinstance(d, int) for d in self.shape)

    def __str__(self) -> str:
        dims = ", ".join(str(d) if d != "" else "?" for d in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """The named inputs and outputs of a model, in the order of the file."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model read into canonical ONNX.

    `path` is the canonical ONNX file (static shapes, `CANONICAL_OPSET`, BatchNorm folded, rich operators
    whole). `unfolded` is the same graph of the same weights with BatchNorm in place, for training, pruning,
    checks of samples (`path` itself where there is none; static even where `path` is dynamic). `source` is
    what the user named, `format` its format, `source_digest` the SHA-256 of its files, `digest` that of the
    canonical file. `notes` says what the reader should know of the reading (which exporter, what was
    simplified or why not).
    """

    path: Path
    unfolded: Path
    source: str
    format: ModelFormat
    signature: Signature
    digest: str
    source_digest: str
    notes: tuple[str, ...] = ()
