"""Each thread of the kernels has a core of its own; what the process starts has all of them."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import paddle
import pytest

PROGRAM = """
import ctypes, os, subprocess, sys
for path in sys.argv[2:]:  # OpenMP first, as Paddle has loaded it in a training
    kernels = ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
kernels.use_threads(int(sys.argv[1]))
bound = kernels.bind_threads()
masks = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
alone = sorted(core for mask in masks if len(mask) == 1 for core in mask)
child = [sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"]
inherited = subprocess.run(child, capture_output=True, text=True).stdout.strip()
print(bound, alone, len(os.sched_getaffinity(0)), inherited)
"""


def run(path: Path, threads: int, **variables: str) -> str:
    names = ("KMP_AFFINITY", "OMP_PROC_BIND")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    runtime = Path(paddle.__file__).parent / "libs" / "libiomp5.so"
    needed = [str(runtime)] if runtime.exists() else []
    command = [sys.executable, "-c", PROGRAM, str(threads), *needed, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean | variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="only Linux binds threads")
def test_every_other_thread_gets_a_core_and_children_get_all(built_kernels: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two cores")
    count = len(cores)
    assert run(built_kernels, count) == f"{count - 1} {cores[1:]} {count} {count}"
    for free in (run(built_kernels, count + 1), run(built_kernels, count, OMP_PROC_BIND="false")):
        assert free == f"0 [] {count} {count}"


def test_small_kernels_get_a_thread_that_is_awake(
    native: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that sleeps is woken for larger ones only, and sleeps again after a while."""
    worth = ctypes.c_int64.in_dll(native, "kernels_worth")
    monkeypatch.setattr(worth, "value", 16_000)
    native.team.argtypes = [ctypes.c_int64]
    native.use_threads(4)

    def after(*works: int) -> int:
        """The threads of the last of some kernels that follow a pause."""
        time.sleep(0.1)
        return [native.team(work) for work in works][-1]

    try:
        assert [after(work) for work in (1_000, 31_000, 32_000, 48_000, 10**6)] == [1, 1, 2, 3, 4]
        answers = [[after(48_000, work) for work in (1_999, 2_000, 31_000)] for _ in range(10)]
        assert [1, 2, 3] in answers  # a busy machine may be slower than a thread waits
    finally:
        native.use_threads(1)
    assert native.team(10**6) == 1
