"""Load an artifact and run it: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import StepError, UsageError, nearest
from edgekit.runtime.engine import Engine, Layer, open_engine
from edgekit.runtime.manifest import MANIFEST_NAME, Manifest, TensorIO, read_manifest

__all__ = ["IoMode", "Layout", "Session", "find_artifact"]

_QUANTIZED = ("int8", "uint8", "int16", "uint16")

IoMode = Literal["float", "native"]
Layout = Literal["artifact", "source"]


class Session:
    """An artifact, loaded and ready.

    `path` is an artifact folder (`OUT/tflite/int8`), or a target's folder (`OUT/tflite`) that holds exactly
    one precision or the `precision` named. `threads` bounds the engine's threads (None: its own choice).

    With `io="float"` quantized inputs and outputs are seen as float32: inputs are quantized (round half to
    even, saturate, as ONNX QuantizeLinear) and outputs dequantized in numpy. With `io="native"` integers pass
    as they are. With `layout="source"` arrays have the source model's layout and are transposed.

    An artifact with several signatures runs the one that `signature` names, else its first; sessions on the
    same folder share nothing.

    Raises `UsageError` (wrong path, damaged artifact, options that do not fit), `MissingPackage` (the engine
    is not installed), `Unsupported` (this machine cannot run it) or `StepError` (the engine fails to load).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        precision: str | None = None,
        threads: int | None = None,
        io: IoMode = "float",
        layout: Layout = "artifact",
        signature: str = "",
    ) -> None:
        _check_choices(io, layout, threads)
        self.folder = find_artifact(Path(path), precision)
        self.manifest: Manifest = _chosen(read_manifest(self.folder), signature)
        self._where = f"{self.manifest.target} {self.manifest.precision}"
        self._inputs = [_Port.of(tensor, io, layout) for tensor in self.manifest.inputs]
        self._outputs = [_Port.of(tensor, io, layout) for tensor in self.manifest.outputs]
        self.inputs: tuple[TensorIO, ...] = tuple(port.seen for port in self._inputs)
        self.outputs: tuple[TensorIO, ...] = tuple(port.seen for port in self._outputs)
        self._dynamic = any(port.dynamic for port in self._inputs)
        self._engine: Engine | None = self._open(threads)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run once: arrays by input name, of the shapes and dtypes in `inputs`; results by output name.

        Raises `UsageError` with everything that is wrong with the arrays, `StepError` when the engine fails.
        """
        results = self.invoke(self.prepare(inputs))
        return {
            port.seen.name: port.to_caller(result)
            for port, result in zip(self._outputs, results, strict=True)
        }

    def prepare(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The arrays as the engine takes them, in the manifest's order: checked, transposed, quantized."""
        for port in self._inputs:
            if not port.takes(inputs.get(port.seen.name)):
                raise self._bad_inputs(inputs)
            if port.dynamic and self._off_step(port, inputs):
                raise self._bad_inputs(inputs)
        if len(inputs) != len(self._inputs) or (self._dynamic and not self._dynamic_agree(inputs)):
            raise self._bad_inputs(inputs)
        return [port.to_engine(inputs[port.seen.name], self._where) for port in self._inputs]

    def invoke(self, prepared: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The engine's call on arrays from `prepare`; raw results in the order of the manifest.

        This is what latency is measured on: inputs handed over, the model run, outputs copied out.
        """
        engine = self._alive()
        try:
            return engine.run(prepared)
        except engine.errors as err:
            raise StepError(f"{self.manifest.engine} failed: {_first_line(err)}", where=self._where) from err

    def layers(self) -> list[Layer]:
        """The operators the engine really executes, read back from it (may run the model once, on zeros)."""
        return self._alive().layers()

    def close(self) -> None:
        """Free the model; a second call does nothing."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, threads: int | None) -> Engine:
        try:
            return open_engine(self.manifest, self.folder, threads)
        except _load_errors(self.manifest.engine) as err:
            raise StepError(
                f"{self.manifest.engine} cannot load {self.manifest.model}: {_first_line(err)}",
                where=self._where,
                hint="the artifact may be newer than the installed engine; `edgekit doctor` names versions",
            ) from err

    def _alive(self) -> Engine:
        if self._engine is None:
            raise UsageError("the session is closed", where=self._where, hint="open a new Session")
        return self._engine

    def _dynamic_agree(self, inputs: Mapping[str, NDArray[Any]]) -> bool:
        sizes: dict[str, int] = {}
        return all(
            sizes.setdefault(dim, size) == size
            for port in self._inputs
            if port.dynamic
            for dim, size in zip(port.seen.shape, inputs[port.seen.name].shape, strict=True)
            if isinstance(dim, str) and dim
        )

    def _off_step(self, port: _Port, inputs: Mapping[str, NDArray[Any]]) -> list[str]:
        """Sizes of dynamic dimensions that lie between the steps the model was proven to take."""
        problems = []
        for dim, size in zip(port.seen.shape, inputs[port.seen.name].shape, strict=True):
            known = self.manifest.dynamic.get(dim) if isinstance(dim, str) else None
            if size < 1 or (known is not None and (size - known["size"]) % known["step"]):
                allowed = f"{known['size']} and steps of {known['step']} from it" if known else "1 and more"
                what = f"input {port.seen.name!r}: {dim or 'a dimension'}"
                problems.append(f"{what} is {size}; allowed: {allowed}")
        return problems

    def _bad_inputs(self, inputs: Mapping[str, NDArray[Any]]) -> UsageError:
        known = [port.seen.name for port in self._inputs]
        problems = [f"input {n!r} is unknown; {nearest(n, known)}" for n in inputs if n not in known]
        for port in self._inputs:
            problems += port.problems(inputs)
            if port.dynamic and port.takes(inputs.get(port.seen.name)):
                problems += self._off_step(port, inputs)
        if not problems:
            problems = ["dimensions of one name have different sizes: "
                        + ", ".join(f"{n!r} {list(a.shape)}" for n, a in inputs.items())]
        return UsageError("the inputs do not fit the artifact", where=self._where, problems=problems)


@dataclass(frozen=True, slots=True)
class _Port:
    """One tensor on its way between the caller and the engine."""

    seen: TensorIO
    dtype: np.dtype[Any]
    engine_dtype: np.dtype[Any]
    shape: tuple[int, ...]
    dynamic: bool
    axes: tuple[int, ...]
    inverse: tuple[int, ...]
    scale: np.float32 | None
    zero_point: np.float32
    lowest: np.float32
    highest: np.float32

    @classmethod
    def of(cls, tensor: TensorIO, io: IoMode, layout: Layout) -> _Port:
        quantized = io == "float" and tensor.scale > 0
        if quantized and tensor.dtype not in _QUANTIZED:
            raise UsageError(
                f"the manifest gives {tensor.name!r} a scale but the dtype {tensor.dtype!r}",
                hint=f"one of {', '.join(_QUANTIZED)} can have a scale; convert again",
            )
        limits = np.iinfo(tensor.dtype) if quantized else np.iinfo(np.int8)
        axes = tensor.axes if layout == "source" else ()
        inverse = tuple(int(i) for i in np.argsort(axes)) if axes else ()
        seen = tensor
        if axes:
            seen = replace(seen, shape=tuple(tensor.shape[i] for i in inverse), axes=())
        if quantized:
            seen = replace(seen, dtype="float32", scale=0.0, zero_point=0)
        return cls(
            seen=seen,
            dtype=np.dtype(seen.dtype),
            engine_dtype=np.dtype(tensor.dtype),
            shape=tuple(d if isinstance(d, int) else -1 for d in seen.shape),
            dynamic=not all(isinstance(d, int) for d in seen.shape),
            axes=axes,
            inverse=inverse,
            scale=np.float32(tensor.scale) if quantized else None,
            zero_point=np.float32(tensor.zero_point),
            lowest=np.float32(limits.min),
            highest=np.float32(limits.max),
        )

    def takes(self, array: NDArray[Any] | None) -> bool:
        if not isinstance(array, np.ndarray) or array.dtype != self.dtype:
            return False
        if not self.dynamic:
            return array.shape == self.shape
        return array.ndim == len(self.shape) and all(
            want in (-1, got) for want, got in zip(self.shape, array.shape, strict=True)
        )

    def problems(self, inputs: Mapping[str, NDArray[Any]]) -> list[str]:
        name = self.seen.name
        wanted = f"{self.seen.dtype}[{', '.join(str(d) if d != '' else '?' for d in self.seen.shape)}]"
        if name not in inputs:
            return [f"input {name!r} is missing: {wanted}"]
        array = inputs[name]
        if self.takes(array):
            return []
        if not isinstance(array, np.ndarray):
            return [f"input {name!r} is a {type(array).__name__}, wanted a numpy array {wanted}"]
        return [f"input {name!r} is {array.dtype}{list(array.shape)}, wanted {wanted}"]

    def to_engine(self, array: NDArray[Any], where: str) -> NDArray[Any]:
        if self.axes:
            array = array.transpose(self.axes)
        if self.scale is not None:
            steps = np.asarray(array / self.scale)
            np.rint(steps, out=steps)
            steps += self.zero_point
            np.minimum(steps, self.highest, out=steps)  # np.clip has twice the overhead of these two
            np.maximum(steps, self.lowest, out=steps)
            try:
                with np.errstate(invalid="raise"):
                    array = steps.astype(self.engine_dtype)
            except FloatingPointError as err:
                problem = f"input {self.seen.name!r} holds NaN"
                raise UsageError("a NaN cannot be quantized", where=where, problems=[problem]) from err
        return np.asarray(array, order="C")

    def to_caller(self, array: NDArray[Any]) -> NDArray[Any]:
        if self.scale is not None:
            array = (array.astype(np.float32) - self.zero_point) * self.scale
        return array.transpose(self.inverse) if self.inverse else array


def find_artifact(path: Path, precision: str | None = None) -> Path:
    """The artifact folder that `path` (an artifact's or a target's folder) and `precision` name.

    Raises `UsageError` with the choices when there is none or more than one.
    """
    if (path / MANIFEST_NAME).is_file():
        found = read_manifest(path, verify=False).precision
        if precision not in (None, found):
            raise UsageError(f"this artifact is {found}, not {precision!r}", where=str(path))
        return path
    choices = sorted(p.parent.name for p in path.glob(f"*/{MANIFEST_NAME}"))
    if precision is not None and precision in choices:
        return path / precision
    if precision is None and len(choices) == 1:
        return path / choices[0]
    if choices:
        message = "several precisions are here" if precision is None else f"no {precision!r} is here"
        hint = f"pass precision=..., one of {', '.join(map(repr, choices))}"
        raise UsageError(message, where=str(path), hint=hint)
    if targets := sorted(str(p.parent.parent) for p in path.glob(f"*/*/{MANIFEST_NAME}")):
        hint = f"name a target's folder: {', '.join(dict.fromkeys(targets))}"
        raise UsageError("this is the folder of a whole conversion", where=str(path), hint=hint)
    hint = "name an artifact folder such as OUT/tflite/int8"
    if path.is_file():
        here = (path.parent / MANIFEST_NAME).is_file()
        hint = f"name the folder it lies in: {path.parent}" if here else hint
        raise UsageError("this is a file, an artifact is a folder", where=str(path), hint=hint)
    message = "no artifact is here" if path.is_dir() else "no such folder"
    raise UsageError(message, where=str(path), hint=hint)


def _chosen(manifest: Manifest, signature: str) -> Manifest:
    """The manifest with the inputs and outputs of one signature."""
    if not manifest.signatures and not signature:
        return manifest
    name = signature or next(iter(manifest.signatures))
    if name not in manifest.signatures:
        hint = "leave signature out" if not manifest.signatures else ""
        known = list(manifest.signatures)
        message = f"no signature {name!r}; {nearest(name, known)}" if known else "there is only one signature"
        raise UsageError(message, where=f"{manifest.target} {manifest.precision}", hint=hint)
    ports = manifest.signatures[name]
    return replace(manifest, inputs=ports.inputs, outputs=ports.outputs, signature=name)


def _check_choices(io: str, layout: str, threads: int | None) -> None:
    problems = []
    if io not in ("float", "native"):
        problems.append(f"io: {io!r}; {nearest(io, ('float', 'native'))}")
    if layout not in ("artifact", "source"):
        problems.append(f"layout: {layout!r}; {nearest(layout, ('artifact', 'source'))}")
    if threads is not None and threads < 1:
        problems.append(f"threads: {threads!r}; allowed: 1 and more, or None for the engine's own choice")
    if problems:
        raise UsageError("the session cannot be opened so", problems=problems)


def _load_errors(engine: str) -> tuple[type[Exception], ...]:
    """What the engine's load raises when it refuses a file."""
    if engine == "onnxruntime":
        from edgekit.runtime.engine_onnxruntime import engine_errors

        return engine_errors()
    return (RuntimeError, ValueError)


def _first_line(err: Exception) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return lines[0] if lines else type(err).__name__
