"""What is kept and said of a child process: its log folder, and its death as a typed error."""

from __future__ import annotations

import signal
import tempfile
import time
from pathlib import Path

from edgekit.core.files import cache_root
from edgekit.errors import StepError, StepFailure

__all__ = ["death", "log_folder"]

_OUT_OF_MEMORY = ("bad_alloc", "Cannot allocate memory", "MemoryError")


def log_folder(label: str) -> Path:
    """A new folder for the log of a child process, under the cache."""
    root = cache_root() / "logs"
    root.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in label)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-") + name + "-", dir=root))


def death(code: int, *, label: str, log: Path, command: str) -> StepError:
    """The error for a child that ended by itself with `code`, negative for a signal.

    SIGKILL counts as out of memory (that is what the kernel sends), as does an abort whose log names a
    failed allocation; SIGALRM is the child's own deadline.
    """
    last = _last_lines(log)
    kind: StepFailure
    if code == -signal.SIGKILL:
        kind, what = "out_of_memory", "was killed by SIGKILL, most often for lack of memory"
    elif code == -signal.SIGALRM:
        kind, what = "timed_out", "passed its deadline and ended itself"
    elif code == -signal.SIGABRT and any(word in last for word in _OUT_OF_MEMORY):
        kind, what = "out_of_memory", "aborted because an allocation failed"
    elif code < 0:
        name = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
        kind, what = "crashed", f"crashed with {name}"
    else:
        kind, what = "failed", f"ended with exit status {code}"
    if kind == "failed" and last:
        what += f": {last.splitlines()[-1]}"
    return StepError(what, kind=kind, where=label, log_path=str(log), command=command)


def _last_lines(log: Path) -> str:
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(line for line in text.splitlines()[-20:] if line.strip())
