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
from collections.abc import Callable, Mapping
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

    `deadline_s` bounds how long a step may take without reporting progress, so that training, which reports
    every step, may take as long as it needs. Output of a child goes to a log that is kept only when the step
    fails.
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
        code, ended = self._spawn(command, log, label)
        reproduce = shlex.join(command)
        if ended:
            raise StepError(
                ended,
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

    def _spawn(self, command: list[str], log: Path, label: str) -> tuple[int, str]:
        """The child's exit status, and why it was ended if it was."""
        package_root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH", "")]))
        with _Progress(self.on_event, label) as progress, log.open("wb") as output:
            environment = {
                **os.environ,
                **self.environment,
                "PYTHONPATH": search,
                PROGRESS_FD: str(progress.descriptor),
            }
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(progress.descriptor,),
                start_new_session=True,
            )
            try:
                return self._wait(child, progress)
            finally:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()

    def _wait(self, child: subprocess.Popen[bytes], progress: _Progress) -> tuple[int, str]:
        while True:
            left = progress.seen_at + self.deadline_s - time.monotonic()
            if left <= 0:
                what = "made no progress for" if progress.reported else "did not finish in"
                return -1, f"{what} {self.deadline_s:g} s and was ended"
            try:
                return child.wait(timeout=left), ""
            except subprocess.TimeoutExpired:
                continue


class _Progress:
    """What a child reports through a pipe, told as events; `seen_at` (monotonic, s) is when it last did."""

    def __init__(self, on_event: Listener, label: str) -> None:
        self._on_event, self._label = on_event, label
        self.seen_at, self.reported = time.monotonic(), False

    def __enter__(self) -> _Progress:
        reading, self.descriptor = os.pipe()
        self._thread = threading.Thread(target=self._listen, args=(reading,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        self._thread.join(timeout=5)

    def _listen(self, reading: int) -> None:
        with os.fdopen(reading, "rb") as stream:
            for line in stream:
                done, total, note = json.loads(line)
                self.seen_at, self.reported = time.monotonic(), True
                state: Literal["progress", "note"] = "progress" if total else "note"
                self._on_event(Event(step=self._label, state=state, done=done, total=total, note=note))
