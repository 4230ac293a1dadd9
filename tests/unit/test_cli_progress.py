"""The progress display: lines when piped, one rewritten line or rich on a terminal, silence when asked."""

from __future__ import annotations

import builtins
import io
import os
import pty
import threading
from collections.abc import Callable
from typing import Any

import pytest

from edgekit.cli.progress import describe, show_progress
from edgekit.core.events import Event

STORY = (
    Event(step="read", state="start"),
    Event(step="read", state="done", seconds=1.25),
    Event(step="simplify", state="cached"),
    Event(step="calibrate", state="start"),
    Event(step="calibrate", state="progress", done=3, total=8),
    Event(step="lower [tflite]", state="refused", note="no kernel for 'Foo'"),
    Event(step="calibrate", state="failed", seconds=0.5, note="NaN in samples"),
    Event(step="simplify", state="note", note="kept HardSwish"),
)
LINES = """\
read: done in 1.2 s
simplify: cached
lower [tflite]: refused: no kernel for 'Foo'
calibrate: failed in 0.5 s: NaN in samples
simplify: kept HardSwish
"""


class Terminal:
    """A pseudo-terminal: `stream` is what the program sees, `text()` what a person would."""

    def __init__(self) -> None:
        self._reading, writing = pty.openpty()
        self.stream = os.fdopen(writing, "w", encoding="utf-8")
        self._seen = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self._reading, 65536):
                self._seen += chunk
        except OSError:  # the other side is closed
            pass

    def text(self) -> str:
        self.stream.close()
        self._reader.join(timeout=10)
        return self._seen.decode()


def tell(stream: Any, *, quiet: bool = False) -> None:
    with show_progress(quiet=quiet, stream=stream) as listener:
        for event in STORY:
            listener(event)


@pytest.fixture
def no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError("No module named 'rich'", name="rich")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_a_pipe_gets_one_line_a_step() -> None:
    stream = io.StringIO()
    tell(stream)
    assert stream.getvalue() == LINES


def test_quiet_shows_nothing() -> None:
    stream = io.StringIO()
    tell(stream, quiet=True)
    assert stream.getvalue() == ""


def test_events_that_only_tell_the_pace_have_no_line() -> None:
    assert describe(Event(step="x", state="start")) == ""
    assert describe(Event(step="x", state="progress", done=1, total=2)) == ""


@pytest.mark.usefixtures("no_rich")
def test_a_terminal_without_rich_rewrites_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    terminal = Terminal()
    tell(terminal.stream)
    text = terminal.text()
    assert "calibrate 3/8" in text
    assert "\x1b[32mread: done in 1.2 s\x1b[0m" in text
    assert text.endswith("\r\x1b[K")


@pytest.mark.usefixtures("no_rich")
def test_no_color_is_respected_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    tell(terminal.stream)
    text = terminal.text()
    assert "read: done in 1.2 s" in text
    assert "\x1b[3" not in text


def test_rich_shows_the_same_steps(monkeypatch: pytest.MonkeyPatch, need: Callable[[str], None]) -> None:
    need("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    tell(terminal.stream)
    text = terminal.text()
    for line in LINES.splitlines():  # brackets and quotes are text, never markup
        assert line in text
    assert "\x1b[3" not in text


@pytest.mark.usefixtures("no_rich")
def test_a_count_that_comes_after_the_end_of_its_step_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with show_progress(quiet=False, stream=terminal.stream) as listener:
        listener(Event(step="calibrate", state="done"))
        listener(Event(step="calibrate", state="progress", done=8, total=8))
        listener(Event(step="calibrate", state="start"))
        listener(Event(step="calibrate", state="progress", done=5, total=8))
    text = terminal.text()
    assert "8/8" not in text
    assert "5/8" in text


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    tell(terminal.stream)
    assert terminal.text().replace("\r\n", "\n") == LINES


def test_a_stream_that_is_closed_never_ends_the_run() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "w")
    os.close(reading)
    tell(stream)
    with pytest.raises(BrokenPipeError):  # it really was closed: Python flushes the rest
        stream.close()
