"""A `torch.nn.Module` that lives in this process: borrowed for an export, given back as it was."""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError
from edgekit.formats.torch_inputs import TorchSource, parameters_of, script_parameters, torch_source

__all__ = ["borrowed", "module_file", "plain_attention", "program_file"]

_SUFFIX = ".module"


@dataclass(frozen=True, slots=True)
class _Live:
    module: Any
    examples: Any


_live: dict[str, _Live] = {}  # the modules that `module_file` holds open, by the path of their file


@contextmanager
def module_file(module: Any, examples: Any) -> Iterator[str]:
    """A file that stands for a module in this process: `borrowed` finds the module by its path.

    The file holds the class, the parameters' and buffers' names, shapes, dtypes and SHA-256, and nothing that
    could be run. A compiled or data-parallel module is taken out of its wrapper. Raises `UsageError` for
    parameters that have no values yet.
    """
    module = _unwrapped(module)
    name = type(module).__name__
    _check_values(module, name)
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / f"{name}{_SUFFIX}"
        path.write_text(json.dumps(_fingerprint(module), indent=1), encoding="utf-8")
        _live[str(path)] = _Live(module, examples)
        try:
            yield str(path)
        finally:
            del _live[str(path)]


@contextmanager
def program_file(program: Any) -> Iterator[str]:
    """A temporary .pt2 file of a `torch.export.ExportedProgram`."""
    torch = require("torch")
    with tempfile.TemporaryDirectory(prefix="edgekit-") as folder:
        path = Path(folder) / "program.pt2"
        torch.export.save(program, str(path))
        yield str(path)


@contextmanager
def borrowed(options: SourceOptions) -> Iterator[TorchSource]:
    """The module behind a file of `module_file`, on the CPU, in eval mode, with its inputs by name.

    What the loan changes is put back: the mode of every submodule, buffers, the attention of Transformers and
    PyTorch's own switches. A module on another device is copied. Raises `UsageError` when the file stands for
    no module of this process, and for inputs that do not fit.
    """
    torch = require("torch", needed_for="reading PyTorch models")
    live = _live.get(options.model)
    if live is None:
        raise UsageError(
            "this file stands for a module in the memory of another process",
            where=options.model,
            hint="give the module itself to edgekit.convert, or module.py:factory",
        )
    module = live.module
    if any(t.device.type != "cpu" for t in [*module.parameters(), *module.buffers()]):
        module = copy.deepcopy(module).cpu()
    fast = torch.backends.mha.get_fastpath_enabled()
    modes = [(one, one.training) for one in module.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    with ExitStack() as stack:
        notes = stack.enter_context(plain_attention(module))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        stack.callback(_put_back, modes, buffers)
        torch.backends.mha.set_fastpath_enabled(False)
        module.eval()
        scripted = isinstance(module, torch.jit.ScriptModule)
        parameters = script_parameters(module) if scripted else parameters_of(module.forward)
        examples = _on_cpu(live.examples)
        yield torch_source(module, module, parameters, examples, options, scripted=scripted, notes=notes)


@contextmanager
def plain_attention(module: Any) -> Iterator[tuple[str, ...]]:
    """Transformers' models compute attention by plain products inside: fused kernels do not export well.

    Yields a note when that changed anything; what was there before is put back.
    """
    inside = [(m, m.config) for m in module.modules() if _chooses_attention(m)]
    before = [(config, config._attn_implementation) for _, config in inside]
    other = sorted({str(name) for _, name in before if name not in (None, "eager")})
    try:
        for config, _ in before:
            config._attn_implementation = "eager"
        yield (f"attention is exported as plain products ('eager'), not {', '.join(other)}",) if other else ()
    finally:
        for config, name in before:
            config._attn_implementation = name


def _chooses_attention(module: Any) -> bool:
    config = getattr(module, "config", None)
    return config is not None and hasattr(type(config), "_attn_implementation")


def _unwrapped(module: Any) -> Any:
    torch = require("torch")
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(module, parallel):
            module = module.module
        elif hasattr(module, "_orig_mod"):  # torch.compile
            module = module._orig_mod
        else:
            return module


def _check_values(module: Any, name: str) -> None:
    torch = require("torch")
    tensors = [*module.named_parameters(), *module.named_buffers()]
    lazy = [key for key, t in tensors if torch.nn.parameter.is_lazy(t)]
    if lazy:
        raise UsageError(
            f"{name}: the parameter {lazy[0]!r} has no shape yet", hint="call the module once on an example"
        )
    empty = [key for key, t in tensors if t.device.type == "meta"]
    if empty:
        raise UsageError(
            f"{name}: the parameter {empty[0]!r} is on the meta device and holds no values",
            hint="load the weights first",
        )


def _fingerprint(module: Any) -> dict[str, Any]:
    torch = require("torch")
    kind = type(module)
    tensors = {}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        whole = tensor.detach().cpu().contiguous()
        raw = whole.reshape(-1).view(torch.uint8).numpy() if whole.numel() else b""
        tensors[name] = [str(whole.dtype), list(whole.shape), hashlib.sha256(raw).hexdigest()]
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "tensors": tensors}


def _put_back(modes: list[tuple[Any, bool]], buffers: list[tuple[Any, Any]]) -> None:
    torch = require("torch")
    for one, training in modes:
        one.training = training
    with torch.no_grad():
        for buffer, before in buffers:
            if buffer.shape == before.shape and not torch.equal(buffer, before):
                buffer.copy_(before)


def _on_cpu(value: Any) -> Any:
    torch = require("torch")
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):  # a dict, or what a tokenizer returns
        return {key: _on_cpu(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(_on_cpu(item) for item in value)
    return value
