"""Run one step in a child process of its own, with a deadline; its death is a typed result."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.core.events import Event, Listener, silent
from edgekit.core.files import write_json
from edgekit.core.progress import PROGRESS_FD
from edgekit.devices.child import death, log_folder
from edgekit.errors import EdgekitError, StepError, error_from_json

__all__ = ["StepRunner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRunner:
    """Runs functions ("module:name", JSON arguments by keyword, a JSON value back) in child processes.

    `deadline_s` bounds every step. Output of a child goes to a log that is kept only when the step fails.
    """

    deadline_s: float = 900.0
    on_event: Listener = silent
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, function: str, arguments: Mapping[str, Any], *, label: str) -> Any:
        """Run a step and return its value.

        Raises the step's own `EdgekitError`, or `StepError` when the child failed, crashed, was killed for
        memory or passed its deadline.
        """
        return self._told(label, lambda: self._run(function, arguments, label))

    def run_here(self, function: Callable[..., Any], arguments: Mapping[str, Any], *, label: str) -> Any:
        """Run a step in this process: for what lives in it and in no file. It has no deadline.

        Raises the step's own `EdgekitError`.
        """
        return self._told(label, lambda: function(**arguments))

    def _told(self, label: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        self.on_event(Event(step=label, state="start"))
        try:
            value = work()
        except EdgekitError as err:
            state = "refused" if err.exit_code == 4 else "failed"
            seconds = time.perf_counter() - started
            self.on_event(Event(step=label, state=state, seconds=seconds, note=err.message))  # type: ignore[arg-type]
            raise
        self.on_event(Event(step=label, state="done", seconds=time.perf_counter() - started))
        return value

    def _run(self, function: str, arguments: Mapping[str, Any], label: str) -> Any:
        folder = log_folder(label)
        request, result, log = folder / "request.json", folder / "result.json", folder / "output.log"
        write_json(request, {"function": function, "arguments": dict(arguments)})
        command = [sys.executable, "-m", "edgekit.pipeline.child", str(request), str(result)]
        code, timed_out = self._spawn(command, log, label)
        reproduce = shlex.join(command)
        if timed_out:
            raise StepError(
                f"did not finish in {self.deadline_s:g} s and was ended",
                kind="timed_out",
                where=label,
                hint="allow more time with --deadline",
                log_path=str(log),
                command=reproduce,
            )
        if code != 0 or not result.is_file():
            raise death(code, label=label, log=log, command=reproduce)
        answer = json.loads(result.read_text(encoding="utf-8"))
        if "error" not in answer:
            shutil.rmtree(folder, ignore_errors=True)
            return answer["value"]
        error = error_from_json(answer["error"])
        if not error.where:
            error.where = label
        if isinstance(error, StepError) and not error.log_path:
            error.log_path, error.command = str(log), reproduce
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise error

    def _spawn(self, command: list[str], log: Path, label: str) -> tuple[int, bool]:
        package_root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
        with _progress_pipe(self.on_event, label) as descriptor, log.open("wb") as output:
            environment = {
                **os.environ,
                **self.environment,
                "PYTHONPATH": search,
                PROGRESS_FD: str(descriptor),
            }
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(descriptor,),
                start_new_session=True,
            )
            try:
                return child.wait(timeout=self.deadline_s), False
            except subprocess.TimeoutExpired:
                return -1, True
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()


@contextmanager
def _progress_pipe(on_event: Listener, label: str) -> Iterator[int]:
    reading, writing = os.pipe()

    def listen() -> None:
        with os.fdopen(reading, "rb") as stream:
            for line in stream:
                done, total, note = json.loads(line)
                state: Literal["progress", "note"] = "progress" if total else "note"
                on_event(Event(step=label, state=state, done=done, total=total, note=note))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield writing
    finally:
        os.close(writing)
        thread.join(timeout=5)
