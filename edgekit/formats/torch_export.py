"""Export a PyTorch source to ONNX with one of PyTorch's exporters, and keep what its module answers."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgekit.core.arrays import save_arrays
from edgekit.core.codec import decode
from edgekit.core.model import CANONICAL_OPSET, ModelFormat
from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import Reason, Unsupported, UsageError
from edgekit.formats.torch_inputs import TorchSource, input_sets
from edgekit.formats.torch_load import load_torch
from edgekit.formats.torch_module import borrowed
from edgekit.formats.torch_outputs import named_outputs, tensors_of
from edgekit.formats.torch_weights import weights_apart

if TYPE_CHECKING:
    import torch

__all__ = ["Exporter", "export", "opened"]

Exporter = Literal["legacy", "dynamo"]
_LEGACY_OPSETS = tuple(range(CANONICAL_OPSET, 16, -1))  # below 17 LayerNormalization would be taken apart


def export(kind: ModelFormat, options: dict[str, Any], exporter: Exporter, out: str) -> dict[str, Any]:
    """The step: export the source named by `options` (a `SourceOptions` as JSON) into the folder `out`.

    Writes `exported.onnx`, and for each input set N `N.inputs.npz` and `N.outputs.npz`, the module's own
    answers. Set 0 is the example input; a branch that the exporter baked in for it shows in the others (see
    `input_sets`), of which those that the module cannot take are left out. Returns {"sets": number of sets,
    "shapes": shape of each input, "notes": [...]}. Raises `UsageError`, or `Unsupported` when the exporter
    fails. A module in memory ("torch-module") is exported where it lives: call this in its own process.
    """
    torch = require("torch", needed_for="reading PyTorch models")
    asked = decode(SourceOptions, options, where="source")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with opened(kind, asked) as source, torch.no_grad():
        names, count, notes = _answer_sets(source, folder, asked.model)
        said = _write(source, kind, exporter, names, folder / "exported.onnx", asked.model)
        fixed = {name: list(t.shape) for name, t in source.inputs.items()}
        return {"sets": count, "shapes": fixed, "notes": [*source.notes, *notes, *said]}


@contextlib.contextmanager
def opened(kind: ModelFormat, asked: SourceOptions) -> Iterator[TorchSource]:
    """The source, loaded; a module in memory ("torch-module") is borrowed, and its process kept quiet."""
    if kind == "torch-module":
        with borrowed(asked) as source, _quiet():
            yield source
    else:
        yield load_torch(kind, asked)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """In a process that is not ours the exporters' warnings, logs and dumps of graphs are kept back."""
    before = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(warnings.catch_warnings())
        stack.callback(logging.disable, before)
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        yield


def _answer_sets(source: TorchSource, folder: Path, model: str) -> tuple[list[str], int, tuple[str, ...]]:
    """Write the input sets and the answers to them: the names of the outputs, the number of sets, notes."""
    names: list[str] = []
    notes: tuple[str, ...] = ()
    count = 0
    for index, tensors in enumerate(input_sets(source)):
        try:
            answer, left_out = _answers(source, tensors, model)
        except UsageError:
            if index == 0:
                raise
            continue  # the values were ours: a module may refuse them
        if index == 0:
            names, notes = list(answer), left_out
        elif any(not bool(t.isfinite().all()) for t in answer.values()):
            continue
        save_arrays(folder / f"{count}.inputs.npz", {n: t.numpy() for n, t in tensors.items()})
        save_arrays(folder / f"{count}.outputs.npz", {n: t.numpy() for n, t in answer.items()})
        count += 1
    if count == 1:
        notes += ("proven on the example input alone: the module takes no other values",)
    return names, count, notes


def _answers(
    source: TorchSource, tensors: Mapping[str, torch.Tensor], model: str
) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
    torch = require("torch")
    args, kwargs = source.split({n: t.clone() for n, t in tensors.items()})
    try:
        outputs = source.call(*args, **kwargs)
    except Exception as err:  # the user's own code: whatever it raises is for them to see
        shapes = ", ".join(
            f"{n} is {t.dtype}{list(t.shape)}".replace("torch.", "") for n, t in tensors.items()
        )
        raise UsageError(
            f"the module raised {type(err).__name__} on its example inputs: {err}",
            where=model,
            hint=f"check the example inputs and --shape: {shapes}",
        ) from err
    named, left_out = named_outputs(outputs, model)
    for name, tensor in [*tensors.items(), *named.items()]:
        if tensor.dtype == torch.bfloat16 or tensor.is_complex() or tensor.is_quantized or tensor.is_sparse:
            raise UsageError(
                f"{name!r} is {'sparse' if tensor.is_sparse else tensor.dtype}, which no target takes",
                where=model,
                hint="call module.float()" if tensor.dtype == torch.bfloat16 else "return plain tensors",
            )
    return {name: tensor.detach().contiguous() for name, tensor in named.items()}, left_out


def _write(
    source: TorchSource, kind: ModelFormat, exporter: Exporter, outputs: list[str], path: Path, model: str
) -> list[str]:
    refusal = "TorchScript is read by the legacy exporter alone" if source.scripted else ""
    if exporter == "legacy":
        refusal = ".pt2 is read by the dynamo exporter alone" if kind == "torch-export" else ""
    if refusal:
        raise Unsupported(refusal, where=model)
    try:
        if exporter == "legacy":
            # A script cannot be called inside the trace of a wrapper; it is exported as it is.
            module = source.module if source.scripted else _wrapped(source)
            return [_legacy(module, source, outputs, path)]
        return [_dynamo(source, outputs, path, kind)]
    except Exception as err:  # the exporters raise anything; the border where it becomes a typed refusal
        if kind != "torch-module":  # into the step's log
            traceback.print_exc()
        raise Unsupported(
            f"PyTorch's {exporter} exporter failed", where=model, reasons=[_cause(err)]
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
            return tensors_of(self.model(*args, **kwargs))

    return Flat().eval()


def _legacy(module: Any, source: TorchSource, outputs: list[str], path: Path) -> str:
    torch = require("torch")
    failure: Exception | None = None
    for opset in _LEGACY_OPSETS:
        try:
            with weights_apart(path):
                torch.onnx.export(
                    module,
                    tuple(source.inputs.values()),
                    str(path),
                    dynamo=False,
                    opset_version=opset,
                    # The module is in inference mode. EVAL would fold BatchNorm, which one canonical form
                    # keeps.
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
            external_data=True,  # in one piece it would be in memory four times over
            verbose=False,
        )
    return "exported by PyTorch's dynamo exporter"


def _cause(err: BaseException) -> Reason:
    """What an exporter says, in one line: without colours and without its advice on filing reports."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(err))
    text = text.rpartition("## Exception summary")[2]
    lines = re.findall(r'File "([^"]+)", line (\d+), in \w+\n +(.+)', text)
    if "data-dependent" in text and lines:
        file, line, code = lines[-1]
        return Reason(
            why=f"what runs is data-dependent: {Path(file).name}:{line}: {code.strip()}",
            hint="compute both ways and choose with torch.where, or make each way a model of its own",
        )
    return Reason(why=f"{type(err).__name__}: {' '.join(text.split())[:400]}")
