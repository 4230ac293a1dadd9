"""The contract of an engine, the layers it reports, and the one place that picks an engine by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from edgekit.errors import Reason, Unsupported, UsageError, nearest
from edgekit.runtime.manifest import Manifest, TensorIO

__all__ = ["Compute", "Engine", "Layer", "check_tensors", "open_engine", "widest"]

Compute = Literal["int8", "int16", "float16", "float32", "other"]

# The number types that decide in what a layer computes, the widest first.
_WIDEST: tuple[tuple[Compute, frozenset[str]], ...] = (
    ("float32", frozenset({"float32", "float", "f32", "float64", "double", "f64", "bfloat16", "bf16"})),
    ("float16", frozenset({"float16", "f16"})),
    ("int16", frozenset({"int16", "uint16", "i16", "u16"})),
    ("int8", frozenset({"int8", "uint8", "i8", "u8", "int4", "uint4", "i4", "u4"})),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One operator as the engine executed it.

    `op` is the engine's own name of the kernel. `matrix` says whether it is a convolution, a transposed
    convolution or a matrix product. `compute` is the number type a matrix layer multiplies in, and for others
    the widest type they read and write (inside, an engine may still compute in float): 8-bit
    integers of either sign are "int8" (kernels that quantize their activations on the fly included), bfloat16
    and float64 count as "float32", indexes, shapes and booleans are "other".
    """

    name: str
    op: str
    compute: Compute
    matrix: bool


class Engine(Protocol):
    """An engine with one model loaded. Inputs and outputs are in the order of the manifest."""

    errors: tuple[type[Exception], ...]
    """What the engine's own calls raise when they fail."""

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once. `arrays` are C-contiguous, of the artifact's dtypes and shapes; so are the results,
        which belong to the caller.
        """
        ...

    def layers(self) -> list[Layer]:
        """The operators the engine really executes, as read back from it."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def open_engine(manifest: Manifest, folder: Path, threads: int | None) -> Engine:
    """Load the model of `manifest` in its engine.

    Raises `MissingPackage` when the engine is not installed, `Unsupported` when the machine lacks what the
    artifact requires, `UsageError` for options or tensors that do not fit.
    """
    where = f"{manifest.target} {manifest.precision}"
    if manifest.engine == "onnxruntime":
        from edgekit.runtime.engine_onnxruntime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(manifest, folder, threads)
    if manifest.requires:
        raise Unsupported(
            f"{manifest.engine} cannot use {manifest.requires!r}",
            where=where,
            reasons=[Reason(why=f"the artifact requires {manifest.requires!r}",
                            hint="only onnxruntime artifacts can require hardware")],
        )
    if manifest.engine == "tflite":
        from edgekit.runtime.engine_tflite import SignatureEngine, TfliteEngine

        if manifest.signature:
            return SignatureEngine(manifest, folder, threads)
        return TfliteEngine(manifest, folder, threads)
    if manifest.engine == "openvino":
        from edgekit.runtime.engine_openvino import OpenVinoEngine

        return OpenVinoEngine(manifest, folder, threads)
    known = ("tflite", "openvino", "onnxruntime")
    raise UsageError(f"unknown engine {manifest.engine!r}; {nearest(manifest.engine, known)}", where=where)


def check_tensors(
    kind: Literal["input", "output"],
    named: Iterable[TensorIO],
    found: Mapping[str, str],
    *,
    where: str,
) -> None:
    """Compare the tensors a manifest names with those the engine found (name -> numpy dtype name).

    Raises `UsageError` with every name that is missing, every dtype that differs and, for inputs, every
    tensor of the model that the manifest leaves out.
    """
    problems = []
    wanted = {tensor.engine_name: tensor for tensor in named}
    for name, tensor in wanted.items():
        if name not in found:
            problems.append(f"{kind} {name!r} is not in the model; {nearest(name, found)}")
        elif found[name] != tensor.dtype:
            problems.append(f"{kind} {name!r} is {found[name]} in the model, {tensor.dtype} in the manifest")
    if kind == "input":
        problems += [f"input {n!r} of the model is not in the manifest" for n in found if n not in wanted]
    if problems:
        raise UsageError(
            "the manifest does not fit the model", where=where, hint="convert again", problems=problems
        )


def widest(types: Iterable[str]) -> Compute:
    """The number type a layer computes in, when its operands have these types (numpy or engine names)."""
    seen = set(types)
    for compute, names in _WIDEST:
        if seen & names:
            return compute
    return "other"
