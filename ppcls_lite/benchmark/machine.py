"""What a latency was measured on: processor, cores, clock policy, load, and what is wrong with it.

Everything is read from Linux's own files; what a system does not tell is left out. Read next:
cli.py.
"""

from __future__ import annotations

import platform
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from ppcls_lite.system import machine as system

_PACKAGES = ("paddlepaddle", "paddlepaddle-gpu", "openvino", "onnxruntime", "numpy")
_ISA = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")
BUSY_LOAD = 0.3  # runnable processes per core at the start, above which a warning is given


@dataclass(frozen=True)
class Machine:
    """The machine, as far as it says."""

    cpu: str
    instructions: tuple[str, ...] = ()
    usable: tuple[int, ...] = ()
    cores: tuple[int, ...] = ()  # one logical processor of each usable physical core
    siblings: tuple[tuple[int, ...], ...] = ()  # logical processors that share a core, by groups
    governor: str | None = None
    hypervisor: bool = False
    quota: float | None = None  # processors that the container may use
    load: float | None = None  # runnable processes over the last minute, before the measurement
    system: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        shared = [group for group in self.siblings if len(group) > 1]
        pairs = ", ".join("+".join(map(str, group)) for group in shared)
        lines = [
            f"CPU: {self.cpu}{' (virtual machine)' if self.hypervisor else ''}; "
            f"{', '.join(self.instructions) or 'instruction sets unknown'}",
            f"cores: {len(self.cores)} usable, {len(self.usable)} logical; "
            + (f"hyper-threads that share a core: {pairs}" if pairs else "no hyper-threads seen"),
            f"clock: governor {self.governor or 'not visible'}; load "
            + ("unknown" if self.load is None else f"{self.load:.2f}")
            + (f"; container limit {self.quota:g} processors" if self.quota else ""),
            "versions: " + ", ".join(f"{name} {v}" for name, v in self.versions.items()),
        ]
        return "\n".join(lines)

    def warnings(self, threads: int) -> list[str]:
        """What makes figures of runs with `threads` threads unsteady or slow here."""
        found = []
        if self.load is not None and self.load > BUSY_LOAD * max(1, len(self.usable)):
            found.append(
                f"load {self.load:.2f} on {len(self.usable)} processors before the start: "
                "others compute here; trust the ratios, not the milliseconds"
            )
        if self.governor not in (None, "performance"):
            found.append(f"governor {self.governor}: the clock changes; 'performance' is steadier")
        if threads > len(self.cores):
            found.append(
                f"{threads} threads on {len(self.cores)} physical cores: threads share cores, "
                "which makes them slower, not faster"
            )
        if self.quota is not None and threads > self.quota:
            found.append(
                f"{threads} threads, but the container may use {self.quota:g} processors: it is "
                "stopped for the rest of every period of 100 ms"
            )
        return found


def describe(root: Path = Path("/"), usable: tuple[int, ...] | None = None) -> Machine:
    """Read the machine from the files below `root`; `usable` are this process's processors."""
    usable = tuple(system.usable_processors() if usable is None else usable)
    flags = system.cpu_flags(root)
    groups = sorted({_siblings(root, cpu) for cpu in usable})
    load = _read(root / "proc/loadavg").split()
    return Machine(
        cpu=system.cpu_model(root),
        instructions=tuple(name for name in _ISA if name in flags),
        usable=usable,
        cores=tuple(min(set(group) & set(usable)) for group in groups),
        siblings=tuple(groups),
        governor=_read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip()
        or None,
        hypervisor="hypervisor" in flags,
        quota=system.cpu_quota(root),
        load=float(load[0]) if load else None,
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        versions=system.installed_versions(_PACKAGES),
    )


def quietest_first(cores: tuple[int, ...], seconds: float = 0.3) -> tuple[int, ...]:
    """The cores ordered by how idle they are now, so that few threads get the quiet ones."""
    before = _busy()
    time.sleep(seconds)
    after = _busy()
    if not set(cores) <= before.keys() & after.keys():
        return cores
    return tuple(sorted(cores, key=lambda core: (after[core] - before[core]) // 5))


def _busy() -> dict[int, int]:
    """Ticks (1/100 s) that each logical processor has not been idle since the system's start."""
    found = {}
    for line in _read(Path("/proc/stat")).splitlines():
        if match := re.match(r"cpu(\d+)\s+(.*)", line):
            user, nice, system, _, _, *others = map(int, match[2].split())
            found[int(match[1])] = user + nice + system + sum(others[:3])
    return found


def _siblings(root: Path, cpu: int) -> tuple[int, ...]:
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    found: list[int] = []
    for part in _read(path).strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    return tuple(sorted(found)) or (cpu,)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
