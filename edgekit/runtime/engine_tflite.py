"""LiteRT (TensorFlow Lite) through its interpreter class.

The interpreter comes from `ai_edge_litert`, else `tflite_runtime`, else TensorFlow. Options: `op_resolver`
is "auto" (XNNPACK where it can), "builtin" (no delegate) or "reference" (the reference kernels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import MissingPackage, UsageError, nearest
from edgekit.runtime.engine import Compute, Layer, check_tensors, widest
from edgekit.runtime.manifest import Manifest

__all__ = ["MATRIX", "SignatureEngine", "TfliteEngine", "compute_of"]

_INTERPRETERS = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow")
_RESOLVERS = {"auto": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}
MATRIX = frozenset({
    "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE", "FULLY_CONNECTED",
    "BATCH_MATMUL",
})  # fmt: skip
# Operands that hold a shape, not data to compute with, come first in these operators.
_SHAPE_FIRST = frozenset({"TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"})


class SignatureEngine:
    """One signature of a file that has several, called by name."""

    errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)

    def __init__(self, manifest: Manifest, folder: Path, threads: int | None) -> None:
        where = str(folder / manifest.model)
        self._name = manifest.signature
        self._interpreter: Any = _interpreter(manifest, folder, threads)
        self._runner: Any = self._interpreter.get_signature_runner(self._name)
        sides = (
            ("input", manifest.inputs, self._runner.get_input_details()),
            ("output", manifest.outputs, self._runner.get_output_details()),
        )
        for kind, named, found in sides:
            dtypes = {name: np.dtype(details["dtype"]).name for name, details in found.items()}
            check_tensors(kind, named, dtypes, where=where)  # type: ignore[arg-type]
        self._inputs = [t.engine_name for t in manifest.inputs]
        self._outputs = [t.engine_name for t in manifest.outputs]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once."""
        results = self._runner(**dict(zip(self._inputs, arrays, strict=True)))
        return [results[name] for name in self._outputs]

    def layers(self) -> list[Layer]:
        """Raises `UsageError`: the interpreter tells the operators of no graph but the first."""
        raise UsageError(
            "LiteRT does not tell the layers of one signature of several", where=self._name,
            hint="convert that model alone to see them",
        )  # fmt: skip

    def close(self) -> None:
        """Free the model."""
        self._runner = self._interpreter = None


class TfliteEngine:
    """An interpreter with its tensors resolved once."""

    errors: tuple[type[Exception], ...] = (RuntimeError, ValueError)

    def __init__(self, manifest: Manifest, folder: Path, threads: int | None) -> None:
        where = str(folder / manifest.model)
        self._interpreter: Any = _interpreter(manifest, folder, threads)
        inputs, outputs = _signature(self._interpreter)
        details = {d["index"]: d for d in self._interpreter.get_tensor_details()}
        for kind, named, found in (("input", manifest.inputs, inputs), ("output", manifest.outputs, outputs)):
            dtypes = {name: np.dtype(details[index]["dtype"]).name for name, index in found.items()}
            check_tensors(kind, named, dtypes, where=where)  # type: ignore[arg-type]
        self._inputs = [inputs[t.engine_name] for t in manifest.inputs]
        self._outputs = [outputs[t.engine_name] for t in manifest.outputs]
        self._shapes = [tuple(int(d) for d in details[i]["shape"]) for i in self._inputs]
        self._resize([
            tuple(d if isinstance(d, int) else now for d, now in zip(t.shape, shape, strict=True))
            for t, shape in zip(manifest.inputs, self._shapes, strict=True)
        ])
        self._interpreter.allocate_tensors()

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once; variable tensors start from zero, so the answer depends on `arrays` alone."""
        interpreter = self._interpreter
        if [array.shape for array in arrays] != self._shapes:
            self._resize([array.shape for array in arrays])
            interpreter.allocate_tensors()
        interpreter.reset_all_variables()
        for index, array in zip(self._inputs, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._outputs]

    def layers(self) -> list[Layer]:
        """The operators of the executed graph, by the types of the tensors they read and write.

        A delegate (XNNPACK) replaces groups of operators by one node that computes in the same types; the
        groups are what is listed.
        """
        found = []
        for op in self._interpreter._get_ops_details():
            if op["op_name"] == "DELEGATE":
                continue
            result = next(iter(op["outputs"]), -1)
            name = self._interpreter._get_tensor_details(result, 0)["name"] if result >= 0 else ""
            kind = op["op_name"]
            matrix = kind in MATRIX
            found.append(Layer(name=name, op=kind, compute=compute_of(op, matrix), matrix=matrix))
        return found

    def close(self) -> None:
        """Free the model."""
        self._interpreter = None

    def _resize(self, shapes: Sequence[tuple[int, ...]]) -> None:
        for index, shape, current in zip(self._inputs, shapes, self._shapes, strict=True):
            if shape != current:
                self._interpreter.resize_tensor_input(index, shape)
        self._shapes = list(shapes)


def _interpreter(manifest: Manifest, folder: Path, threads: int | None) -> Any:
    module = _interpreter_module()
    return module.Interpreter(
        model_path=str(folder / manifest.model),
        num_threads=threads,
        experimental_op_resolver_type=_resolver(module, manifest),
    )


def _interpreter_module() -> Any:
    for name in _INTERPRETERS:
        try:
            module = import_module(name)
            return module.lite if name == "tensorflow" else module
        except ModuleNotFoundError as err:
            if err.name is None or err.name.partition(".")[0] != name.partition(".")[0]:
                raise
    raise MissingPackage("ai-edge-litert", extra="tflite", needed_for="running .tflite artifacts")


def _resolver(module: Any, manifest: Manifest) -> Any:
    where = f"{manifest.target} {manifest.precision}: options"
    if unknown := sorted(set(manifest.options) - {"op_resolver"}):
        problems = [f"{key!r}: {nearest(key, ['op_resolver'])}" for key in unknown]
        raise UsageError("unknown option of tflite", where=where, problems=problems)
    chosen = manifest.options.get("op_resolver", "auto")
    if chosen not in _RESOLVERS:
        raise UsageError(f"unknown op_resolver {chosen!r}; {nearest(chosen, _RESOLVERS)}", where=where)
    types = getattr(module, "OpResolverType", None) or module.experimental.OpResolverType
    return getattr(types, _RESOLVERS[chosen])


def _signature(interpreter: Any) -> tuple[dict[str, int], dict[str, int]]:
    """Names to tensor indexes: the signature's when the file has exactly one, else the tensors' own."""
    signatures = list(interpreter._get_full_signature_list().values())
    if len(signatures) == 1:
        return dict(signatures[0]["inputs"]), dict(signatures[0]["outputs"])
    return (
        {d["name"]: d["index"] for d in interpreter.get_input_details()},
        {d["name"]: d["index"] for d in interpreter.get_output_details()},
    )


def compute_of(op: Mapping[str, Any], matrix: bool) -> Compute:
    """The number type in which an operator computes: "op_name", "operand_types", "result_types" tell it."""
    operands = [np.dtype(t).name for t in op["operand_types"]]
    results = [np.dtype(t).name for t in op["result_types"]]
    if not matrix:
        return widest([*operands, *results])
    first = 1 if op["op_name"] in _SHAPE_FIRST else 0
    weights, data = operands[first: first + 2] if first else (operands[1], operands[0])
    if widest([data]) == "float32" and widest([weights]) == "int8":
        return "int8"  # a hybrid kernel: it quantizes the activations on the fly and multiplies integers
    return widest([data, weights])
