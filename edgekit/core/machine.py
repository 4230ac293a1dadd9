"""Where and with what something was measured."""

from __future__ import annotations

import os
import platform

from edgekit.core.cpu import detect_cpu, int8_multiply_add_saturates
from edgekit.core.packages import EXTRAS, installed_version

__all__ = ["available_cores", "describe_machine", "package_versions"]


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_machine() -> dict[str, str]:
    """Processor, cores available to this process, memory, system, Python; no host or user name."""
    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "cores": str(available_cores()),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu() -> str:
    cpu = detect_cpu()
    saturates = {True: "saturates", False: "is exact", None: "is unknown"}
    return f"{cpu.name} (its int8 multiply-add {saturates[int8_multiply_add_saturates(cpu).saturates]})"


def _memory_gib() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f}"
    except (ValueError, OSError, AttributeError):
        return "unknown"


def package_versions() -> dict[str, str]:
    """Distribution -> installed version, of every package edgekit can use and numpy."""
    names = ["numpy", *sorted({distribution for distribution, _ in EXTRAS.values()})]
    return {name: found for name in names if (found := installed_version(name))}
