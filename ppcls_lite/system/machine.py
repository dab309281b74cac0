"""The processor, how much of it this process may use, and what is installed.

Cores are counted as the system's scheduler gives them: those that `taskset` or a cpuset leaves, and
no more than the CPU quota of the control group (a container's `--cpus`, a Kubernetes limit) pays
for. Everything is read below `root`, so that tests can show other machines.
Read next: cores.py, ppcls_lite/benchmark/machine.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

MAX_DEFAULT_THREADS = 4  # so that a large server is not taken over; `threads` asks for more
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}
_MODEL_KEYS = ("model name", "flags", "Features", "CPU part")  # x86, and Arm
_ROOT = Path("/")


def usable_cores(root: Path = _ROOT) -> int:
    """How many cores this process may keep busy: its affinity and its CPU quota, rounded up."""
    cores = len(usable_processors())
    quota = cpu_quota(root)
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def usable_processors() -> list[int]:
    """The numbers of the logical processors that this process may run on, sorted."""
    if hasattr(os, "sched_getaffinity"):  # Linux: respects taskset and cpusets
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def default_threads() -> int:
    """As many threads as this process may use cores, at most `MAX_DEFAULT_THREADS`."""
    return min(usable_cores(), MAX_DEFAULT_THREADS)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """How many processors' time the control groups allow, by cgroup v2 or v1; None: no limit.

    A group is limited by the groups around it, too: the smallest quota counts.
    """
    quotas = [quota for folder in _control_groups(root) if (quota := _quota_of(folder))]
    return min(quotas, default=None)


def cpu_model(root: Path = _ROOT) -> str:
    """The CPU's name as the system gives it."""
    return _cpu_info(root).get("model name") or platform.processor() or platform.machine()


def cpu_flags(root: Path = _ROOT) -> set[str]:
    """The instruction sets by the names of /proc/cpuinfo; empty where there is no such file."""
    return set(_cpu_info(root).get("flags", "").split())


def cpu_runs_bf16() -> bool:
    """Whether the CPU multiplies bf16 numbers itself; elsewhere bf16 would only be slower."""
    return bool(cpu_flags() & _BF16_FLAGS)


def grants_tiles() -> bool:
    """Whether the system lets this process use the tile registers of AMX, which it asks for here.

    Linux gives them to a process that asks; kernels before 5.16 and some sandboxes do not.
    """
    if not (sys.platform == "linux" and "amx_tile" in cpu_flags()):
        return False
    call, permit, tile_data = 158, 0x1023, 18  # arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
    return ctypes.CDLL(None).syscall(call, permit, tile_data) == 0


def cpu_identity(root: Path = _ROOT) -> str:
    """Model and features of all processors: where it differs, machine code may not run."""
    lines = _read(_cpu_info_file(root)).splitlines()
    facts = {line for line in lines if line.partition(":")[0].strip() in _MODEL_KEYS}
    return "\n".join(sorted(facts)) or f"{platform.machine()} {platform.processor()}"


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those of `packages` (by their names for pip) that are installed."""
    import importlib.metadata  # with the packages of e-mail, which a start can spare

    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def in_the_way(cores: int) -> str | None:
    """That other programs want more than the `cores` have, in words; None where they do not.

    A time that is measured then is too long.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load <= cores:
        return None
    return f"other programs keep this machine busy (load {load:.1f} on {cores} cores)"


def _cpu_info_file(root: Path) -> Path:
    return root / "proc/cpuinfo"


@functools.cache
def _cpu_info(root: Path) -> dict[str, str]:
    """The first CPU's lines."""
    first = _read(_cpu_info_file(root)).partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that limit this process's CPU time, from the inside outwards.

    /proc/self/cgroup has lines `0::/path` (v2) and `number:controllers:/path` (v1). In a container
    the path may be the host's: then only the mount's own folder exists.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines() or ["0::/", "0:cpu:/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        for top in (mount / controllers, mount / "cpu") if controllers else (mount,):
            inner = top / path.strip("/")
            yield from (f for f in (inner, *inner.parents) if f == top or top in f.parents)


def _quota_of(group: Path) -> float | None:
    """The quota of one group: `cpu.max` holds "QUOTA PERIOD" or "max PERIOD", v1 has two files."""
    words = _read(group / "cpu.max").split() or [
        _read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
    ]
    try:
        quota, period = map(int, words)
    except ValueError:  # no limit, or no such file
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
