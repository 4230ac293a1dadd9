"""What every backend's `lower` is asked for, and how it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit.core.about import NOTHING, About
from edgekit.core.artifact import Artifact, write_artifact
from edgekit.core.dynamic import Dynamic
from edgekit.core.target import Precision, Target
from edgekit.runtime.manifest import SignatureIO, TensorIO

__all__ = ["Request"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One lowering.

    `model` is an ONNX file: the canonical float graph for float32 and float16, for int8 and int16x8 the QDQ
    graph of the target's policy, for the other precisions the graph whose weights are coded by it. `out` is
    the folder to write into. With `quantized_io` inputs and outputs that have a quantizer are integers where
    the engine can have it so. What `about` says goes into the artifact and its manifest.
    """

    model: Path
    target: Target
    precision: Precision
    out: Path
    source_digest: str
    quantized_io: bool = False
    about: About = NOTHING

    def answer(
        self,
        model: str,
        *,
        inputs: tuple[TensorIO, ...],
        outputs: tuple[TensorIO, ...],
        versions: dict[str, str],
        dynamic: Dynamic | None = None,
        options: dict[str, str] | None = None,
        notes: tuple[str, ...] = (),
        signatures: dict[str, SignatureIO] | None = None,
    ) -> Artifact:
        """Write the manifest of what lies in `out`; `model` is the file that the engine loads."""
        return write_artifact(
            self.out,
            target=self.target,
            precision=self.precision,
            model=model,
            inputs=inputs,
            outputs=outputs,
            source_digest=self.source_digest,
            options=options,
            versions=versions,
            notes=notes,
            about=self.about,
            dynamic=dynamic,
            signatures=signatures,
        )
