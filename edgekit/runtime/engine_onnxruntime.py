"""ONNX Runtime.

Options: `providers` (comma separated, in order), `graph_optimization` (disable, basic, extended, all) and
session configuration entries, whose names begin with "session.".
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import MissingPackage, Reason, Unsupported, UsageError, nearest
from edgekit.runtime.engine import Compute, Layer, check_tensors, widest
from edgekit.runtime.manifest import Manifest, TensorIO

__all__ = ["OnnxRuntimeEngine", "engine_errors"]

_LEVELS = {
    "disable": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}  # fmt: skip
_FLOAT_MATRIX = frozenset({
    "Conv", "FusedConv", "NhwcFusedConv", "NhwcConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul",
    "FusedMatMul", "TransposeMatMul", "MatMulNBits",
})  # fmt: skip
_INTEGER_MATRIX = frozenset({
    "QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger",
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
})  # fmt: skip
_DTYPES = {"float": "float32", "double": "float64", "float16": "float16"}
_PROFILE_SUFFIX = "_kernel_time"


class OnnxRuntimeEngine:
    """An inference session that runs on the providers asked for, or not at all."""

    def __init__(self, manifest: Manifest, folder: Path, threads: int | None) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError as err:
            if err.name != "onnxruntime":
                raise
            raise MissingPackage("onnxruntime", extra="onnx", needed_for="running .onnx artifacts") from err
        self.errors: tuple[type[Exception], ...] = engine_errors()
        self._module: Any = onnxruntime
        self._model = str(folder / manifest.model)
        self._manifest = manifest
        self._threads = threads
        self._providers = _providers(onnxruntime, manifest)
        self._session: Any = self._open(self._options())
        check_tensors("input", manifest.inputs, _types(self._session.get_inputs()), where=self._model)
        check_tensors("output", manifest.outputs, _types(self._session.get_outputs()), where=self._model)
        self._inputs = [t.engine_name for t in manifest.inputs]
        self._outputs = [t.engine_name for t in manifest.outputs]

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once."""
        results: list[NDArray[Any]] = self._session.run(
            self._outputs, dict(zip(self._inputs, arrays, strict=True))
        )
        return results

    def layers(self) -> list[Layer]:
        """The kernels of one profiled run on zeros, in a second session with the same options.

        A kernel that ran on another provider than the first one asked for carries that provider's name.
        """
        with tempfile.TemporaryDirectory(prefix="edgekit-profile-") as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "run")
            session = self._open(options)
            zeros = {t.engine_name: _zeros(t, self._manifest) for t in self._manifest.inputs}
            session.run(self._outputs, zeros)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return [
            _layer(event, self._providers[0])
            for event in events
            if event.get("cat") == "Node" and event["name"].endswith(_PROFILE_SUFFIX)
        ]

    def close(self) -> None:
        """Free the model."""
        self._session = None

    def _options(self) -> Any:
        where = f"{self._manifest.target} {self._manifest.precision}: options"
        options = self._module.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        problems = []
        for key, value in self._manifest.options.items():
            if key == "graph_optimization" and value in _LEVELS:
                levels = self._module.GraphOptimizationLevel
                options.graph_optimization_level = getattr(levels, _LEVELS[value])
            elif key == "graph_optimization":
                problems.append(f"graph_optimization: {value!r}; {nearest(value, _LEVELS)}")
            elif key.startswith("session."):
                options.add_session_config_entry(key, value)
            elif key != "providers":
                known = ("providers", "graph_optimization")
                problems.append(f"unknown option {key!r}; {nearest(key, known)}; or a name after 'session.'")
        if problems:
            raise UsageError("onnxruntime does not know these options", where=where, problems=problems)
        return options

    def _open(self, options: Any) -> Any:
        session = self._module.InferenceSession(
            self._model, options, providers=self._providers, enable_fallback=0
        )
        session.disable_fallback()
        active = session.get_providers()
        if active[0] != self._providers[0]:
            raise _refused(self._manifest, f"{self._providers[0]} did not start; onnxruntime offers {active}")
        return session


def engine_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: types of its own that share no base but Exception."""
    try:
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ModuleNotFoundError:
        return (RuntimeError, ValueError)
    kinds = (kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))
    return (RuntimeError, ValueError, *kinds)


def _providers(module: Any, manifest: Manifest) -> list[str]:
    text = manifest.options.get("providers", "CPUExecutionProvider")
    asked = [name.strip() for name in text.split(",") if name.strip()]
    where = f"{manifest.target} {manifest.precision}"
    if not asked:
        raise UsageError("providers: none is named", where=where, hint='providers = "CPUExecutionProvider"')
    if manifest.requires not in ("", "cuda"):
        raise Unsupported(f"onnxruntime cannot provide {manifest.requires!r}", where=where)
    gpu = ("CUDAExecutionProvider", "TensorrtExecutionProvider")
    if manifest.requires == "cuda" and asked[0] not in gpu:
        raise UsageError(
            f"the artifact requires cuda but its first provider is {asked[0]!r}",
            where=where,
            hint=f"one of {', '.join(gpu)} has to come first",
        )
    available = module.get_available_providers()
    if missing := [name for name in asked if name not in available]:
        why = f"this onnxruntime has no {', '.join(missing)}: it has {', '.join(available)}"
        raise _refused(manifest, why)
    return asked


def _refused(manifest: Manifest, why: str) -> Unsupported:
    hint = (
        "install onnxruntime-gpu on a machine with an NVIDIA GPU; EDGEKIT_PYTHON_ONNXRUNTIME names the "
        "Python interpreter that has it"
        if manifest.requires == "cuda"
        else "install an onnxruntime build with this provider"
    )
    return Unsupported(
        "the artifact cannot run here and was not run on another provider instead",
        where=f"{manifest.target} {manifest.precision}",
        reasons=[Reason(why=why, hint=hint)],
    )


def _types(tensors: Sequence[Any]) -> dict[str, str]:
    found = {}
    for tensor in tensors:
        kind = tensor.type.removeprefix("tensor(").removesuffix(")")
        found[tensor.name] = _DTYPES.get(kind, kind)
    return found


def _zeros(tensor: TensorIO, manifest: Manifest) -> NDArray[Any]:
    sizes = {name: dimension["size"] for name, dimension in manifest.dynamic.items()}
    shape = [d if isinstance(d, int) else sizes.get(d, 1) for d in tensor.shape]
    return np.zeros(shape, dtype=tensor.dtype)


def _layer(event: dict[str, Any], asked: str) -> Layer:
    arguments = event["args"]
    op = arguments["op_name"]
    name = event["name"].removesuffix(_PROFILE_SUFFIX)
    types = [kind for side in ("input_type_shape", "output_type_shape") for kind in _kinds(arguments, side)]
    # Integer kernels read float scales beside their integers, so their types alone would mislead.
    integer = op in _INTEGER_MATRIX or op.startswith("QLinear")
    compute: Compute = "int8" if integer else widest(types)
    matrix = op in _INTEGER_MATRIX or op in _FLOAT_MATRIX
    provider = arguments.get("provider", asked)
    shown = op if provider == asked else f"{op} on {provider}"
    return Layer(name=name, op=shown, compute=compute, matrix=matrix)


def _kinds(arguments: dict[str, Any], side: str) -> list[str]:
    return [kind for tensor in arguments.get(side, ()) for kind in tensor]
