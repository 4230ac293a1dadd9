"""The inputs of a PyTorch module by name: example tensors, and how a call is put together from them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.errors import UsageError, nearest

if TYPE_CHECKING:
    import torch

__all__ = [
    "TorchSource", "example_arguments", "filled", "input_sets", "parameters_of", "place", "script_parameters",
    "torch_source",
]  # fmt: skip

_CONSTANTS = (bool, int, float, str, type(None))
_MASKS = 4  # inputs that may be masks are tried one by one


@dataclass(frozen=True, slots=True)
class _Leaf:
    """Where in an argument the input of this name stands."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchSource:
    """A loaded source in eval mode.

    `module` is what the exporter takes, `call` what gives the reference outputs. `inputs` are example tensors
    by name, in the order of the call; `arguments` are the arguments of the call by parameter, each a tensor's
    place or a tuple, list or dict of such. Those in `by_keyword` are passed by name. `scripted`: `module` is
    TorchScript. `ranges` are the least and the largest value of integer inputs, where they are known;
    else the example's.
    """

    module: Any
    call: Callable[..., Any]
    inputs: dict[str, torch.Tensor]
    arguments: dict[str, Any]
    by_keyword: frozenset[str] = frozenset()
    scripted: bool = False
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Named tensors as the (positional, keyword) arguments of `call`."""
        made = {name: filled(tree, tensors) for name, tree in self.arguments.items()}
        args = tuple(value for name, value in made.items() if name not in self.by_keyword)
        return args, {name: value for name, value in made.items() if name in self.by_keyword}


def place(name: str) -> Any:
    """The place of one input in `TorchSource.arguments`."""
    return _Leaf(name)


def parameters_of(forward: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of `forward`, without `**kwargs`."""
    parameters = list(inspect.signature(forward).parameters.values())
    return [p for p in parameters if p.kind is not p.VAR_KEYWORD]


def script_parameters(module: Any) -> list[inspect.Parameter]:
    """The parameters of a TorchScript module's `forward`."""
    return [
        inspect.Parameter(
            a.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=a.default_value if a.has_default_value() else inspect.Parameter.empty,
        )
        for a in module.forward.schema.arguments[1:]
    ]


def torch_source(
    module: Any,
    call: Callable[..., Any],
    parameters: Sequence[inspect.Parameter],
    examples: Any,
    options: SourceOptions,
    **more: Any,
) -> TorchSource:
    """The source whose `call` takes `parameters`; `examples`: a tensor, a tuple, a dict by name, or None.

    Raises `UsageError` for inputs that are unknown, of unknown shape or no tensors.
    """
    arguments = example_arguments(parameters, examples, options)
    inputs: dict[str, torch.Tensor] = {}
    trees = {name: _tree(value, name, inputs, options) for name, value in arguments.items()}
    if unknown := sorted(options.shapes.keys() - inputs.keys()):
        named = {p.name for p in parameters if p.name not in arguments} | inputs.keys()
        raise UsageError(
            f"--shape names {unknown[0]!r}, which is no input of the model; {nearest(unknown[0], named)}",
            where=options.model,
        )
    if not inputs:
        raise UsageError("the model takes no inputs", where=options.model)
    by_keyword = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} & trees.keys()
    by_keyword |= trees.keys() - {p.name for p in parameters} if _takes_any_keyword(call) else set()
    skipped = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in trees]
    if skipped:  # an optional parameter left out: those after it must be passed by name
        first = [p.name for p in parameters].index(skipped[0])
        by_keyword |= {p.name for p in parameters[first:]} & trees.keys()
    fixed = [f"the argument {n!r} is fixed to {v!r}" for n, v in _constants(trees)]
    notes = (*more.pop("notes", ()), *fixed)
    return TorchSource(
        module=module, call=call, inputs=inputs, arguments=trees, by_keyword=frozenset(by_keyword),
        notes=notes, **more,
    )  # fmt: skip


def example_arguments(
    parameters: Sequence[inspect.Parameter], examples: Any, options: SourceOptions
) -> dict[str, Any]:
    """Example arguments by name in the order of `parameters`: tensors, containers of them, constants.

    An input whose shape alone is known (`options.shapes`) is a float tensor of that shape.
    """
    torch = require("torch")
    given = _by_name(parameters, examples, options.model)
    missing = [
        p.name
        for p in parameters
        if p.kind is not p.VAR_POSITIONAL
        and p.default is p.empty
        and p.name not in given
        and p.name not in options.shapes
    ]
    for p in parameters:
        value = given.get(p.name)
        if p.name in given and p.default is p.empty and isinstance(value, _CONSTANTS):
            raise UsageError(
                f"the example input {p.name!r} is a {type(value).__name__}, a tensor is needed",
                where=options.model,
            )
    known = {p.name for p in parameters} | given.keys()
    unknown = [n for n in options.shapes if n not in known and n.partition(".")[0] not in known]
    if unknown:
        raise UsageError(
            f"--shape names {unknown[0]!r}, which is no input of the model; {nearest(unknown[0], known)}",
            where=options.model,
        )
    if missing:
        raise UsageError(
            f"the shape of the input(s) {', '.join(map(repr, missing))} is not known",
            where=options.model,
            hint="give it, for example "
            + " ".join(f"--shape {n}=1,3,224,224" for n in missing)
            + "; in Python example_inputs or shapes={...}",
        )
    allowed = [p.name for p in parameters if p.kind is not p.VAR_POSITIONAL]
    arguments = {}
    for name in [*allowed, *(n for n in given if n not in allowed)]:
        if name in given:
            arguments[name] = given[name]
        elif name in options.shapes:
            arguments[name] = _shaped(torch, None, options.shapes[name])
    return arguments


def input_sets(source: TorchSource) -> Iterator[dict[str, torch.Tensor]]:
    """The example input and others of its shapes, to tell what an exporter baked in for the example.

    First the example; then its mirror image (floats negated, integers in the opposite order); then other
    values (floats three times as large) and their mirror image, since that of zeros is the same; and where
    inputs are 1 everywhere, as a mask of nothing is, the example with the last half of one of them 0.
    """
    torch = require("torch")
    generator = torch.Generator().manual_seed(1)
    example = {n: t.detach().clone().contiguous() for n, t in source.inputs.items()}
    yield dict(example)

    def mirrored(t: Any) -> Any:
        if t.dtype.is_floating_point:
            return -t
        return ~t if t.dtype == torch.bool else t.flip(-1) if t.ndim else t

    def other(name: str, t: Any) -> Any:
        if t.dtype.is_floating_point:
            return (3 * torch.randn(t.shape, generator=generator)).to(t.dtype)
        if t.dtype == torch.bool:
            return torch.rand(t.shape, generator=generator) > 0.5
        low, high = (int(t.min()), int(t.max())) if t.numel() else (0, 0)
        low, high = source.ranges.get(name, (low, high))
        return torch.randint(low, high + 1, t.shape, generator=generator, dtype=t.dtype)

    yield {n: mirrored(t).contiguous() for n, t in example.items()}
    others = {n: other(n, t) for n, t in example.items()}
    yield others
    yield {n: mirrored(t).contiguous() for n, t in others.items()}
    masks = [n for n, t in example.items() if t.ndim and t.shape[-1] > 1 and bool((t == 1).all())]
    for name in masks[:_MASKS]:
        masked = example[name].clone()
        masked[..., masked.shape[-1] // 2 :] = 0
        yield {**example, name: masked}


def filled(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """The argument with the named tensors in their places."""
    if isinstance(tree, _Leaf):
        return tensors[tree.name]
    if isinstance(tree, dict):
        return {key: filled(item, tensors) for key, item in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(filled(item, tensors) for item in tree))
    if isinstance(tree, (tuple, list)):
        return type(tree)(filled(item, tensors) for item in tree)
    return tree


def _tree(value: Any, name: str, inputs: dict[str, torch.Tensor], options: SourceOptions) -> Any:
    """The places of the tensors in an argument; the tensors themselves, by name, go into `inputs`."""
    torch = require("torch")
    if isinstance(value, torch.Tensor):
        if name in options.shapes:
            value = _shaped(torch, value, options.shapes[name])
        inputs[name] = value.detach()
        return _Leaf(name)
    if isinstance(value, Mapping):
        return {key: _tree(item, f"{name}.{key}", inputs, options) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(
            *(_tree(item, f"{name}.{field}", inputs, options)
              for field, item in zip(value._fields, value, strict=True))
        )  # fmt: skip
    if isinstance(value, (tuple, list)):
        return type(value)(_tree(item, f"{name}.{i}", inputs, options) for i, item in enumerate(value))
    if isinstance(value, _CONSTANTS):
        return value
    raise UsageError(
        f"the example input {name!r} is a {type(value).__name__}, a tensor is needed (or a tuple, list or "
        "dict of tensors)",
        where=options.model,
        hint="torch.from_numpy(...) makes a tensor of an array" if hasattr(value, "__array__") else "",
    )


def _constants(trees: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, tree in trees.items():
        if isinstance(tree, _CONSTANTS):
            yield name, tree


def _takes_any_keyword(call: Callable[..., Any]) -> bool:
    forward = getattr(call, "forward", call)
    try:
        kinds = [p.kind for p in inspect.signature(forward).parameters.values()]
    except (TypeError, ValueError):  # TorchScript has no Python signature
        return False
    return inspect.Parameter.VAR_KEYWORD in kinds


def _shaped(torch: Any, example: Any, shape: tuple[int, ...]) -> Any:
    """A tensor of `shape`; with an example, of its dtype and, for integers, within its range."""
    generator = torch.Generator().manual_seed(0)
    if example is not None and tuple(example.shape) == tuple(shape):
        return example
    if example is None or example.dtype.is_floating_point:
        dtype = torch.float32 if example is None else example.dtype
        return torch.randn(shape, generator=generator).to(dtype)
    if example.dtype == torch.bool:
        return torch.rand(shape, generator=generator) > 0.5
    low, high = (int(example.min()), int(example.max())) if example.numel() else (0, 1)
    return torch.randint(low, high + 1, shape, generator=generator, dtype=example.dtype)


def _by_name(parameters: Sequence[inspect.Parameter], examples: Any, where: str) -> dict[str, Any]:
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
        return dict(zip(names, examples, strict=False))
    if not isinstance(examples, Mapping):
        raise UsageError(
            f"the example inputs are a {type(examples).__name__}, a tensor, tuple or dict is needed",
            where=where,
        )
    known = [p.name for p in parameters]
    for name in examples:
        if name not in known:
            raise UsageError(
                f"the example inputs name {name!r}, no parameter of forward(); {nearest(name, known)}",
                where=where,
            )
    return dict(examples)
