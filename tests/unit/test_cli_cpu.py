"""The CPU and its int8 multiply-add, from recorded texts of systems this machine is not."""

from __future__ import annotations

import platform

import pytest

from edgekit.core.cpu import Cpu, detect_cpu, int8_multiply_add_saturates, parse_cpuinfo, parse_sysctl

AVX2_ONLY = """\
processor\t: 0
model name\t: AMD EPYC 7003
flags\t\t: fpu sse2 avx avx2 fma
processor\t: 1
model name\t: AMD EPYC 7003
flags\t\t: fpu sse2 avx avx2 fma
"""
RASPBERRY_PI = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd08

Revision\t: c03114
Model\t\t: Raspberry Pi 4 Model B Rev 1.4
"""
INTEL_MAC = """\
machdep.cpu.brand_string: Intel(R) Core(TM) i7-1068NG7 CPU @ 2.30GHz
machdep.cpu.features: FPU SSE2 AVX1.0
machdep.cpu.leaf7_features: AVX2 AVX512F AVX512VNNI
hw.optional.avx2_0: 1
hw.optional.sme: 0
"""


def test_x86_without_vnni_saturates() -> None:
    cpu = parse_cpuinfo(AVX2_ONLY, architecture="x86_64")
    assert cpu.name == "AMD EPYC 7003"
    answer = int8_multiply_add_saturates(cpu)
    assert answer.saturates is True
    assert "without VNNI" in answer.reason


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni"])
def test_x86_with_vnni_does_not_saturate(flag: str) -> None:
    cpu = parse_cpuinfo(AVX2_ONLY.replace("fma", f"fma {flag}"), architecture="x86_64")
    answer = int8_multiply_add_saturates(cpu)
    assert answer.saturates is False
    assert flag in answer.reason


def test_a_flag_counts_only_when_every_core_has_it() -> None:
    text = AVX2_ONLY.replace("fma", "fma avx_vnni", 1)
    cpu = parse_cpuinfo(text, architecture="x86_64")
    assert "avx_vnni" not in cpu.flags
    assert int8_multiply_add_saturates(cpu).saturates is True


def test_arm64_does_not_saturate_and_is_named_by_its_board() -> None:
    cpu = parse_cpuinfo(RASPBERRY_PI, architecture="aarch64")
    assert cpu.name == "Raspberry Pi 4 Model B Rev 1.4"
    assert "asimd" in cpu.flags
    assert int8_multiply_add_saturates(cpu).saturates is False


def test_arm_without_a_board_name_is_named_by_implementer_and_part() -> None:
    text = RASPBERRY_PI.partition("Revision")[0]
    assert parse_cpuinfo(text, architecture="aarch64").name == "implementer 0x41, part 0xd08"


def test_macs_are_read_from_sysctl() -> None:
    cpu = parse_sysctl(INTEL_MAC, architecture="x86_64")
    assert cpu.name.startswith("Intel(R) Core(TM) i7")
    assert "sme" not in cpu.flags
    assert "avx2_0" in cpu.flags
    assert int8_multiply_add_saturates(cpu).saturates is False


@pytest.mark.parametrize("architecture", ["riscv64", "armv7l", ""])
def test_an_architecture_nobody_measured_is_not_guessed(architecture: str) -> None:
    answer = int8_multiply_add_saturates(Cpu(name="", architecture=architecture))
    assert answer.saturates is None
    assert "does not know" in answer.reason


def test_unreadable_x86_flags_are_not_taken_for_missing_vnni() -> None:
    assert int8_multiply_add_saturates(Cpu(name="", architecture="x86_64")).saturates is None


@pytest.mark.parametrize("text", ["", "\n\n", "no colon here\n\x00\ufffd", ":\n: :"])
def test_an_odd_cpuinfo_is_an_unknown_cpu(text: str) -> None:
    assert parse_cpuinfo(text, architecture="x86_64").flags == frozenset()


def test_this_machine_is_detected() -> None:
    cpu = detect_cpu()
    assert cpu.architecture == platform.machine().lower()
    if platform.system() == "Linux":
        assert cpu.flags
