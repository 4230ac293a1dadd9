"""Functions that the tests of the step runner run in child processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from edgekit.core.progress import report_progress
from edgekit.errors import MissingPackage, Reason, Unsupported, UsageError


def double(value: int) -> int:
    print("this goes to the log")
    return 2 * value


def whoami() -> int:
    return os.getpid()


def count(total: int) -> str:
    for done in range(1, total + 1):
        report_progress(done, total)
    return "counted"


def works_on(seconds: float, then_hangs: bool) -> str:
    for done in range(1, 11):
        time.sleep(seconds / 10)
        report_progress(done, 10)
    if then_hangs:
        time.sleep(600)
    return "at last"


def refuse() -> None:
    raise Unsupported("cannot", where="here", hint="do that", reasons=[Reason(why="w", node="n", hint="h")])


def misused() -> None:
    raise UsageError("bad", problems=["one", "two"])


def lacks() -> None:
    raise MissingPackage("openvino", extra="openvino", needed_for="a test")


def broken() -> None:
    raise KeyError("a defect")


def dies(number: int) -> None:
    os.kill(os.getpid(), number)


def leaves() -> None:
    os._exit(7)


def out_of_memory() -> None:
    raise MemoryError


def full_disk(out: str) -> None:
    raise OSError(28, "No space left on device", out)


def hangs_with_a_child(place: str) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(place).write_text(str(child.pid), encoding="utf-8")
    time.sleep(600)


def environment(name: str) -> str:
    return os.environ.get(name, "")


SIGSEGV = int(signal.SIGSEGV)
