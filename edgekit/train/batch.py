"""Free the first axis of a graph that was exported with a batch of one, and prove it node by node."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from edgekit.core.packages import require
from edgekit.errors import Unsupported
from edgekit.graph.generate import generate_inputs
from edgekit.train.operators.moving import broadcast_to

__all__ = ["fixed_batch", "free_batch"]

_RELATIVE = 1e-3  # float sums in another order; a value in the wrong place is far beyond it


def free_batch(module: Any, path: Path) -> Any:
    """The module with shapes opened so that any batch goes through; or one that refuses all but its own.

    Before: sizes of a batch of one stand in Reshape and Expand. Two generated input sets run alone and
    joined along their batch axes. At every node the joined answer must be the two answers joined along one
    axis, or along a part of one, or equal to both; where it is not, the places of a shape that could hold the
    batch are tried, first that with as much before the batch as there was. Must not change: what a batch of
    one gives. `meta["batch"]` is "" or the node and why; `meta["batch_axes"]` is the axis of each input
    (None: it has none).
    """
    torch = require("torch")
    sets = [[torch.from_numpy(a) for a in generate_inputs(path, seed).values()] for seed in (0, 1)]
    axes = [_batch_axis(tensor, sets[0][0]) for tensor in sets[0]]
    module.meta["batch_axes"] = tuple(axes)
    joined = [
        a if axis is None else torch.cat([a, b], axis) for a, b, axis in zip(*sets, axes, strict=True)
    ]
    other = [a if axis is None else b for a, b, axis in zip(*sets, axes, strict=True)]
    with torch.no_grad():
        reason = _prove(module, sets[0], other, joined)
    if reason:
        module.meta["batch"] = reason
        _guard(module, sets[0], axes)
    module.graph.lint()
    module.recompile()
    return module


def _batch_axis(tensor: Any, first: Any) -> int | None:
    """The first axis as long as the batch of the first input."""
    batch = first.shape[0] if first.dim() else 0
    return next((i for i, size in enumerate(tensor.shape) if size == batch), None)


def _prove(module: Any, first: list[Any], second: list[Any], joined: list[Any]) -> str:
    """Open shapes where that is needed; the reason and node where no way is found, else ""."""
    torch = require("torch")
    runs = [torch.fx.Interpreter(module) for _ in range(3)]
    for run, feeds in zip(runs, (first, second, joined), strict=True):
        run.args_iter = iter(feeds)
        run.env = {}
    last_use = _last_uses(module.graph)
    for node in module.graph.nodes:
        if node.op == "output":
            return _outputs_joined(node, runs)
        for run in runs[:2]:
            run.env[node] = run.run_node(node)
        if not _step(node, runs) and not _opened(node, runs):
            return f"{node.name}: the batch of one is part of its sizes or its arithmetic"
        for done in last_use.get(node, ()):
            for run in runs:
                run.env.pop(done, None)
    return ""


def _last_uses(graph: Any) -> dict[Any, list[Any]]:
    last = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[source] = node
    uses: dict[Any, list[Any]] = {}
    for source, node in last.items():
        uses.setdefault(node, []).append(source)
    return uses


def _outputs_joined(node: Any, runs: list[Any]) -> str:
    for source in node.all_input_nodes:
        a, _, both = (run.env[source] for run in runs)
        if a.shape == both.shape:
            return f"{source.name}: the output does not grow with the batch"
    return ""


def _step(node: Any, runs: list[Any]) -> bool:
    """Run the joined batch through a node; whether what comes out is the single answers joined."""
    try:
        runs[2].env[node] = runs[2].run_node(node)
    except (RuntimeError, IndexError, ValueError):
        return False
    return _agrees(*(run.env[node] for run in runs))


def _agrees(a: Any, b: Any, both: Any) -> bool:
    if isinstance(a, (tuple, list)):
        return all(_agrees(*leaves) for leaves in zip(a, b, both, strict=True))
    if a.shape == both.shape:
        return bool(_close(a, both) and _close(b, both))
    return _outer(a, b, both) > 0


def _outer(a: Any, b: Any, both: Any) -> int:
    """How many runs of the two answers, joined, follow each other: 1 along a first axis; 0 if none."""
    torch = require("torch")
    if a.dim() != both.dim():
        return 0
    for i in range(a.dim()):
        grown = both.shape[i] == a.shape[i] + b.shape[i]
        if not grown or both.shape[:i] + both.shape[i + 1 :] != a.shape[:i] + a.shape[i + 1 :]:
            continue
        for n in _parts(a, i):
            joined = torch.cat([_cut(t, i, n) for t in (a, b)], i + 1)
            if _close(joined, _cut(both, i, n)):
                return int(n * math.prod(a.shape[:i]))
    return 0


def _parts(tensor: Any, axis: int) -> list[int]:
    """In how many parts an axis may be cut: the batch lies between, where (T, N, D) became (T * N, D)."""
    size = tensor.shape[axis]
    return [n for n in range(1, size + 1) if size % n == 0]


def _cut(tensor: Any, axis: int, parts: int) -> Any:
    """The tensor with an axis as two: `parts`, and what each holds."""
    return tensor.reshape(*tensor.shape[:axis], parts, -1, *tensor.shape[axis + 1 :])


def _close(expected: Any, got: Any) -> bool:
    torch = require("torch")
    if not expected.is_floating_point():
        return bool((expected == got).all())
    size = float(expected.abs().max()) if expected.numel() else math.inf
    if math.isfinite(size) and float((expected - got).abs().max()) <= _RELATIVE * size:
        return True  # mostly so, and much faster than what follows
    finite = expected[torch.isfinite(expected)]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    return bool(torch.allclose(expected, got, rtol=_RELATIVE, atol=_RELATIVE * size, equal_nan=True))


def _opened(node: Any, runs: list[Any]) -> bool:
    """Try the places of a constant shape that could hold the batch; the node keeps the one that agrees."""
    torch = require("torch")
    if node.op != "call_function" or node.target not in (torch.reshape, broadcast_to):
        return False
    shape = list(node.args[1])
    before = _outer(*(run.env[node.args[0]] for run in runs))
    matrix = len(shape) == 2  # rows and features: the batch belongs to the rows
    places = sorted(
        range(len(shape)), key=lambda i: (not matrix and math.prod(shape[:i]) != before, shape[i] != 1, i)
    )
    for place in places:
        trial = [-1 if i == place else size for i, size in enumerate(shape)]
        if node.target is broadcast_to:
            trial[place] = 1
        node.args = (node.args[0], trial)
        if _step(node, runs):
            return True
    node.args = (node.args[0], shape)
    return False


def _guard(module: Any, inputs: list[Any], axes: list[int | None]) -> None:
    """Refuse, in the forward pass itself, a batch other than that of the file."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    with module.graph.inserting_after(placeholders[-1]):
        for node, tensor, axis in zip(placeholders, inputs, axes, strict=True):
            if axis is not None:
                arguments = (node, axis, tensor.shape[axis], module.meta["batch"])
                checked = module.graph.call_function(fixed_batch, arguments)
                node.replace_all_uses_with(checked, delete_user_cb=lambda user, own=checked: user is not own)


def fixed_batch(x: Any, axis: int, size: int, why: str) -> Any:
    """x, if its batch is that of the file. Raises `Unsupported` else."""
    if x.shape[axis] != size:
        raise Unsupported(
            f"a batch of {x.shape[axis]}: this graph takes {size} at a time ({why})",
            hint="export the model with a dynamic batch, or feed it one sample at a time",
        )
    return x
