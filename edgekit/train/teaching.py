"""A teacher: a network whose answers, and the outputs of some of whose layers, another is to give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from edgekit.core.packages import require
from edgekit.errors import Unsupported, UsageError, nearest

__all__ = ["Call", "Teacher", "matching_layers", "named_call", "watch"]

Call = Callable[[Any, Mapping[str, Any]], dict[str, Any]]  # (module, inputs by name) -> outputs by name


def named_call(module: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Call a module by the names of its inputs and outputs.

    One that `edgekit.train.trainable` made takes its inputs in order and gives a tensor or a tuple; any other
    is given the dict and must give one.
    """
    names = getattr(module, "meta", {})
    if "inputs" not in names:
        answer = module(inputs)
        if not isinstance(answer, Mapping):
            raise UsageError(
                f"the module gave {type(answer).__name__}; a dict of outputs by name is needed",
                hint="return {'name': tensor, ...}",
            )
        return dict(answer)
    answer = module(*(inputs[name] for name in names["inputs"]))
    outputs = names["outputs"]
    return dict(zip(outputs, answer if isinstance(answer, (tuple, list)) else (answer,), strict=True))


@dataclass(slots=True, kw_only=True)
class Teacher:
    """`module` in eval mode, its parameters frozen; `layers` are the submodules that are watched."""

    module: Any
    layers: Sequence[str] = ()
    call: Call = named_call
    _seen: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module.eval()
        self.module.requires_grad_(False)
        watch(self.module, self.layers, self._seen)

    def answer(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Outputs by name, and the outputs of the watched layers by layer, without gradients."""
        torch = require("torch")
        with torch.no_grad():
            outputs = self.call(self.module, inputs)
        return outputs, dict(self._seen)

    def check_outputs(self, outputs: Mapping[str, Any], features: Mapping[str, Any], inputs: Any) -> None:
        """Refuse a student whose answers cannot be compared with this teacher's, once, on an example."""
        taught, wanted = self.answer(inputs)
        problems = [
            f"output {name!r}: {_shape(value)}, the teacher's {_shape(taught.get(name))}"
            for name, value in outputs.items()
            if _shape(value) != _shape(taught.get(name))
        ]
        problems += [
            f"layer {name!r}: {_shape(features.get(name))}, the teacher's {_shape(value)} (name layers whose "
            "width is the same in both)"
            for name, value in wanted.items()
            if _shape(features.get(name)) != _shape(value)
        ]
        if problems:
            raise UsageError("student and teacher cannot be compared", problems=problems)


def watch(module: Any, layers: Sequence[str], seen: dict[str, Any]) -> list[Any]:
    """Keep what these submodules give, call by call, in `seen`; the handles `remove` the watch again.

    Of a module of several `policies`, of which each call is one's, all are watched.
    """
    handles = []
    holders = getattr(module, "policies", [module])
    for name in layers:

        def keep(_module: Any, _inputs: Any, output: Any, name: str = name) -> None:
            if not hasattr(output, "shape"):
                raise Unsupported(f"the layer {name!r} gives {type(output).__name__}, a tensor is needed")
            seen[name] = output

        handles += [holder.get_submodule(name).register_forward_hook(keep) for holder in holders]
    return handles


def matching_layers(module: Any, patterns: Sequence[str]) -> tuple[str, ...]:
    """The submodules without children whose names match. Raises `UsageError` for a glob that none does."""
    names = [name for name, child in module.named_modules() if name and not any(child.children())]
    unknown = [p for p in patterns if not any(fnmatchcase(n, p) for n in names)]
    if unknown:
        problems = [f"{p!r}: {nearest(p, names)}" for p in unknown]
        raise UsageError("features: no layer has such a name", problems=problems)
    return tuple(n for n in names if any(fnmatchcase(n, p) for p in patterns))


def _shape(value: Any) -> str:
    return "missing" if value is None else str(list(value.shape))
