"""OpenVINO. Every option of the manifest is a property of the CPU plugin (INFERENCE_PRECISION_HINT ...)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import MissingPackage, UsageError, nearest
from edgekit.runtime.engine import Compute, Layer, check_tensors, widest
from edgekit.runtime.manifest import Manifest, TensorIO

__all__ = ["OpenVinoEngine"]

_MATRIX = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
_NOT_EXECUTED = frozenset({"Const", "Input", "Output", "Parameter", "Result"})


class OpenVinoEngine:
    """A compiled model and one request."""

    errors: tuple[type[Exception], ...] = (RuntimeError,)

    def __init__(self, manifest: Manifest, folder: Path, threads: int | None) -> None:
        try:
            import openvino
        except ModuleNotFoundError as err:
            if err.name != "openvino":
                raise
            raise MissingPackage("openvino", extra="openvino", needed_for="running OpenVINO IR") from err
        where = str(folder / manifest.model)
        properties = dict(manifest.options)
        if threads is not None:
            properties["INFERENCE_NUM_THREADS"] = str(threads)
        core = openvino.Core()
        _check_properties(core, properties, f"{manifest.target} {manifest.precision}: options")
        self._tensor = openvino.Tensor
        self._compiled: Any = core.compile_model(where, "CPU", properties)
        inputs, outputs = _ports(self._compiled.inputs), _ports(self._compiled.outputs)
        check_tensors("input", manifest.inputs, _dtypes(inputs, manifest.inputs), where=where)
        check_tensors("output", manifest.outputs, _dtypes(outputs, manifest.outputs), where=where)
        self._request: Any = self._compiled.create_infer_request()
        self._inputs = [inputs[t.engine_name] for t in manifest.inputs]
        self._outputs = [outputs[t.engine_name] for t in manifest.outputs]
        static = all(isinstance(d, int) for t in manifest.inputs for d in t.shape)
        # Filling a preset tensor is twice as fast as handing over a new one.
        self._preset = [self._request.get_tensor(port).data for port in self._inputs] if static else None

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run once."""
        request = self._request
        if self._preset is not None:
            for place, array in zip(self._preset, arrays, strict=True):
                place[...] = array
        else:
            for port, array in zip(self._inputs, arrays, strict=True):
                request.set_tensor(port, self._tensor(array, shared_memory=False))
        request.infer()
        return [request.get_tensor(port).data.copy() for port in self._outputs]

    def layers(self) -> list[Layer]:
        """The nodes of the plugin's runtime model; constants, inputs and outputs left out."""
        found = []
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            info = node.get_rt_info()
            op = info["layerType"].astype(str)
            if op in _NOT_EXECUTED:
                continue
            matrix = op in _MATRIX
            precision, kernel = info["runtimePrecision"].astype(str), info["primitiveType"].astype(str)
            compute = _compute(precision, kernel, matrix)
            found.append(Layer(name=node.get_friendly_name(), op=op, compute=compute, matrix=matrix))
        return found

    def close(self) -> None:
        """Free the model."""
        self._preset = None
        self._request = self._compiled = None


def _check_properties(core: Any, properties: dict[str, str], where: str) -> None:
    known = {str(name) for name in core.get_property("CPU", "SUPPORTED_PROPERTIES")}
    if unknown := sorted(set(properties) - known):
        problems = [f"{name!r}: {nearest(name, known)}" for name in unknown]
        raise UsageError("OpenVINO's CPU plugin does not know these", where=where, problems=problems)


def _ports(ports: Sequence[Any]) -> dict[str, Any]:
    return {name: port for port in ports for name in sorted(port.get_names())}


def _dtypes(ports: dict[str, Any], named: Sequence[TensorIO]) -> dict[str, str]:
    """One name for every port, the manifest's where it has one, with its dtype."""
    chosen = {t.engine_name for t in named}
    by_port: dict[int, str] = {}
    for name, port in ports.items():
        if name in chosen or id(port) not in by_port:
            by_port[id(port)] = name
    return {name: np.dtype(ports[name].get_element_type().to_dtype()).name for name in by_port.values()}


def _compute(precision: str, kernel: str, matrix: bool) -> Compute:
    compute = widest([precision])
    if matrix and compute == "int8" and not kernel.lower().endswith("_i8"):
        # "_f32": the kernel unpacks integer weights as it reads them, and multiplies floats
        return "float32" if kernel.lower().endswith("_f32") else "other"
    return compute
