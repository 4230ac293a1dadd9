"""Export a PyTorch source to ONNX with one of PyTorch's exporters, and keep what its module answers."""

from __future__ import annotations

import contextlib
import io
import re
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.core.arrays import save_arrays
from edgekit.core.codec import decode
from edgekit.core.model import CANONICAL_OPSET, ModelFormat
from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Reason, Unsupported, UsageError
from edgekit.formats.torch_load import TorchSource, load_torch

if TYPE_CHECKING:
    import torch

__all__ = ["Exporter", "export"]

Exporter = Literal["legacy", "dynamo"]
_LEGACY_OPSETS = tuple(range(CANONICAL_OPSET, 16, -1))  # below 17 LayerNormalization would be taken apart


def export(kind: ModelFormat, options: dict[str, Any], exporter: Exporter, out: str) -> dict[str, Any]:
    """The step: export the source named by `options` (a `SourceOptions` as JSON) into the folder `out`.

    Writes `exported.onnx`, and for each input set N `N.inputs.npz` and `N.outputs.npz`, the module's own
    answers. Set 0 is the example input, set 1 its mirror image (floats negated), set 2 other values three
    times as large: a branch that the exporter baked in for the example shows in the others. Returns
    {"sets": number of sets, "shapes": shape of each input, "notes": [...]}. Raises `UsageError`, or
    `Unsupported` when the exporter fails.
    """
    torch = require("torch", needed_for="reading PyTorch models")
    asked = decode(SourceOptions, options, where="source")
    model = asked.model
    source = load_torch(kind, asked)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        sets = _input_sets(source.inputs)
        names: list[str] = []
        for index, tensors in enumerate(sets):
            answer = _answers(source, tensors, model)
            names = list(answer)
            save_arrays(folder / f"{index}.inputs.npz", {n: t.numpy() for n, t in tensors.items()})
            save_arrays(folder / f"{index}.outputs.npz", {n: t.numpy() for n, t in answer.items()})
        notes = _write(source, kind, exporter, names, folder / "exported.onnx", model)
    fixed = {name: list(t.shape) for name, t in source.inputs.items()}
    return {"sets": len(sets), "shapes": fixed, "notes": [*source.notes, *notes]}


def _input_sets(example: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    torch = require("torch")
    generator = torch.Generator().manual_seed(1)

    def mirrored(t: Any) -> Any:
        if t.dtype.is_floating_point:
            return -t
        return ~t if t.dtype == torch.bool else t.flip(-1) if t.ndim else t

    def other(t: Any) -> Any:
        if t.dtype.is_floating_point:
            return (3 * torch.randn(t.shape, generator=generator)).to(t.dtype)
        if t.dtype == torch.bool:
            return torch.rand(t.shape, generator=generator) > 0.5
        low, high = (int(t.min()), int(t.max())) if t.numel() else (0, 0)
        return torch.randint(low, high + 1, t.shape, generator=generator, dtype=t.dtype)

    return [
        {n: t.detach().clone().contiguous() for n, t in example.items()},
        {n: mirrored(t.detach()).contiguous() for n, t in example.items()},
        {n: other(t) for n, t in example.items()},
    ]


def _answers(source: TorchSource, tensors: Mapping[str, torch.Tensor], model: str) -> dict[str, torch.Tensor]:
    args, kwargs = source.split({n: t.clone() for n, t in tensors.items()})
    try:
        outputs = source.call(*args, **kwargs)
    except Exception as err:  # the user's own code: whatever it raises is for them to see
        raise UsageError(
            f"the module raised {type(err).__name__} on its example inputs: {err}",
            where=model,
            hint="check --shape: " + ", ".join(f"{n} is {tuple(t.shape)}" for n, t in tensors.items()),
        ) from err
    named = _named_outputs(outputs, model)
    return {name: tensor.detach().contiguous() for name, tensor in named.items()}


def _named_outputs(outputs: Any, model: str) -> dict[str, torch.Tensor]:
    """Tensors by name: the keys of a dict, else "output", "output_1", ... in the order they come."""
    flat = list(_flatten(outputs, ""))
    named: dict[str, torch.Tensor] = {}
    unnamed = 0
    for key, tensor in flat:
        name = key
        if not name:
            name = "output" if unnamed == 0 else f"output_{unnamed}"
            unnamed += 1
        if name in named:
            raise UsageError(f"two outputs are named {name!r}", where=model)
        named[name] = tensor
    if not named:
        raise UsageError(f"forward() returned {type(outputs).__name__}, tensors are needed", where=model)
    return named


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    torch = require("torch")
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (tuple, list)):
        for i, item in enumerate(value):
            yield from _flatten(item, f"{name}.{i}" if name else "")


def _write(
    source: TorchSource, kind: ModelFormat, exporter: Exporter, outputs: list[str], path: Path, model: str
) -> list[str]:
    refusal = "TorchScript is read by the legacy exporter alone" if kind == "torchscript" else ""
    if exporter == "legacy":
        refusal = ".pt2 is read by the dynamo exporter alone" if kind == "torch-export" else ""
    if refusal:
        raise Unsupported(refusal, where=model)
    try:
        if exporter == "legacy":
            # A script cannot be called inside the trace of a wrapper; it is exported as it is.
            module = source.module if kind == "torchscript" else _wrapped(source)
            return [_legacy(module, source, outputs, path)]
        return [_dynamo(source, outputs, path, kind)]
    except Exception as err:  # the exporters raise anything; the border where it becomes a typed refusal
        traceback.print_exc()
        raise Unsupported(
            f"PyTorch's {exporter} exporter failed", where=model, reasons=[Reason(why=_cause(err))]
        ) from err


def _wrapped(source: TorchSource) -> Any:
    """The module with tensors by position and a flat tuple of tensors as its answer."""
    torch = require("torch")

    class Flat(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = source.module

        def forward(self, *tensors: Any) -> Any:
            args, kwargs = source.split(dict(zip(source.inputs, tensors, strict=True)))
            return tuple(tensor for _, tensor in _flatten(self.model(*args, **kwargs), ""))

    return Flat().eval()


def _legacy(module: Any, source: TorchSource, outputs: list[str], path: Path) -> str:
    torch = require("torch")
    failure: Exception | None = None
    for opset in _LEGACY_OPSETS:
        try:
            torch.onnx.export(
                module,
                tuple(source.inputs.values()),
                str(path),
                dynamo=False,
                opset_version=opset,
                # The module is in inference mode. EVAL would fold BatchNorm, which one canonical form keeps.
                training=torch.onnx.TrainingMode.PRESERVE,
                input_names=list(source.inputs),
                output_names=outputs,
            )
        except torch.onnx.errors.UnsupportedOperatorError as err:
            failure = err
            continue
        return f"exported by PyTorch's legacy exporter at opset {opset}"
    assert failure is not None
    raise failure


def _dynamo(source: TorchSource, outputs: list[str], path: Path, kind: ModelFormat) -> str:
    torch = require("torch")
    require("onnxscript", needed_for="PyTorch's dynamo exporter")
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(
            source.module if kind == "torch-export" else _wrapped(source),
            () if kind == "torch-export" else tuple(source.inputs.values()),
            str(path),
            dynamo=True,
            opset_version=CANONICAL_OPSET,
            input_names=list(source.inputs),
            output_names=outputs,
            external_data=False,
            verbose=False,
        )
    return "exported by PyTorch's dynamo exporter"


def _cause(err: BaseException) -> str:
    """What an exporter says, in one line: without colours and without its advice on filing reports."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(err))
    text = text.rpartition("## Exception summary")[2]
    return f"{type(err).__name__}: {' '.join(text.split())[:400]}"
