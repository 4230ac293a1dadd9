"""Constant folding and fusion by onnxsim, with rich operators kept whole."""

from __future__ import annotations

import inspect
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgekit.core.large_tensors import digest_aside, fill, is_hollow, without_hollow
from edgekit.core.packages import require
from edgekit.errors import MissingPackage, StepError
from edgekit.graph.result import PassResult
from edgekit.graph.walk import node_reads, rename_reads

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["RICH_OPERATORS", "apply"]

# Operators that an engine runs as one kernel and that others would take apart.
RICH_OPERATORS = (
    "Celu", "Elu", "Gelu", "GroupNormalization", "GRU", "HardSigmoid", "HardSwish", "InstanceNormalization",
    "LayerNormalization", "LogSoftmax", "LSTM", "Mish", "PRelu", "RNN", "Selu", "Softmax", "Softplus",
    "Softsign",
)  # fmt: skip
# Which of these it does depends on whether it is given the weights: `fuse_gemm` makes Gemm of them all, and
# products joined into one share one scale of their results in int8.
_SKIPPED = ("fuse_matmul_add_bias_into_gemm", "fuse_matmul_add_bias_into_gemm_batched", "fuse_qkv")


def apply(model: ModelProto) -> PassResult:
    """Simplify with onnxsim.

    Before: Shape/Gather/Concat chains on fixed shapes, Pad before Conv, consecutive transposes.
    After: constants computed, such pairs fused.
    Must not change: names and shapes of inputs and outputs; BatchNormalization (it is folded later, in
    float64, and one form of the canonical graph keeps it); the count of every operator in `RICH_OPERATORS`
    that depends on an input.

    Run it in a process of its own: a crash of onnxsim's native code ends the process. Raises `StepError`
    when onnxsim fails or takes a rich operator apart.
    """
    nodes, signature, rich = len(model.graph.node), _signature(model), _rich(model)
    _merge_equal(model)
    _bring(model)
    try:
        simplified = without_hollow(model, _simplified)
    except MissingPackage:
        raise
    except Exception as err:  # its native code raises types of its own choosing: one border, one typed error
        lines = [line.strip() for line in str(err).splitlines() if line.strip()]
        raise StepError(f"onnxsim failed: {type(err).__name__}: {' '.join(lines[:2])}") from err
    if _signature(simplified) != signature:
        raise StepError(f"onnxsim changed the inputs or outputs: {signature} became {_signature(simplified)}")
    lost = rich - _rich(simplified)
    if lost:
        names = ", ".join(f"{count} {op}" for op, count in sorted(lost.items()))
        raise StepError(f"onnxsim took rich operators apart: {names}")
    note = f"simplified by onnxsim: {nodes} to {len(simplified.graph.node)} nodes"
    return PassResult(model=simplified, modified=True, notes=(note,))


def _simplified(model: ModelProto) -> ModelProto:
    with _torch_hidden():
        onnxsim = require("onnxsim", needed_for="simplifying the graph")
        # certify: an optional proof by Z3 whose verdict would go into the metadata; onnxsim 0.7, the
        # newest for Python 3.10, does not know it yet.
        known = "certify" in inspect.signature(onnxsim.simplify).parameters
        options: dict[str, Any] = {"certify": False} if known else {}
        options["skipped_optimizers"] = list(_SKIPPED)
        simplified: ModelProto = onnxsim.simplify(model, skip_fuse_bn=True, **options)[0]
    require("onnx").checker.check_model(simplified, full_check=False)
    return simplified


def _merge_equal(model: ModelProto) -> None:
    """Let one hollow initializer stand for all equal ones, as onnxsim does with those that it is given."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renames: dict[str, str] = {}
    for tensor in (t for t in model.graph.initializer if is_hollow(t)):
        key = (tensor.data_type, tuple(tensor.dims), digest_aside(tensor))
        renames[tensor.name] = first.setdefault(key, tensor.name)
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    renames = {old: new for old, new in renames.items() if old != new and old not in ends}
    if renames:
        rename_reads(model.graph, renames)
        for tensor in [t for t in model.graph.initializer if t.name in renames]:
            model.graph.initializer.remove(tensor)


def _bring(model: ModelProto) -> None:
    """Fill the hollow initializers whose values onnxsim needs: it computes what depends on no input."""
    live = {value.name for value in model.graph.input}
    needed = {value.name for value in model.graph.output}
    for node in model.graph.node:
        reads = node_reads(node)
        if live.intersection(reads):
            live.update(node.output)
            needed |= reads - set(node.input)  # what a branch reads may be folded within it
        else:
            needed |= reads
    for tensor in model.graph.initializer:
        if is_hollow(tensor) and tensor.name in needed:
            fill(tensor)


@contextmanager
def _torch_hidden() -> Iterator[None]:
    """Let onnxsim not find torch: importing it takes 3 s, and nothing here needs it."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules["torch"]


def _rich(model: ModelProto) -> Counter[str]:
    """How many rich operators depend on an input (those on constants alone may be computed away)."""
    live = {value.name for value in model.graph.input}
    found: Counter[str] = Counter()
    for node in model.graph.node:
        if any(name in live for name in node.input):
            live.update(node.output)
            if node.op_type in RICH_OPERATORS:
                found[node.op_type] += 1
    return found


def _signature(model: ModelProto) -> list[tuple[str, int]]:
    values = (*model.graph.input, *model.graph.output)
    return [(value.name, value.type.tensor_type.elem_type) for value in values]
