"""The CPU this process runs on, and whether its int8 multiply-add saturates. Standard library only."""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cpu", "Saturation", "detect_cpu", "int8_multiply_add_saturates", "parse_cpuinfo", "parse_sysctl"]

_X86 = ("x86_64", "amd64", "i386", "i486", "i586", "i686", "x86")
_ARM64 = ("aarch64", "arm64")
# any of these brings a u8*s8 multiply-add that sums four products in 32 bits (VPDPBUSD)
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu:
    """A CPU: its marketing name ("" when unknown), `platform.machine()`, and its flags.

    `flags` are lower case, as the system spells them, and common to all cores; empty when they could not be
    read.
    """

    name: str
    architecture: str
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Saturation:
    """Whether the int8 multiply-add saturates (None: not known), and why that is believed."""

    saturates: bool | None
    reason: str


def detect_cpu() -> Cpu:
    """The CPU of this machine: from /proc/cpuinfo on Linux, sysctl on macOS; never raises."""
    machine = platform.machine().lower()
    system = platform.system()
    if system == "Linux":
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        return parse_cpuinfo(text, architecture=machine)
    if system == "Darwin":
        return parse_sysctl(_sysctl(), architecture=machine)
    return Cpu(name=platform.processor(), architecture=machine)


def int8_multiply_add_saturates(cpu: Cpu | None = None) -> Saturation:
    """Whether u8*s8 products are added in 16 saturating bits on this CPU (VPMADDUBSW).

    x86 without VNNI does so: two neighbouring products of one sign can pass 32,767, hence capped weights
    there. VNNI adds four products in 32 bits, and arm64 kernels widen to 16 bits only what fits (-127*127*2
    is above -32,768). Measured on x86 with AVX2, documented for VNNI and arm64.
    """
    cpu = cpu or detect_cpu()
    if cpu.architecture in _ARM64:
        return Saturation(saturates=False, reason="arm64 adds int8 products in wide enough integers")
    if cpu.architecture not in _X86:
        return Saturation(
            saturates=None, reason=f"edgekit does not know the architecture {cpu.architecture or 'unknown'!r}"
        )
    if not cpu.flags:
        return Saturation(saturates=None, reason="the flags of this x86 CPU could not be read")
    if found := sorted(cpu.flags & _VNNI):
        return Saturation(saturates=False, reason=f"x86 with VNNI ({', '.join(found)})")
    return Saturation(saturates=True, reason="x86 without VNNI adds int8 products in 16 saturating bits")


def parse_cpuinfo(text: str, *, architecture: str) -> Cpu:
    """A CPU from the text of /proc/cpuinfo (x86 and Arm spellings); flags are those all cores share."""
    names: dict[str, str] = {}
    flags: frozenset[str] | None = None
    for line in text.splitlines():
        key, colon, value = (part.strip() for part in line.partition(":"))
        if not colon:
            continue
        names.setdefault(key, value)
        if key.lower() in ("flags", "features"):
            found = frozenset(value.lower().split())
            flags = found if flags is None else flags & found
    name = names.get("model name") or names.get("Model") or names.get("Hardware") or ""
    if not name and "CPU part" in names:
        name = f"implementer {names.get('CPU implementer', '?')}, part {names['CPU part']}"
    return Cpu(name=name, architecture=architecture, flags=flags or frozenset())


def parse_sysctl(text: str, *, architecture: str) -> Cpu:
    """A CPU from the lines of `sysctl machdep.cpu hw.optional` ("key: value")."""
    values = dict(re.findall(r"^([\w.]+): (.*)$", text, flags=re.MULTILINE))
    words = " ".join(values.get(f"machdep.cpu.{key}", "") for key in ("features", "leaf7_features"))
    flags = {word.lower() for word in words.split()}
    flags |= {
        key.rpartition(".")[2].lower()
        for key, value in values.items()
        if key.startswith("hw.optional.") and value == "1"
    }
    return Cpu(
        name=values.get("machdep.cpu.brand_string", ""), architecture=architecture, flags=frozenset(flags)
    )


def _sysctl() -> str:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "machdep.cpu", "hw.optional"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,  # one of the two names may be unknown; the other is still printed
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
