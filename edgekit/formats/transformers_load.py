"""Load a Hugging Face Transformers folder: the part of the model that is asked for, with sensible inputs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError, nearest
from edgekit.formats.torch_inputs import TorchSource
from edgekit.formats.transformers_parts import PARTS, make_part

__all__ = ["load_transformers"]

_SHOWN = 6


def load_transformers(options: SourceOptions) -> TorchSource:
    """The part `options.signature` of the model in a folder that `save_pretrained` wrote or a hub keeps.

    Weights are read as float32, attention is computed by plain products. A model that generates has several
    parts (see `edgekit.formats.transformers_parts`), any other has "forward", which need not be named.
    Nothing is fetched, and no code of the folder runs. Raises `UsageError` for a folder that names no class,
    for weights that are missing or do not fit, and for a signature that the model does not have.
    """
    # Before the import, which reads them: a folder is complete, and nothing goes over the network.
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
    transformers = require("transformers", needed_for="reading Transformers folders")
    folder = Path(options.model)
    kind, notes = _class(transformers, folder)
    model = _loaded(kind, folder).eval()
    name = _part(model, options)
    part = make_part(transformers, model, name, options)
    said = (f"the part {name!r} of {kind.__name__}", *notes)
    return TorchSource(
        module=part.module,
        call=part.module,
        inputs=part.inputs,
        arguments=part.arguments(),
        by_keyword=frozenset(part.inputs),
        ranges=part.ranges,
        notes=said,
    )


def _class(transformers: Any, folder: Path) -> tuple[Any, tuple[str, ...]]:
    """The model class that config.json names, and a note when the weights were stored in another type."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise UsageError(
            f"not JSON: {err}", where=str(path), hint="the file may be damaged: copy or download it again"
        ) from err
    names = config.get("architectures") if isinstance(config, Mapping) else None
    if not names:
        raise UsageError(
            'config.json names no "architectures": what class the weights belong to is not known',
            where=str(path),
            hint="save the model with model.save_pretrained(FOLDER)",
        )
    kind = getattr(transformers, names[0], None)
    if kind is None:
        own = "auto_map" in config
        raise UsageError(
            f"{names[0]!r} is no class of transformers {transformers.__version__}"
            + (": it is code that lies beside the weights, which edgekit does not run" if own else ""),
            where=str(path),
            hint="load it yourself and give edgekit.convert the module, or module.py:factory",
        )
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return kind, () if stored == "float32" else (f"the weights are stored as {stored} and read as float32",)


def _loaded(kind: Any, folder: Path) -> Any:
    torch = require("torch")
    try:
        model, report = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as err:  # what from_pretrained raises for weights and configs
        raise UsageError(
            f"the model cannot be loaded: {str(err).strip().splitlines()[0]}",
            where=str(folder),
            hint="the folder needs config.json and model.safetensors, as save_pretrained(FOLDER) writes them",
        ) from err
    found = {key: sorted(map(str, _reported(report, key))) for key in ("missing_keys", "mismatched_keys")}
    problems = [f"{key.partition('_')[0]}: {one}" for key, names in found.items() for one in names]
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise UsageError(
            f"the weights do not fit {kind.__name__}: {len(problems)} parameters would be random",
            where=str(folder),
            problems=[*problems[:_SHOWN], *more],
            hint="train the head first, or name the class the weights were saved from in config.json",
        )
    return model


def _reported(report: Any, key: str) -> Any:
    return report.get(key, ()) if isinstance(report, Mapping) else getattr(report, key, ())


def _part(model: Any, options: SourceOptions) -> str:
    generates = bool(model.can_generate())
    both = bool(getattr(model.config, "is_encoder_decoder", False))
    names = PARTS["encoder-decoder" if both else "decoder"] if generates else PARTS["forward"]
    if options.signature in names:
        return options.signature
    if not options.signature and len(names) == 1:
        return names[0]
    listed = ", ".join(map(repr, names))
    if not options.signature:
        raise UsageError(
            f"{type(model).__name__} has the signatures {listed}; one artifact holds one",
            where=options.model,
            hint=f"choose with --signature {names[0]}",
        )
    raise UsageError(
        f"{type(model).__name__} has no signature {options.signature!r}; {nearest(options.signature, names)}",
        where=options.model,
    )
