"""Comparing a trainable module with ONNX Runtime and its gradients with numerical ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from edgekit.formats.onnx_file import load_onnx
from edgekit.graph.canonical import finish, prepare, save_model
from edgekit.graph.generate import generate_inputs
from edgekit.train import trainable


def canonical(source: Path) -> Path:
    """The canonical form, with BatchNormalization in place, of an ONNX file: beside it."""
    prepared, _ = prepare(load_onnx(source), {})
    middle, out = source.with_suffix(".prepared.onnx"), source.with_suffix(".canonical.onnx")
    save_model(prepared, middle)
    unfolded = source.with_suffix(".unfolded.onnx")
    finish(str(middle), str(out), simplified=True, unfolded=str(unfolded))
    return unfolded if unfolded.is_file() else out


def _sets(path: Path, count: int) -> list[dict[str, np.ndarray]]:
    return [generate_inputs(path, seed=100 + i) for i in range(count)]


def _joined(sets: list[dict[str, np.ndarray]], axes: tuple[int | None, ...]) -> list[torch.Tensor]:
    columns = zip(sets[0], axes, strict=True)
    return [
        torch.from_numpy(sets[0][k] if axis is None else np.concatenate([s[k] for s in sets], axis))
        for k, axis in columns
    ]


def agreement(module: Any, path: Path, *, batch: int) -> float:
    """The largest difference from ONNX Runtime, which takes one sample at a time, over the largest answer."""
    sets = _sets(path, batch)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    singles = [session.run(None, feeds) for feeds in sets]
    with torch.no_grad():
        given = module(*_joined(sets, module.meta["batch_axes"]))
    worst = 0.0
    for number, got in enumerate(given if isinstance(given, tuple) else (given,)):
        parts = [single[number] for single in singles]
        axis = next((i for i, n in enumerate(got.shape) if n != parts[0].shape[i]), 0)
        expected = np.concatenate(parts, axis) if batch > 1 else parts[0]
        assert expected.shape == tuple(got.shape)
        far = np.abs(expected.astype(np.float64) - got.numpy().astype(np.float64)).max()
        worst = max(worst, float(far / max(np.abs(expected).max(), 1e-30)))
    return worst


def _loss(module: Any, inputs: list[torch.Tensor]) -> torch.Tensor:
    given = module(*inputs)
    total = torch.zeros((), dtype=torch.get_default_dtype())
    for number, output in enumerate(given if isinstance(given, tuple) else (given,)):
        if output.is_floating_point():
            weights = torch.sin(torch.arange(output.numel(), dtype=output.dtype) + number)
            total = total + (output.reshape(-1) * weights).sum()
    return total


def gradients_missing(module: Any, path: Path) -> list[str]:
    """The parameters that get no gradient."""
    module.zero_grad()
    _loss(module, _joined(_sets(path, 1), module.meta["batch_axes"])).backward()
    return [name for name, parameter in module.named_parameters() if parameter.grad is None]


def derivative_error(path: Path, *, step: float = 1e-7) -> float:
    """Relative error, in float64, of the gradient along seeded directions of all weights and float inputs.

    Beside the central difference at `step`, so short that it crosses few kinks of ReLU and max-pool. Of
    three directions the middle one counts: a direction in which the loss hardly changes proves little.
    """
    module = trainable(path).double()
    torch.set_default_dtype(torch.float64)
    try:
        axes = module.meta["batch_axes"]
        inputs = [t.double() if t.is_floating_point() else t for t in _joined(_sets(path, 1), axes)]
        moved = [*module.parameters(), *(t.requires_grad_() for t in inputs if t.is_floating_point())]
        _loss(module, inputs).backward()
        errors = []
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)
            ways = [torch.randn(p.shape, generator=generator) * p.detach().abs().mean() for p in moved]
            exact = sum(
                float((p.grad * w).sum()) for p, w in zip(moved, ways, strict=True) if p.grad is not None
            )
            ends = []
            with torch.no_grad():
                for sign in (1.0, -1.0):
                    for p, w in zip(moved, ways, strict=True):
                        p.add_(w, alpha=sign * step)
                    ends.append(float(_loss(module, inputs)))
                    for p, w in zip(moved, ways, strict=True):
                        p.sub_(w, alpha=sign * step)
            numerical = (ends[0] - ends[1]) / (2 * step)
            errors.append(abs(exact - numerical) / max(abs(numerical), abs(exact), 1e-12))
        return sorted(errors)[1]
    finally:
        torch.set_default_dtype(torch.float32)


def same_weights(first: Path, second: Path) -> bool:
    """Whether two files hold the same initializers, bit by bit."""
    one, two = ({t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer}
                for p in (first, second))  # fmt: skip
    return one.keys() == two.keys() and all(one[n].tobytes() == two[n].tobytes() for n in one)
