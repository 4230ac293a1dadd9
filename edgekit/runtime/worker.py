"""The worker: `python -m edgekit.runtime.worker` serves one artifact over stdin and stdout.

Requests (see `protocol`): load, run, time, memory, layers, quit. The answer is {"value": ...} with arrays, or
{"error": EdgekitError.to_json()}. A request may carry `deadline_s`: if its handling takes longer the process
ends itself, whatever the engine does. The process also ends when its parent does.

`python -m edgekit.runtime.worker ARTIFACT` runs an artifact once and prints what it answered: the command
that reproduces a failure.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import EdgekitError, StepError, Unsupported, UsageError
from edgekit.runtime.manifest import TensorIO
from edgekit.runtime.protocol import CorruptStream, read_message, write_message
from edgekit.runtime.session import Session

__all__ = ["come_to_rest", "main", "peak_memory_bytes", "serve", "time_calls"]

Arrays = dict[str, NDArray[Any]]


class _Worker:
    """The session of the one artifact a worker holds, and what can be asked of it."""

    def __init__(self) -> None:
        self.session: Session | None = None

    def answer(self, request: dict[str, Any], arrays: Arrays) -> tuple[Any, Arrays]:
        """The value and the arrays that answer a request."""
        operation = request.get("request")
        if operation == "load":
            return self._load(request), {}
        if operation == "memory":
            return peak_memory_bytes(), {}
        session = self._loaded()
        if operation == "run":
            return None, session.run(arrays)
        if operation == "time":
            durations = time_calls(session, arrays, runs=request["runs"], warmup=request["warmup"])
            come_to_rest()
            return None, {"ns": durations}
        if operation == "layers":
            fields = ("name", "op", "compute", "matrix")
            return [{f: getattr(layer, f) for f in fields} for layer in session.layers()], {}
        raise UsageError(f"unknown request {operation!r}")

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        if self.session is not None:
            raise UsageError("the worker has loaded an artifact already", hint="one worker, one artifact")
        self.session = Session(
            request["artifact"],
            threads=request.get("threads"),
            io=request.get("io", "float"),
            layout=request.get("layout", "artifact"),
        )
        return {"inputs": _listed(self.session.inputs), "outputs": _listed(self.session.outputs)}

    def _loaded(self) -> Session:
        if self.session is None:
            raise UsageError("no artifact is loaded", hint="load one first")
        return self.session


def time_calls(
    session: Session, inputs: Mapping[str, NDArray[Any]], *, runs: int, warmup: int
) -> NDArray[np.int64]:
    """Durations in nanoseconds of `runs` engine calls after `warmup` untimed ones.

    A call hands the prepared inputs to the engine, runs it and copies the outputs out; checking, quantizing
    and transposing are done before. The garbage collector rests meanwhile.
    """
    prepared = session.prepare(inputs)
    durations = np.zeros(runs, dtype=np.int64)
    clock = time.perf_counter_ns
    gc.collect()
    gc.disable()
    try:
        for _ in range(warmup):
            session.invoke(prepared)
        for i in range(runs):
            start = clock()
            session.invoke(prepared)
            durations[i] = clock() - start
    finally:
        gc.enable()
    return durations


def come_to_rest(limit_s: float = 0.25) -> None:
    """Wait until the engine's threads sleep, at most `limit_s`.

    The threads of a pool spin for a while after a run (40 ms of a core in ONNX Runtime) and would disturb
    whoever is timed next. Resting is: under a sixth of one core, twice over 3 ms (a spinning thread may have
    had no core once).
    """
    end = time.perf_counter() + limit_s
    before, quiet = time.process_time(), 0
    while quiet < 2 and time.perf_counter() < end:
        time.sleep(0.003)
        now = time.process_time()
        quiet = quiet + 1 if now - before < 0.0005 else 0
        before = now


def peak_memory_bytes() -> int:
    """The largest resident set of this process so far.

    VmHWM where /proc has it: ru_maxrss, the fallback, survives fork and exec on Linux and so counts the
    parent's memory too.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError as err:
        raise Unsupported("this system does not tell the peak memory of a process") from err
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def serve() -> None:
    """Answer requests until "quit" or the end of stdin; ends the process without the engines' clean-up."""
    requests, answers = _take_streams()
    _leave_with_parent(requests.fileno())
    worker = _Worker()
    while True:
        try:
            message = read_message(requests)
        except CorruptStream as err:
            print(f"edgekit worker: {err}", file=sys.stderr, flush=True)
            os._exit(1)
        if message is None or message[0].get("request") == "quit":
            os._exit(0)  # engines that crash while they are torn down have nothing left to spoil
        _limit(message[0].get("deadline_s", 0.0))
        try:
            value, arrays = worker.answer(*message)
            header: dict[str, Any] = {"value": value}
        except Exception as err:  # the border of the process: everything becomes a typed answer
            header, arrays = {"error": _typed(err).to_json()}, {}
        _limit(0.0)
        write_message(answers, header, arrays)


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for messages; what an engine prints goes to stderr, what it reads is empty."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def _leave_with_parent(descriptor: int) -> None:
    """End this process as soon as the other end of stdin is gone, even in the middle of a long call."""

    def watch() -> None:
        poller = select.poll()
        poller.register(descriptor, 0)  # hang-up and errors are always reported
        poller.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _limit(seconds: float) -> None:
    """Let the kernel end this process with SIGALRM in `seconds` (0: never); no Python code is needed then."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _typed(err: Exception) -> EdgekitError:
    if isinstance(err, EdgekitError):
        if err.__cause__ is not None:
            traceback.print_exception(err.__cause__)
        return err
    traceback.print_exception(err)
    text = f"{type(err).__name__}: {err}"
    out_of_memory = isinstance(err, MemoryError) or "bad_alloc" in text or "bad allocation" in text
    if out_of_memory:
        return StepError(f"ran out of memory: {text}", kind="out_of_memory")
    return StepError(text)


def _listed(tensors: tuple[TensorIO, ...]) -> list[dict[str, Any]]:
    fields = ("name", "engine_name", "dtype", "shape", "axes", "scale", "zero_point")
    return [{field: getattr(tensor, field) for field in fields} for tensor in tensors]


def main(arguments: list[str]) -> None:
    """Serve, or with arguments run one artifact once and print the shapes it answered with."""
    if not arguments:
        serve()
    from argparse import ArgumentParser

    parser = ArgumentParser(prog="python -m edgekit.runtime.worker", description="Run an artifact once.")
    parser.add_argument("artifact")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--io", choices=("float", "native"), default="float")
    parser.add_argument("--layout", choices=("artifact", "source"), default="artifact")
    parser.add_argument("--inputs", help="an .npz file with the inputs by name (zeros without it)")
    asked = parser.parse_args(arguments)
    with Session(asked.artifact, threads=asked.threads, io=asked.io, layout=asked.layout) as session:
        if asked.inputs:
            with np.load(asked.inputs, allow_pickle=False) as stored:
                inputs = dict(stored)
        else:
            inputs = {
                t.name: np.zeros([d if isinstance(d, int) else 1 for d in t.shape], dtype=t.dtype)
                for t in session.inputs
            }
        for name, array in session.run(inputs).items():
            sys.stdout.write(f"{name}: {array.dtype}{list(array.shape)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
