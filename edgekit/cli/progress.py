"""Events as progress on stderr: a live display on a terminal, one line per finished step when piped."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, TextIO

if TYPE_CHECKING:
    from edgekit.core.events import Event, Listener

__all__ = ["describe", "show_progress", "wants_colour"]

_COLOURS = {"done": "32", "cached": "36", "refused": "33", "failed": "31"}


def wants_colour(stream: TextIO) -> bool:
    """Whether to colour text: on a terminal that is not dumb, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def describe(event: Event) -> str:
    """One line for an event that ends a step or carries a note; "" for one that does not."""
    if event.state in ("start", "progress"):
        return ""
    if event.state == "note":
        return f"{event.step}: {event.note}"
    seconds = f" in {event.seconds:.1f} s" if event.seconds else ""
    note = f": {event.note}" if event.note else ""
    return f"{event.step}: {event.state}{seconds}{note}"


@contextlib.contextmanager
def show_progress(*, quiet: bool, stream: TextIO | None = None) -> Iterator[Listener]:
    """A listener that shows events on `stream` (stderr) while the block runs.

    On a terminal: rich's live display when it is installed, else one line that is rewritten. Elsewhere: one
    line per finished step. A stream that is closed meanwhile silences the display, it never ends the run.
    """
    from edgekit.core.events import silent

    out = sys.stderr if stream is None else stream
    if quiet or out is None:  # Python sets sys.stderr to None when it is closed from the start
        yield silent
        return
    display: _Display = _Lines(out)
    if out.isatty() and os.environ.get("TERM") != "dumb":
        display = _rich_display(out) or _OneLine(out)
    lock = threading.Lock()
    ended: set[str] = set()

    def listen(event: Event) -> None:  # events come from several threads
        with lock, contextlib.suppress(OSError, ValueError):
            if event.state == "start":
                ended.discard(event.step)
            elif event.state == "progress" and event.step in ended:
                return  # the pipe of a step is read by another thread: its last count can come late
            elif event.state not in ("progress", "note"):
                ended.add(event.step)
            display.show(event)

    try:
        yield listen
    finally:
        with lock, contextlib.suppress(OSError, ValueError):
            display.close()


class _Display(Protocol):
    def show(self, event: Event) -> None: ...

    def close(self) -> None: ...


class _Lines:
    """One line per finished step: for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: Event) -> None:
        if line := describe(event):
            self._stream.write(line + "\n")
            self._stream.flush()

    def close(self) -> None:
        """Nothing is open."""


class _OneLine:
    """A terminal without rich: finished steps stay, the running ones share one rewritten line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = wants_colour(stream)
        self._running: dict[str, Event] = {}

    def show(self, event: Event) -> None:
        self._running.pop(event.step, None)
        text = "\r\x1b[K"
        if line := describe(event):
            text += _coloured(line, event.state, self._colour) + "\n"
        else:
            self._running[event.step] = event
        self._stream.write(text + self._status())
        self._stream.flush()

    def close(self) -> None:
        self._stream.write("\r\x1b[K")
        self._stream.flush()

    def _status(self) -> str:
        parts = [" ".join(filter(None, (e.step, f"{e.done}/{e.total}" if e.total else "", e.note)))
                 for e in self._running.values()]  # fmt: skip
        width = max(os.get_terminal_size(self._stream.fileno()).columns - 1, 20) if parts else 0
        return f"{', '.join(parts)} …"[:width] if parts else ""


def _coloured(line: str, state: str, colour: bool) -> str:
    code = _COLOURS.get(state)
    return f"\x1b[{code}m{line}\x1b[0m" if colour and code else line


def _rich_display(stream: TextIO) -> _Display | None:
    """The live display of rich; None when it is not installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed
    except ModuleNotFoundError:
        return None
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
    )
    return _Rich(Progress(*columns, Elapsed(), console=Console(file=stream), transient=True))


class _Rich:
    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._tasks: dict[str, Any] = {}
        progress.start()

    def show(self, event: Event) -> None:
        line = describe(event)
        if event.state == "note":
            self._progress.console.print(line, markup=False, highlight=False)
        elif line:
            if event.step in self._tasks:
                self._progress.remove_task(self._tasks.pop(event.step))
            style = {"done": "green", "cached": "cyan", "refused": "yellow", "failed": "red"}[event.state]
            self._progress.console.print(line, style=style, markup=False, highlight=False)
        else:
            self._update(event)

    def _update(self, event: Event) -> None:
        if event.step not in self._tasks:
            self._tasks[event.step] = self._progress.add_task(event.step, total=None)
        if event.total:
            text = f"{event.step}: {event.note}" if event.note else event.step
            self._progress.update(
                self._tasks[event.step], completed=event.done, total=event.total, description=text
            )

    def close(self) -> None:
        self._progress.stop()
