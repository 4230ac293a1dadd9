"""An artifact: a model lowered for a target, with its manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgekit import __version__
from edgekit.core.about import NOTHING, About
from edgekit.core.dynamic import Dynamic
from edgekit.core.files import digest_file, write_json
from edgekit.core.target import Precision, Target
from edgekit.runtime.manifest import MANIFEST_NAME, Manifest, SignatureIO, TensorIO, read_manifest

__all__ = ["Artifact", "find_artifacts", "open_artifact", "write_artifact"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The folder of an artifact and its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """The size of the files the engine needs."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files)


def open_artifact(folder: Path) -> Artifact:
    """The artifact in this folder, its files verified. Raises `UsageError`."""
    return Artifact(folder=folder, manifest=read_manifest(folder))


def find_artifacts(out: Path) -> tuple[Artifact, ...]:
    """Every artifact `OUT/<target>/<precision>/` under an output folder, by target and precision."""
    return tuple(open_artifact(p.parent) for p in sorted(out.glob(f"*/*/{MANIFEST_NAME}")))


def write_artifact(
    folder: Path,
    *,
    target: Target,
    precision: Precision,
    model: str,
    inputs: tuple[TensorIO, ...],
    outputs: tuple[TensorIO, ...],
    source_digest: str,
    options: dict[str, str] | None = None,
    versions: dict[str, str] | None = None,
    notes: tuple[str, ...] = (),
    about: About = NOTHING,
    dynamic: Dynamic | None = None,
    signatures: dict[str, SignatureIO] | None = None,
) -> Artifact:
    """Write the manifest of the files that lie in `folder`; `model` is the one the engine loads.

    `about` is what people know of the model: the manifest carries its labels and preprocessing. `dynamic`
    says which dimensions stay dynamic; `signatures` lists the ports of each when the file has several.
    """
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != MANIFEST_NAME)
    manifest = Manifest(
        edgekit=__version__,
        target=target.name,
        engine=target.engine,
        precision=precision,
        model=model,
        files={name: digest_file(folder / name) for name in names},
        inputs=inputs,
        outputs=outputs,
        options={**target.options, **(options or {})},
        requires=target.requires,
        source_digest=source_digest,
        versions=versions or {},
        notes=notes,
        labels=about.labels,
        preprocessing=about.preprocessing(),
        signatures=signatures or {},
        dynamic=dynamic.manifest() if dynamic is not None else {},
    )
    write_json(folder / MANIFEST_NAME, manifest.to_json())
    return Artifact(folder=folder, manifest=manifest)
