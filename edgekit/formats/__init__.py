"""Front ends: which format a source has, and what it takes to read it. No framework is loaded here."""

from __future__ import annotations

import zipfile
from pathlib import Path

from edgekit.core.files import digest_file, digest_json
from edgekit.core.model import ModelFormat
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError
from edgekit.formats.pickled import pickled_class

__all__ = ["detect", "digest_source", "require_trust", "source_name", "split_factory"]

_ALLOWED = (
    "an ONNX file (.onnx), a Keras file (.keras, .h5), a SavedModel folder, module.py:factory, "
    "a torch.export archive (.pt2), TorchScript (.pt, .ts) or a Transformers folder"
)
_KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")
_TORCH_SUFFIXES = (
    ".bin", ".ckpt", ".jit", ".pkl", ".pt", ".pt2", ".pth", ".safetensors", ".torchscript", ".ts",
)  # fmt: skip
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_CAN_RUN_CODE: dict[ModelFormat, str] = {
    "torchscript": "a TorchScript file",
    "torch-export": "a torch.export archive (.pt2)",
}


def split_factory(source: str) -> tuple[Path, str]:
    """`folder/module.py:factory` as (path, factory name). Raises `UsageError` when no factory is named."""
    path, _, factory = source.rpartition(":")
    if not path.endswith(".py") or not factory.isidentifier():
        file = source if source.endswith(".py") else path or source
        raise UsageError(
            "a Python file needs the name of the function that makes the module",
            where=source,
            hint=f"write {Path(file).name}:factory, where factory() returns a torch.nn.Module",
        )
    return Path(path), factory


def detect(source: str) -> ModelFormat:
    """The format of a source, from its name and its first bytes; the file is not loaded.

    Raises `UsageError` when it does not exist, is a pickle or state dict alone, or is none of the formats
    that edgekit reads.
    """
    if source.endswith(".py") or source.rpartition(":")[0].endswith(".py"):
        path, _ = split_factory(source)
        _require_file(path, source)
        return "torch"
    path = Path(source)
    if any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        return "saved-model"
    if (path / "config.json").is_file():
        return "transformers"
    _require_file(path, source)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return "onnx"
    if suffix in _KERAS_SUFFIXES:
        return _keras_file(path)
    if suffix == ".module":
        return "torch-module"
    if suffix in _TORCH_SUFFIXES:
        return _torch_file(path)
    raise UsageError(f"edgekit reads no {suffix or 'such'!r} files", where=source, hint=f"give {_ALLOWED}")


def require_trust(kind: ModelFormat, options: SourceOptions) -> None:
    """Raise `UsageError` when loading the source can run code planted in it and the caller has not agreed.

    A Python file is trusted by being named. https://docs.pytorch.org/docs/stable/notes/serialization.html
    """
    if kind in _CAN_RUN_CODE and not options.trust:
        raise UsageError(
            f"{_CAN_RUN_CODE[kind]} can run code while it is loaded, so it is not loaded unless you trust it",
            where=options.model,
            hint="pass --trust if you know where the file comes from; an ONNX file needs no trust",
        )


def source_name(kind: ModelFormat, model: str) -> str:
    """What the user calls a source: its path, or the class of a module in memory."""
    return f"{Path(model).stem} (in memory)" if kind == "torch-module" else model


def digest_source(kind: ModelFormat, options: SourceOptions, parts: list[str]) -> str:
    """SHA-256 over the files of a source: its own, the state file, custom objects, `parts` (external data).

    One file gives the digest of its bytes. Names count by their last component, those in a folder by their
    place in it, so a moved model keeps its digest. Python modules that the factory's file imports are
    not part of it.
    """
    model = Path(split_factory(options.model)[0] if kind == "torch" else options.model)
    own = [(model.name, model)]
    if kind in ("saved-model", "transformers"):
        own = [(f.relative_to(model).as_posix(), f) for f in sorted(model.rglob("*")) if f.is_file()]
    beside = [Path(name) for name in (options.state, options.custom_objects, *parts) if name]
    digests = [[name, digest_file(file)] for name, file in (*own, *((f.name, f) for f in beside))]
    return digests[0][1] if len(digests) == 1 else digest_json(digests)


def _require_file(path: Path, source: str) -> None:
    if not path.exists():
        raise UsageError("no such file", where=source, hint=f"give {_ALLOWED}")
    if not path.is_file():
        raise UsageError("this is a folder, a file is needed", where=source, hint=f"give {_ALLOWED}")
    if path.stat().st_size == 0:
        raise UsageError("the file is empty", where=source, hint="copy or download it again")


def _keras_file(path: Path) -> ModelFormat:
    with path.open("rb") as stream:
        head = stream.read(8)
    archive = head[:2] == b"PK"
    if archive and not zipfile.is_zipfile(path):
        raise UsageError(
            "the archive is truncated or damaged", where=str(path), hint="copy or download it again"
        )
    if not archive and head != _HDF5_MAGIC:
        raise UsageError(
            f"not a Keras file: it starts with {head!r}", where=str(path), hint=f"give {_ALLOWED}"
        )
    if archive and path.suffix.lower() != ".keras":
        raise UsageError("a zip archive, not HDF5", where=str(path), hint="a Keras archive is named .keras")
    return "keras"


def _torch_file(path: Path) -> ModelFormat:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            head = stream.read(16)
        if head[:2] == b"PK":
            raise UsageError(
                "the archive is truncated or damaged", where=str(path), hint="copy or download it again"
            )
        if path.suffix == ".safetensors" or head[:1] == b"\x80":
            raise _state_dict_alone(path)
        raise UsageError(
            f"not a PyTorch file: it starts with {head[:8]!r}", where=str(path), hint=f"give {_ALLOWED}"
        )
    with zipfile.ZipFile(path) as archive:
        members = {member.partition("/")[2] for member in archive.namelist()} | set(archive.namelist())
    if "constants.pkl" in members and any(m.startswith("code/") for m in members):
        return "torchscript"
    if "archive_format" in members or "serialized_exported_program.json" in members:
        return "torch-export"
    if "data.pkl" in members:
        raise _state_dict_alone(path)
    raise UsageError("a zip archive of no known model format", where=str(path), hint=f"give {_ALLOWED}")


def _state_dict_alone(path: Path) -> UsageError:
    code = "" if path.suffix == ".safetensors" else pickled_class(path)
    if code:
        return UsageError(
            f"this is a pickled {code}: loading it can run any code, so edgekit never does",
            where=str(path),
            hint="load it yourself and give edgekit.convert the module, or torch.save(module.state_dict(), "
            "'weights.pt') and name module.py:factory --state weights.pt",
        )
    return UsageError(
        "this is a state dict: it holds weights, not the network",
        where=str(path),
        hint=f"name the module that they belong to: module.py:factory --state {path.name}",
    )
