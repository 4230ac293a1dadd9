"""Load a PyTorch source as a callable with named inputs: a factory's module, TorchScript or a .pt2."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.core.model import ModelFormat
from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError, nearest
from edgekit.formats import require_trust, split_factory
from edgekit.formats.torch_state import load_state

if TYPE_CHECKING:
    import torch

__all__ = ["TorchSource", "load_torch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSource:
    """A loaded source in eval mode.

    `module` is what the exporter takes, `call` what gives the reference outputs. `inputs` are example tensors
    by name, in the order of the call. The names in `by_keyword` are passed by name.
    """

    module: Any
    call: Callable[..., Any]
    inputs: dict[str, torch.Tensor]
    by_keyword: frozenset[str]
    notes: tuple[str, ...] = ()

    def split(self, tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Named tensors as the (positional, keyword) arguments of `call`."""
        args = tuple(tensors[n] for n in self.inputs if n not in self.by_keyword)
        return args, {n: tensors[n] for n in self.inputs if n in self.by_keyword}


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
    parameters = _parameters(module.forward)
    inputs = _named_inputs(parameters, examples, options)
    by_keyword = frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY) & inputs.keys()
    skipped = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in inputs]
    if skipped:  # an optional parameter left out: those after it must be passed by name
        first = [p.name for p in parameters].index(skipped[0])
        by_keyword |= {p.name for p in parameters[first:]} & inputs.keys()
    return TorchSource(module=module, call=module, inputs=inputs, by_keyword=by_keyword, notes=notes)


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
    arguments = module.forward.schema.arguments[1:]
    parameters = [
        inspect.Parameter(
            a.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=a.default_value if a.has_default_value() else inspect.Parameter.empty,
        )
        for a in arguments
    ]
    inputs = _named_inputs(parameters, None, options)
    return TorchSource(module=module, call=module, inputs=inputs, by_keyword=frozenset())


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
    args, kwargs = program.example_inputs or ((), {})
    names = [str(n) for n in program.graph_signature.user_inputs]
    tensors = [*args, *kwargs.values()]
    if len(names) != len(tensors) or not all(isinstance(t, torch.Tensor) for t in tensors):
        raise UsageError(
            "the archive does not hold one example tensor for each input",
            where=options.model,
            hint="export with plain tensors as inputs: torch.export.export(module, (tensor, ...))",
        )
    parameters = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in names]
    examples = dict(zip(names, tensors, strict=True))
    shapes, notes = _shapes_of_open_dimensions(program, examples, options)
    inputs = _named_inputs(parameters, examples, replace(options, shapes=shapes))
    keywords = frozenset(names[len(args) :])
    return TorchSource(
        module=program, call=program.module(), inputs=inputs, by_keyword=keywords, notes=tuple(notes)
    )


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


def _parameters(forward: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(forward).parameters.values())
    return [p for p in parameters if p.kind is not p.VAR_KEYWORD]


def _named_inputs(
    parameters: Sequence[inspect.Parameter], examples: Any, options: SourceOptions
) -> dict[str, torch.Tensor]:
    """Example tensors by name in the order of `parameters`: --shape first, then the factory's examples."""
    torch = require("torch")
    given = _examples_by_name(parameters, examples, options.model)
    allowed = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    named = {p.name for p in parameters} | given.keys()
    if unknown := sorted(options.shapes.keys() - named):
        raise UsageError(
            f"--shape names {unknown[0]!r}, which is no input of the model; {nearest(unknown[0], named)}",
            where=options.model,
        )
    missing = [
        p.name
        for p in parameters
        if p.kind is not p.VAR_POSITIONAL
        and p.default is p.empty
        and p.name not in given
        and p.name not in options.shapes
    ]
    if missing:
        raise UsageError(
            f"the shape of the input(s) {', '.join(map(repr, missing))} is not known",
            where=options.model,
            hint="give it, for example " + " ".join(f"--shape {n}=1,3,224,224" for n in missing),
        )
    inputs = {}
    for name in [*allowed, *(n for n in given if n not in allowed)]:
        if name in options.shapes:
            inputs[name] = _shaped(torch, given.get(name), options.shapes[name])
        elif name in given:
            inputs[name] = given[name]
    if not inputs:
        raise UsageError("the model takes no inputs", where=options.model)
    return inputs


def _shaped(torch: Any, example: Any, shape: tuple[int, ...]) -> Any:
    """A tensor of `shape`; with an example, of its dtype and, for integers, within its range."""
    generator = torch.Generator().manual_seed(0)
    if example is None or example.dtype.is_floating_point:
        dtype = torch.float32 if example is None else example.dtype
        return torch.randn(shape, generator=generator).to(dtype)
    if tuple(example.shape) == tuple(shape):
        return example
    if example.dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.5
    low, high = (int(example.min()), int(example.max())) if example.numel() else (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator, dtype=example.dtype)


def _examples_by_name(
    parameters: Sequence[inspect.Parameter], examples: Any, where: str
) -> dict[str, torch.Tensor]:
    torch = require("torch")
    if examples is None:
        return {}
    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    if isinstance(examples, (tuple, list)):
        names: list[str] = []
        for p in parameters:
            if p.kind is p.VAR_POSITIONAL:
                names += [f"{p.name}_{i}" for i in range(len(examples) - len(names))]
            elif p.kind is not p.KEYWORD_ONLY:
                names.append(p.name)
        if len(examples) > len(names):
            raise UsageError(
                f"{len(examples)} example inputs for {len(names)} parameters of forward()", where=where
            )
        examples = dict(zip(names, examples, strict=False))
    elif not isinstance(examples, Mapping):
        raise UsageError(
            f"the example inputs are a {type(examples).__name__}, a tensor, tuple or dict is needed",
            where=where,
        )
    else:
        known = [p.name for p in parameters]
        for name in examples:
            if name not in known:
                raise UsageError(
                    f"the example inputs name {name!r}, no parameter of forward(); {nearest(name, known)}",
                    where=where,
                )
    for name, value in examples.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"the example input {name!r} is a {type(value).__name__}, a tensor is needed", where=where
            )
    return dict(examples)
