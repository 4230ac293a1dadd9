"""The exception tree and the exit codes.

    EdgekitError 70
    ├── UsageError      2   bad recipe, target, model or samples; every problem at once
    ├── MissingPackage  3   names the extra that brings it
    ├── Unsupported     4   a list of reasons: node, why, what would help
    ├── StepError       5   a step or worker failed, crashed, hung or ran out of memory
    └── InternalError  70   a defect of edgekit itself

A budget that is not met is no exception: it is a verdict in the report and exit code 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "EdgekitError",
    "InternalError",
    "MissingPackage",
    "Reason",
    "StepError",
    "StepFailure",
    "Unsupported",
    "UsageError",
    "error_from_json",
    "nearest",
]

StepFailure = Literal["failed", "crashed", "timed_out", "out_of_memory", "disk_full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why something cannot be done: the node (or "" for the whole model), why, and what would help."""

    why: str
    node: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.node}: " if self.node else ""
        help_ = f" ({self.hint})" if self.hint else ""
        return f"{place}{self.why}{help_}"


class EdgekitError(Exception):
    """Base of every error edgekit raises: what happened, where, and what to do next."""

    exit_code = 70

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  hint: {self.hint}" if self.hint else text

    def to_json(self) -> dict[str, Any]:
        """The error as plain JSON values; `error_from_json` is the inverse."""
        return {
            "type": type(self).__name__,
            "message": self.message,
            "where": self.where,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class UsageError(EdgekitError):
    """Something given to edgekit is wrong; `problems` lists all that were found."""

    exit_code = 2

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", problems: Sequence[str] = ()
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        lines = [head, *(f"  - {problem}" for problem in self.problems)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {**EdgekitError.to_json(self), "problems": list(self.problems)}


class MissingPackage(EdgekitError):
    """A package is needed that is not installed."""

    exit_code = 3

    def __init__(self, package: str, *, extra: str, needed_for: str = "") -> None:
        purpose = f" (needed for {needed_for})" if needed_for else ""
        super().__init__(
            f"the package {package!r} is not installed{purpose}",
            hint=f"pip install 'edgekit-toolchain[{extra}]'",
        )
        self.package = package
        self.extra = extra
        self.needed_for = needed_for

    def to_json(self) -> dict[str, Any]:
        return {
            **EdgekitError.to_json(self),
            "package": self.package,
            "extra": self.extra,
            "needed_for": self.needed_for,
        }


class Unsupported(EdgekitError):
    """A refusal, with every reason found."""

    exit_code = 4

    def __init__(
        self, message: str, *, where: str = "", hint: str = "", reasons: Iterable[Reason] = ()
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.reasons = tuple(reasons)

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where else self.message
        lines = [head, *(f"  - {reason}" for reason in self.reasons)]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        reasons = [{"node": r.node, "why": r.why, "hint": r.hint} for r in self.reasons]
        return {**EdgekitError.to_json(self), "reasons": reasons}


class StepError(EdgekitError):
    """A step in a child process failed, crashed, hung or was killed for memory."""

    exit_code = 5

    def __init__(
        self,
        message: str,
        *,
        kind: StepFailure = "failed",
        where: str = "",
        hint: str = "",
        log_path: str = "",
        command: str = "",
    ) -> None:
        super().__init__(message, where=where, hint=hint)
        self.kind: StepFailure = kind
        self.log_path = log_path
        self.command = command

    def __str__(self) -> str:
        lines = [EdgekitError.__str__(self)]
        if self.log_path:
            lines.append(f"  log: {self.log_path}")
        if self.command:
            lines.append(f"  reproduce: {self.command}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            **EdgekitError.to_json(self),
            "kind": self.kind,
            "log_path": self.log_path,
            "command": self.command,
        }


class InternalError(EdgekitError):
    """A defect of edgekit: please report it."""

    exit_code = 70


def error_from_json(data: dict[str, Any]) -> EdgekitError:
    """Rebuild an error that crossed a process border as `EdgekitError.to_json()`."""
    place = {"where": data.get("where", ""), "hint": data.get("hint", "")}
    message = str(data["message"])
    kind = data["type"]
    if kind == "UsageError":
        return UsageError(message, problems=data.get("problems", ()), **place)
    if kind == "MissingPackage":
        missing = MissingPackage(data["package"], extra=data["extra"], needed_for=data.get("needed_for", ""))
        missing.where, missing.hint = place["where"], place["hint"] or missing.hint
        return missing
    if kind == "Unsupported":
        return Unsupported(message, reasons=[Reason(**reason) for reason in data.get("reasons", ())], **place)
    if kind == "StepError":
        return StepError(
            message,
            kind=data.get("kind", "failed"),
            log_path=data.get("log_path", ""),
            command=data.get("command", ""),
            **place,
        )
    return InternalError(message, **place)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A phrase that names the allowed word nearest to `word`, or all of them when none is near."""
    from difflib import get_close_matches  # 5 ms that --help and the runtime need not pay

    choices = sorted(allowed)
    close = get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"allowed: {', '.join(choices)}" if choices else "none is allowed"
