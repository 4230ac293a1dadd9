"""What a PyTorch source computes inside: the values by which a wrong export is located."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.arrays import load_arrays, save_arrays
from edgekit.core.codec import decode
from edgekit.core.model import ModelFormat
from edgekit.core.packages import require
from edgekit.core.recipe import SourceOptions
from edgekit.formats.torch_export import opened
from edgekit.formats.torch_inputs import TorchSource

__all__ = ["inner_values"]


def inner_values(
    kind: ModelFormat, options: dict[str, Any], exporter: str, inputs: str, values: str
) -> dict[str, Any]:
    """The step: what the modules inside the source answer on the arrays in the file `inputs`.

    Writes float tensors to the file `values`, in the order of execution, the inner modules first; of a
    torch.export archive what its operations answer. Left out is what no output of the model is made of, for
    exporters drop it. Inside TorchScript there is nothing to listen to. Returns {"kind": what a name stands
    for, "reads": name -> the names its value is made from}.
    """
    torch = require("torch", needed_for="reading PyTorch models")
    asked = decode(SourceOptions, options, where="source")
    with opened(kind, asked) as source, torch.no_grad():
        tensors = {n: torch.from_numpy(a.copy()) for n, a in load_arrays(Path(inputs)).items()}
        given = {**source.inputs, **tensors}
        notes = _of_operations(source, given) if kind == "torch-export" else _of_modules(source, given)
    live = notes.live()
    save_arrays(Path(values), {n: v for n, v in notes.values.items() if n in live})
    what = "operation" if kind == "torch-export" else "module"
    return {"kind": what, "reads": {n: [r for r in notes.reads[n] if r in live] for n in live}}


@dataclass(slots=True)
class _Notes:
    """Values by name in the order of execution, and the data flow between them.

    Flow is followed by storage: views and what is written in place share it. `made` maps one to the names its
    content was last made from; `held` keeps every storage alive, so that none is taken for another.
    """

    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    reads: dict[str, list[str]] = field(default_factory=dict)
    made: dict[int, tuple[str, ...]] = field(default_factory=dict)
    held: list[Any] = field(default_factory=list)
    outputs: tuple[str, ...] = ()

    def flow(self, sources: Iterable[Any], results: Iterable[Any]) -> None:
        """The results are made of the sources."""
        names = tuple(dict.fromkeys(n for t in sources for n in self.made.get(_storage(t), ())))
        for tensor in results:
            key = _storage(tensor)
            self.made[key] = tuple(dict.fromkeys((*self.made.get(key, ()), *names)))
            self.held.append(tensor)

    def note(self, name: str, tensor: Any) -> None:
        """What `name` answered: the tensor as it is now, for it may be written over."""
        unique, count = name, 1
        while unique in self.reads:
            count += 1
            unique = f"{name}, answer {count}"
        self.reads[unique] = list(self.made.get(_storage(tensor), ()))
        self.made[_storage(tensor)] = (unique,)
        self.held.append(tensor)
        self.values[unique] = np.array(tensor.detach().cpu().numpy())

    def end(self, answer: Any) -> None:
        """What the whole model answered."""
        self.outputs = tuple(n for t in _tensors(answer) for n in self.made.get(_storage(t), ()))

    def live(self) -> dict[str, None]:
        """The names that an output is made of, in the order of execution."""
        found, waiting = set(self.outputs), list(self.outputs)
        while waiting:
            for name in self.reads[waiting.pop()]:
                if name not in found:
                    found.add(name)
                    waiting.append(name)
        return {name: None for name in self.reads if name in found}


def _of_modules(source: TorchSource, given: Mapping[str, Any]) -> _Notes:
    notes = _Notes()
    args, kwargs = source.split(given)
    with _listening(source.module, notes, scripted=source.scripted), _flow_mode(notes):
        answer = source.call(*args, **kwargs)
    notes.end(answer)
    return notes


@contextmanager
def _listening(module: Any, notes: _Notes, *, scripted: bool) -> Iterator[None]:
    """Note what every module below `module` answers while it is called."""

    def hook(name: str) -> Any:
        def heard(called: Any, _: Any, answer: Any) -> None:
            for tensor in _tensors(answer):
                if _plain_float(tensor):
                    notes.note(f"{name!r} ({type(called).__name__})", tensor)

        return heard

    with ExitStack() as stack:
        within = [] if scripted else list(module.named_modules())  # a script calls no hooks
        for name, inner in within:
            if inner is not module:
                stack.callback(inner.register_forward_hook(hook(name)).remove)
        yield


def _flow_mode(notes: _Notes) -> Any:
    """A mode in which every operation of PyTorch tells `notes` what it reads and what it writes."""
    torch = require("torch")

    class Flow(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc, name-defined]
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            notes.flow(_tensors((args, kwargs or {})), _tensors(result))
            return result

    return Flow()


def _of_operations(source: TorchSource, given: Mapping[str, Any]) -> _Notes:
    torch = require("torch")
    notes = _Notes()

    class Interpreter(torch.fx.Interpreter):  # type: ignore[misc, name-defined]
        def run_node(self, node: Any) -> Any:
            answer = super().run_node(node)
            if node.op in ("call_function", "call_module", "call_method"):
                notes.flow(_tensors(self.fetch_args_kwargs_from_env(node)), _tensors(answer))
                for tensor in _tensors(answer):
                    if _plain_float(tensor):
                        notes.note(f"{node.name!r} ({node.target})", tensor)
            return answer

    args, kwargs = source.split(given)
    program = source.call
    flat = torch.utils._pytree.tree_leaves((args, kwargs))
    notes.end(Interpreter(program).run(*flat, enable_io_processing=False))
    return notes


def _tensors(tree: Any) -> list[Any]:
    torch = require("torch")
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _storage(tensor: Any) -> int:
    return int(tensor.untyped_storage()._cdata) if tensor.layout is require("torch").strided else id(tensor)


def _plain_float(tensor: Any) -> bool:
    torch = require("torch")
    floats = (torch.float16, torch.float32, torch.float64)
    return bool(tensor.layout is torch.strided and tensor.dtype in floats)
