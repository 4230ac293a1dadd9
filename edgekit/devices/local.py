"""A worker on this machine: one artifact, loaded in a child process with a deadline on every call."""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

import edgekit
from edgekit.devices.child import death, log_folder
from edgekit.errors import StepError, UsageError, error_from_json
from edgekit.runtime.engine import Layer
from edgekit.runtime.manifest import TensorIO, read_manifest
from edgekit.runtime.protocol import CorruptStream, read_message, write_message
from edgekit.runtime.session import IoMode, Layout

__all__ = ["Worker"]

Arrays = dict[str, NDArray[Any]]

_LOOK_S = 0.1
_MODULE = "edgekit.runtime.worker"
# Another interpreter must not see this one's site-packages, only edgekit itself.
_BOOTSTRAP = (
    "import importlib.util as u, sys; "
    "s = u.spec_from_file_location('edgekit', {init!r}, submodule_search_locations=[{folder!r}]); "
    "m = u.module_from_spec(s); sys.modules['edgekit'] = m; s.loader.exec_module(m); "
    f"from {_MODULE} import main; main(sys.argv[1:])"
)


@dataclass(slots=True)
class _Child:
    """The process and what belongs to it."""

    process: subprocess.Popen[bytes]
    folder: Path
    command: list[str]
    due: float = math.inf
    expired: bool = False
    keep_log: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    @property
    def log(self) -> Path:
        return self.folder / "output.log"

    def kill(self) -> None:
        """End the whole process group; harmless when the child is gone."""
        with self.lock:
            if self.process.returncode is None and self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    def watch(self) -> None:
        """Kill the child when a call passes its deadline; runs in a thread until the child has ended.

        One thread that looks every now and then: a timer for every call would cost more than a small call.
        """
        while not self.ended.wait(min(_LOOK_S, max(0.0, self.due - time.monotonic()))):
            if time.monotonic() >= self.due:
                self.expired = True
                self.kill()
                return

    def end(self) -> None:
        """Kill, reap, close the pipes and drop the log unless it is evidence."""
        self.ended.set()
        self.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what was left to write has no reader any more
                stream.close()  # type: ignore[union-attr]
        if not self.keep_log:
            shutil.rmtree(self.folder, ignore_errors=True)


class Worker:
    """A child process that holds one artifact in its engine. Use it as a context manager.

    `engine` is checked against the artifact's; `label` says where in errors and names the log (the artifact's
    target and precision when empty). `deadline_s` bounds every call. When the child dies, hangs or sends
    nonsense the call raises `StepError` with its kind, the path of a log that is kept and a command that
    reproduces the failure, and the worker is closed. Errors that the session raises arrive as they are and
    leave the worker usable.

    The environment variable EDGEKIT_PYTHON_<ENGINE> (EDGEKIT_PYTHON_TFLITE ...) names the interpreter of an
    engine that lives in another Python environment; it needs numpy and the engine, not edgekit.
    """

    def __init__(self, *, engine: str = "", label: str = "", deadline_s: float = 120.0) -> None:
        self.engine = engine
        self.label = label
        self.deadline_s = deadline_s
        self.inputs: tuple[TensorIO, ...] = ()
        self.outputs: tuple[TensorIO, ...] = ()
        self._child: _Child | None = None
        self._end: Callable[[], None] = _nothing
        self._profiled = False

    def load(
        self,
        artifact: str | Path,
        *,
        threads: int | None = None,
        io: IoMode = "float",
        layout: Layout = "artifact",
    ) -> None:
        """Start the child and load an artifact folder in it; fills `inputs` and `outputs`.

        Raises what `edgekit.runtime.Session` raises, and `StepError`.
        """
        if self._child is not None:
            raise UsageError("this worker holds an artifact already", where=self.label, hint="start another")
        folder = Path(artifact).absolute()
        manifest = read_manifest(folder, verify=False)
        self.label = self.label or f"{manifest.target} {manifest.precision}"
        if self.engine not in ("", manifest.engine):
            raise UsageError(
                f"the worker is for {self.engine!r}, the artifact for {manifest.engine!r}", where=self.label
            )
        options = [f"--threads={threads}"] if threads is not None else []
        self._start(manifest.engine, [str(folder), *options, f"--io={io}", f"--layout={layout}"])
        fields = {"artifact": str(folder), "threads": threads, "io": io, "layout": layout}
        value, _ = self._call("load", fields)
        self.inputs = tuple(_tensor(t) for t in value["inputs"])
        self.outputs = tuple(_tensor(t) for t in value["outputs"])

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run once; arrays by name, as `edgekit.runtime.Session.run`."""
        return self._call("run", {}, inputs)[1]

    def time(
        self, inputs: Mapping[str, NDArray[Any]], *, runs: int, warmup: int = 0
    ) -> NDArray[np.int64]:
        """Durations in nanoseconds of `runs` engine calls on the same inputs, after `warmup` untimed ones."""
        return self._call("time", {"runs": runs, "warmup": warmup}, inputs)[1]["ns"]

    def memory(self) -> int:
        """Peak resident memory of the child in bytes: interpreter, engine, model and inputs.

        Raises `UsageError` after `layers()`, which may load the model a second time.
        """
        if self._profiled:
            raise UsageError("the peak memory includes what layers() needed", where=self.label,
                             hint="ask for memory() before layers()")  # fmt: skip
        return int(self._call("memory", {})[0])

    def layers(self) -> list[Layer]:
        """The operators the engine really executes, read back from it."""
        self._profiled = True
        return [Layer(**layer) for layer in self._call("layers", {})[0]]

    def close(self) -> None:
        """End the child; a second call does nothing."""
        child, self._child = self._child, None
        if child is None:
            return
        try:
            write_message(child.process.stdin, {"request": "quit"})  # type: ignore[arg-type]
            child.process.wait(timeout=2.0)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            pass  # it is dead or does not listen: it is killed below
        finally:
            self._end()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._kill()
        self.close()

    def _start(self, engine: str, reproduce: list[str]) -> None:
        variable = f"EDGEKIT_PYTHON_{engine.upper()}"
        command, environment = _command(os.environ.get(variable, ""))
        folder = log_folder(f"worker {self.label}")
        try:
            with (folder / "output.log").open("wb") as log:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as err:
            shutil.rmtree(folder, ignore_errors=True)
            raise UsageError(
                f"the interpreter {command[0]!r} cannot be started: {err.strerror}",
                where=self.label,
                hint=f"{variable} has to name a Python interpreter that has numpy and the engine",
            ) from err
        self._child = _Child(process=process, folder=folder, command=[*command, *reproduce])
        self._end = weakref.finalize(self, self._child.end)
        threading.Thread(target=self._child.watch, daemon=True).start()

    def _call(
        self, request: str, fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None
    ) -> tuple[Any, Arrays]:
        child = self._child
        if child is None:
            raise UsageError("the worker is closed or has nothing loaded", where=self.label,
                             hint="call load() first")  # fmt: skip
        header = {"request": request, "deadline_s": self.deadline_s + 5.0, **fields}
        child.due = time.monotonic() + self.deadline_s
        try:
            write_message(child.process.stdin, header, arrays)  # type: ignore[arg-type]
            answer = read_message(child.process.stdout)  # type: ignore[arg-type]
        except (CorruptStream, BrokenPipeError) as err:
            self._lost(child, request, arrays, err)
        except BaseException:
            self._kill()  # the stream is somewhere inside a message: nothing more can be asked
            raise
        finally:
            child.due = math.inf
        if answer is None or child.expired:
            self._lost(child, request, arrays, None)
        if "error" in answer[0]:
            self._raise(child, answer[0]["error"], arrays)
        return answer[0].get("value"), answer[1]

    def _raise(
        self, child: _Child, data: dict[str, Any], arrays: Mapping[str, NDArray[Any]] | None
    ) -> NoReturn:
        error = error_from_json(data)
        error.where = error.where or self.label
        if isinstance(error, StepError):
            child.keep_log = True
            error.log_path, error.command = str(child.log), _reproduce(child, arrays)
        raise error

    def _lost(
        self,
        child: _Child,
        request: str,
        arrays: Mapping[str, NDArray[Any]] | None,
        corrupt: Exception | None,
    ) -> NoReturn:
        """The child is dead, killed at its deadline, or does not speak the protocol: say which, and close."""
        child.keep_log = True
        command = _reproduce(child, arrays)
        try:
            code: int | None = child.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            code = None
        self._kill()
        if child.expired:
            error = StepError(
                f"did not answer {request!r} in {self.deadline_s:g} s and was ended",
                kind="timed_out",
                where=self.label,
                hint="allow more time with --deadline",
                log_path=str(child.log),
                command=command,
            )
        elif code is None or (code == 0 and isinstance(corrupt, CorruptStream)):
            what = f"sent what is no message: {corrupt}" if corrupt else "closed its output and went on"
            error = StepError(what, where=self.label, log_path=str(child.log), command=command)
        else:
            error = death(code, label=self.label, log=child.log, command=command)
        raise error from corrupt

    def _kill(self) -> None:
        self._child = None
        self._end()


def _nothing() -> None:
    """What ends a worker that never started."""


def _command(interpreter: str) -> tuple[list[str], dict[str, str]]:
    package = Path(edgekit.__file__).resolve().parent
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    if interpreter:
        bootstrap = _BOOTSTRAP.format(init=str(package / "__init__.py"), folder=str(package))
        return [interpreter, "-c", bootstrap], environment
    search = [str(package.parent), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, search))
    return [sys.executable, "-m", _MODULE], environment


def _reproduce(child: _Child, arrays: Mapping[str, NDArray[Any]] | None) -> str:
    """The command that runs the artifact once on the inputs of the failed call, which are kept in a file."""
    command = list(child.command)
    if arrays:
        stored = child.folder / "inputs.npz"
        np.savez(stored, **dict(arrays))  # type: ignore[arg-type]
        command.append(f"--inputs={stored}")
    return shlex.join(command)


def _tensor(data: dict[str, Any]) -> TensorIO:
    return TensorIO(**{**data, "shape": tuple(data["shape"]), "axes": tuple(data["axes"])})
