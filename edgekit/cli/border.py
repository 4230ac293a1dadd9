"""The border of the command line: parse, run one command, print its answer or its error, give an exit code.

0 done (a report: verdict pass)      4 refused, with every reason
1 verdict fail                       5 a step failed, crashed, hung or ran out of memory
2 wrong usage or bad input          70 a defect of edgekit; the traceback is in a log
3 a package is missing             130 interrupted (143: ended by SIGTERM)
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from edgekit.cli.answer import Answer
from edgekit.cli.parser import parse
from edgekit.errors import EdgekitError, InternalError, StepError, UsageError

__all__ = ["main"]

# errors of the operating system that a path given by the user explains
_PATH_ERRORS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EISDIR,
)


class _Terminated(KeyboardInterrupt):
    """SIGTERM arrived: unwinds like Ctrl-C, so that nothing half-written stays."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Never raises, but for a second Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    as_json, debug = "--json" in words, "--debug" in words
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a character must not end the run
            stream.reconfigure(errors="backslashreplace")
    try:
        with _sigterm_unwinds():
            return _outcome(words, as_json=as_json, debug=debug)
    except KeyboardInterrupt as stop:
        code = 143 if isinstance(stop, _Terminated) else 130
        error = {"type": "Interrupted", "message": "interrupted; nothing half-written", "exit_code": code}
        _print_error(error, "interrupted; nothing half-written", as_json=as_json)
        return code


def _outcome(words: list[str], *, as_json: bool, debug: bool) -> int:
    try:
        arguments = parse(words)
        answer: Answer = arguments.execute(arguments)
        _print_answer(answer, as_json=as_json)
    except SystemExit as stop:  # argparse, after --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except Exception as err:  # the border: whatever happened becomes a message and an exit code
        if debug:
            _print_traceback(err)
        known = _known(err, words)
        _print_error(known.to_json(), str(known), as_json=as_json)
        return known.exit_code
    return answer.exit_code


def _known(err: Exception, words: list[str]) -> EdgekitError:
    """The error as one of edgekit's own; one that is not foreseen is logged with its traceback."""
    if isinstance(err, EdgekitError):
        return err
    if isinstance(err, MemoryError):
        return StepError("ran out of memory", kind="out_of_memory", where=words[0] if words else "")
    if isinstance(err, OSError):
        place = str(err.filename or "")
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            return StepError("no space left on the disk", where=place, hint="free some space and run again")
        if err.errno in _PATH_ERRORS and place:
            return UsageError(
                err.strerror or str(err), where=place, hint="name another path, or change its access"
            )
    log = _write_log(err, words)
    return InternalError(
        f"unexpected {type(err).__name__}: {err}",
        hint=f"this is a defect of edgekit; the traceback is in {log}" if log else "run again with --debug",
    )


def _write_log(err: Exception, words: list[str]) -> str:
    """Write the traceback under the cache folder; "" (and the traceback on stderr) when that cannot be."""
    import platform
    import shlex
    import time
    import traceback

    from edgekit import __version__
    from edgekit.core.files import cache_root, write_text

    head = f"edgekit {__version__}, Python {platform.python_version()}, {platform.platform()}"
    text = "\n".join([head, shlex.join(["edgekit", *words]), "", *traceback.format_exception(err)])
    path = cache_root() / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-edgekit.log"
    try:
        write_text(path, text)
    except (OSError, EdgekitError):
        _print_traceback(err)
        return ""
    return str(path)


def _print_answer(answer: Answer, *, as_json: bool) -> None:
    text = answer.text
    if as_json:
        import json

        text = json.dumps(answer.value, indent=2, allow_nan=False)
    if not text:
        return
    try:
        _write(sys.stdout, text + "\n")
    except OSError as err:
        raise StepError(
            f"cannot write the answer to standard output: {err.strerror}", hint="the work itself was done"
        ) from err


def _print_error(error: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        import json

        with contextlib.suppress(OSError):
            _write(sys.stdout, json.dumps({"error": error}, indent=2) + "\n")
    with contextlib.suppress(OSError):
        _write(sys.stderr, f"{_red('error:')} {text}\n")


def _print_traceback(err: Exception) -> None:
    import traceback

    with contextlib.suppress(OSError):
        _write(sys.stderr, "".join(traceback.format_exception(err)))


def _write(stream: TextIO | None, text: str) -> None:
    """Write and flush. A reader that went away (`edgekit targets | head -1`) is no error."""
    if stream is None:  # closed from the start (`>&-`): nobody wants to read
        return
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # the interpreter flushes once more at exit: let it flush into nothing
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _red(text: str) -> str:
    from edgekit.cli.progress import wants_colour

    return f"\x1b[31m{text}\x1b[0m" if sys.stderr and wants_colour(sys.stderr) else text


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """While the block runs, SIGTERM unwinds the stack as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def unwind(number: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
