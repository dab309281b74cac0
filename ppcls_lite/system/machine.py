"""What the engines want to know of the CPU: cores, model, instructions."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path

MAX_DEFAULT_THREADS = 4  # so that a large server is not taken over; `threads` asks for more
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_CPU_INFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """The cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: respects taskset and cpusets
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def default_threads() -> int:
    """As many threads as this process may use cores, at most `MAX_DEFAULT_THREADS`."""
    return min(usable_cores(), MAX_DEFAULT_THREADS)


def cpu_model() -> str:
    """The CPU's name as the system gives it."""
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """The instruction sets by the names of /proc/cpuinfo; empty where there is no such file."""
    return set(_cpu_info().get("flags", "").split())


def cpu_runs_bf16() -> bool:
    """Whether the CPU multiplies bf16 numbers itself; elsewhere bf16 would only be slower."""
    return bool(cpu_flags() & _BF16_FLAGS)


@functools.cache
def _cpu_info() -> dict[str, str]:
    """The first CPU's lines."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
