"""What must hold before a file is written.

LiteRT often computes something else in silence where these are violated, so each violation is an error here.
Source of the rules: LiteRT's 8-bit quantization specification and probes of ai-edge-litert 2.3.0.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgekit.backends.tflite.check_kernels import kernel_problems
from edgekit.backends.tflite.check_scales import scale_problems
from edgekit.backends.tflite.ir import Graph, Operator, Tensor
from edgekit.errors import InternalError

__all__ = ["check_graph"]

_MAX_RANK = {"PAD": 5, "PADV2": 5, "MIRROR_PAD": 5, "BATCH_MATMUL": 5}
_ZERO_POINTS = {"int4": (0, 0), "int8": (-128, 127), "int16": (0, 0), "int32": (0, 0), "int64": (0, 0)}


def check_graph(graph: Graph) -> None:
    """Raise `InternalError` that lists every violated rule with its operator and tensor."""
    problems = [*_order_problems(graph)]
    tensors: dict[Tensor, str] = {port.tensor: port.name for port in graph.inputs}
    for op in graph.operators:
        where = f"{op.kind} of {op.origin or op.output.name!r}"
        for tensor in (*op.inputs, *op.outputs):
            if tensor is not None:
                tensors.setdefault(tensor, where)
        for rule in (_rank_problems, kernel_problems, scale_problems):
            problems.extend(f"{where}: {problem}" for problem in rule(op))
    for tensor, where in tensors.items():
        problems.extend(f"{where}: tensor {tensor.name!r} {problem}" for problem in _tensor_problems(tensor))
    if problems:
        raise InternalError(
            "the LiteRT graph breaks rules of the engine, which would answer wrongly:\n  - "
            + "\n  - ".join(problems),
            hint="nothing was written; please report this model as a defect of edgekit",
        )


def _order_problems(graph: Graph) -> Iterator[str]:
    """Every tensor is written once, before it is read."""
    known = {port.tensor for port in graph.inputs}
    for op in graph.operators:
        for tensor in op.inputs:
            if tensor is not None and tensor.data is None and tensor not in known:
                yield f"{op.kind} reads {tensor.name!r} before any operator writes it"
        for tensor in op.outputs:
            if tensor in known or tensor.data is not None:
                yield f"{op.kind} writes {tensor.name!r}, which has a value already"
            known.add(tensor)
    for port in graph.outputs:
        if port.tensor not in known:
            yield f"the output {port.name!r} is never written"


def _tensor_problems(tensor: Tensor) -> Iterator[str]:
    if tensor.data is not None:
        if tensor.data.shape != tensor.shape:
            yield f"has shape {tensor.shape}, its data {tensor.data.shape}"
        if str(tensor.data.dtype) != ("int8" if tensor.dtype == "int4" else tensor.dtype):
            yield f"has dtype {tensor.dtype}, its data {tensor.data.dtype}"
    if any(dim < 1 for dim in tensor.shape):
        yield f"has shape {tensor.shape}; every dimension must be 1 or more"
    quant = tensor.quant
    if quant is None:
        return
    if tensor.dtype not in _ZERO_POINTS:
        yield f"is {tensor.dtype} with a scale; {', '.join(_ZERO_POINTS)} may have one"
        return
    low, high = _ZERO_POINTS[tensor.dtype]
    if not low <= quant.zero_point <= high:
        yield f"has zero point {quant.zero_point}, allowed for {tensor.dtype}: [{low}, {high}]"
    scales = np.asarray(quant.scales)
    if not np.all(np.isfinite(scales)) or np.any(scales <= 0):
        yield "has a scale that is not a positive number"
    if scales.size > 1 and (quant.axis >= len(tensor.shape) or tensor.shape[quant.axis] != scales.size):
        yield f"has {scales.size} scales along axis {quant.axis} of shape {tensor.shape}"


def _rank_problems(op: Operator) -> Iterator[str]:
    limit = _MAX_RANK.get(op.kind, 6)
    for tensor in (*op.inputs, *op.outputs):
        if tensor is not None and len(tensor.shape) > limit:
            yield f"{tensor.name!r} has {len(tensor.shape)} dimensions, the kernel takes {limit}"
