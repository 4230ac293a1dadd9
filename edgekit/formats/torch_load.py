"""Load a PyTorch source as a callable with named inputs: a factory's module, TorchScript or a .pt2."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.model import ModelFormat
from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError, nearest
from edgekit.formats import require_trust, split_factory
from edgekit.formats.torch_inputs import TorchSource, parameters_of, script_parameters, torch_source
from edgekit.formats.torch_state import load_state
from edgekit.formats.transformers_load import load_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["load_torch"]


def load_torch(kind: ModelFormat, options: SourceOptions) -> TorchSource:
    """Load the source named by `options`, in eval mode, with example inputs.

    Raises `UsageError` for what the user can correct: trust not given, a factory that is not there or fails,
    a state dict that does not fit, inputs of unknown shape.
    """
    torch = require("torch", needed_for="reading PyTorch models")
    require_trust(kind, options)
    torch.set_num_threads(2)
    torch.manual_seed(0)  # a factory with random weights gives the same weights each time
    # The fast path of TransformerEncoder zeroes padded positions and cannot be exported.
    torch.backends.mha.set_fastpath_enabled(False)
    if kind == "torch-export":
        return _load_exported(options)
    if kind == "torchscript":
        return _load_script(options)
    if kind == "transformers":
        return load_transformers(options)
    return _load_factory(options)


def _load_factory(options: SourceOptions) -> TorchSource:
    torch = require("torch")
    path, name = split_factory(options.model)
    module, examples = _call_factory(path, name, options.model)
    notes: tuple[str, ...] = ()
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{name}() returned {type(module).__name__}, a torch.nn.Module is needed",
            where=options.model,
            hint="return the module, or (module, example inputs)",
        )
    if options.state:
        notes += load_state(module, Path(options.state))
    else:
        notes += ("no --state was given: the weights are those the factory made",)
    module = module.eval()
    return torch_source(module, module, parameters_of(module.forward), examples, options, notes=notes)


def _call_factory(path: Path, name: str, where: str) -> tuple[Any, Any]:
    folder = str(path.absolute().parent)
    sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UsageError("this file cannot be imported as Python", where=where)
    python = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = python
    torch = require("torch")
    try:
        spec.loader.exec_module(python)
    except Exception as err:  # the user's own code: whatever it raises is for them to see
        raise _user_code_failed(f"importing {path.name}", err, where) from err
    if not hasattr(python, name):
        callables = [n for n, v in vars(python).items() if callable(v) and not n.startswith("_")]
        own = [n for n in callables if getattr(getattr(python, n), "__module__", "") == path.stem]
        raise UsageError(f"{path.name} has no {name!r}; {nearest(name, own)}", where=where)
    factory = getattr(python, name)
    if isinstance(factory, torch.nn.Module):
        return factory, None
    if not callable(factory):
        raise UsageError(f"{name!r} is a {type(factory).__name__}, a function is needed", where=where)
    try:
        made = factory()
    except Exception as err:  # the user's own code, again
        raise _user_code_failed(f"{name}()", err, where) from err
    if isinstance(made, tuple) and len(made) == 2:
        return made
    return made, None


def _user_code_failed(what: str, err: Exception, where: str) -> UsageError:
    traceback.print_exc()
    frames = [f for f in traceback.extract_tb(err.__traceback__) if "importlib" not in f.filename]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return UsageError(f"{what} raised {type(err).__name__}{place}: {err}", where=where)


def _load_script(options: SourceOptions) -> TorchSource:
    torch = require("torch")
    try:
        module = torch.jit.load(options.model, map_location="cpu")
    except (RuntimeError, ValueError) as err:
        raise UsageError(
            f"not a TorchScript file that can be read: {str(err).splitlines()[0]}",
            where=options.model,
            hint="save it again with torch.jit.save, with a PyTorch no newer than the one installed here",
        ) from err
    # A trace has its own `training` flag in every submodule: eval() reaches them all.
    module = module.eval()
    return torch_source(module, module, script_parameters(module), None, options, scripted=True)


def _load_exported(options: SourceOptions) -> TorchSource:
    torch = require("torch")
    try:
        program = torch.export.load(options.model)
    except (RuntimeError, ValueError, KeyError, AssertionError, OSError) as err:
        raise UsageError(
            f"not a torch.export archive that can be read: {str(err).splitlines()[0]}",
            where=options.model,
            hint="save it again with torch.export.save, with the PyTorch version installed here",
        ) from err
    pytree = torch.utils._pytree
    values, structure = pytree.tree_flatten(program.example_inputs or ((), {}))
    names = [str(n) for n in program.graph_signature.user_inputs]
    if len(names) != len(values) or not any(isinstance(v, torch.Tensor) for v in values):
        raise UsageError(
            "the archive does not hold one example for each input",
            where=options.model,
            hint="export with plain tensors as inputs: torch.export.export(module, (tensor, ...))",
        )
    examples = {n: v for n, v in zip(names, values, strict=True) if isinstance(v, torch.Tensor)}
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in examples]
    shapes, notes = _shapes_of_open_dimensions(program, examples, options)
    source = torch_source(
        program, program.module(), parameters, examples, replace(options, shapes=shapes), notes=notes
    )
    # The inputs as they stand in the call that was exported, however nested.
    places = [source.arguments.get(n, v) for n, v in zip(names, values, strict=True)]
    args, kwargs = pytree.tree_unflatten(places, structure)
    by_position = {f"argument {i}": tree for i, tree in enumerate(args)}
    return replace(source, arguments={**by_position, **kwargs}, by_keyword=frozenset(kwargs))


def _shapes_of_open_dimensions(
    program: Any, examples: Mapping[str, torch.Tensor], options: SourceOptions
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """The shapes asked for; for other inputs with dynamic dimensions 1 for the first, else the example's."""
    shapes, notes = dict(options.shapes), []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in examples or node.name in shapes:
            continue
        sizes = list(examples[node.name].shape)
        dynamic = [i for i, size in enumerate(node.meta["val"].shape) if not isinstance(size, int)]
        for i in dynamic:
            sizes[i] = 1 if i == 0 else sizes[i]
            notes.append(f"dimension {i} of the input {node.name!r} was dynamic and is fixed to {sizes[i]}")
        if dynamic:
            shapes[node.name] = tuple(sizes)
    return shapes, notes
