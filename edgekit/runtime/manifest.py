"""The manifest that lies beside every artifact: what it is, its named inputs and outputs, how to load it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgekit.errors import UsageError

__all__ = ["MANIFEST_NAME", "SCHEMA", "Manifest", "SignatureIO", "TensorIO", "read_manifest"]

MANIFEST_NAME = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorIO:
    """One named input or output of an artifact.

    `name` is the source model's name, `engine_name` the engine's. `shape` and `dtype` are the artifact's
    own (a dynamic dimension is a name). `axes` is the permutation that turns the source layout into the
    artifact's: `artifact = source.transpose(axes)`; empty when they are the same. A quantized tensor carries
    `scale` (> 0) and `zero_point`: real = scale * (integer - zero_point).
    """

    name: str
    engine_name: str
    dtype: str
    shape: tuple[int | str, ...]
    axes: tuple[int, ...] = ()
    scale: float = 0.0
    zero_point: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureIO:
    """The inputs and outputs of one signature of a file that has several."""

    inputs: tuple[TensorIO, ...]
    outputs: tuple[TensorIO, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What an artifact is.

    `model` is the file the engine loads, `files` maps every file of the artifact to its SHA-256. `options`
    go to the engine at load; `requires` names hardware it cannot run without ("cuda"). `source_digest` is
    the SHA-256 of the canonical model it was lowered from; `notes` declares approximations. `labels` are the
    names of the classes, in the order of the scores. `preprocessing` says how a picture, array, row or sound
    becomes an input, as that table of a sample spec does ("kind" names it); empty when nobody said.
    `dynamic` has "size" and "step" of each named dimension: it may be size plus or minus whole steps.
    `signatures` has the ports of each signature when the file has several; `inputs` and `outputs` are those
    of `signature` ("": the only one), in a manifest on disk the first.
    """

    schema: int = SCHEMA
    edgekit: str
    target: str
    engine: str
    precision: str
    model: str
    files: dict[str, str]
    inputs: tuple[TensorIO, ...]
    outputs: tuple[TensorIO, ...]
    options: dict[str, str] = field(default_factory=dict)
    requires: str = ""
    source_digest: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    preprocessing: dict[str, Any] = field(default_factory=dict)
    dynamic: dict[str, dict[str, int]] = field(default_factory=dict)
    signatures: dict[str, SignatureIO] = field(default_factory=dict)
    signature: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, keys in the order of the class."""
        return asdict(self)


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read `folder/manifest.json`.

    With `verify`, every file is checked against its SHA-256. Raises `UsageError` when the folder holds no
    manifest, the schema is newer than this edgekit, or a file is missing or altered.
    """
    path = folder / MANIFEST_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        schema = data["schema"]
        if schema != SCHEMA:
            raise UsageError(
                f"manifest schema {schema!r}, this edgekit reads {SCHEMA}",
                where=str(path),
                hint="use the edgekit version that wrote it, or convert again",
            )
        manifest = Manifest(**{
            **data,
            "inputs": tuple(_tensor(t) for t in data["inputs"]),
            "outputs": tuple(_tensor(t) for t in data["outputs"]),
            "notes": tuple(data.get("notes", ())),
            "labels": tuple(data.get("labels", ())),
            "signatures": {key: _signature(ports) for key, ports in data.get("signatures", {}).items()},
        })
    except FileNotFoundError as err:
        raise UsageError("no manifest.json here", where=str(folder), hint="name an artifact folder") from err
    except (ValueError, KeyError, TypeError) as err:
        raise UsageError(f"not an artifact manifest: {err}", where=str(path)) from err
    if verify:
        _verify(folder, manifest)
    return manifest


def _signature(data: dict[str, Any]) -> SignatureIO:
    inputs, outputs = (tuple(_tensor(t) for t in data[side]) for side in ("inputs", "outputs"))
    return SignatureIO(inputs=inputs, outputs=outputs)


def _tensor(data: dict[str, Any]) -> TensorIO:
    return TensorIO(**{**data, "shape": tuple(data["shape"]), "axes": tuple(data.get("axes", ()))})


def _verify(folder: Path, manifest: Manifest) -> None:
    problems = []
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            problems.append(f"{name} is not the file the manifest was written for (SHA-256 differs)")
    if problems:
        raise UsageError("the artifact is damaged", where=str(folder), problems=problems)
