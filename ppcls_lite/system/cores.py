"""The processor cores and threads of a training process on a machine without a GPU.

The toolkit's own kernels use all cores that they are given; Paddle's hardly gain from a second
thread, and MKL's threads of several processes fight for the same cores. So a single process runs
the former on all its cores and the latter on one; of several processes each gets a share of the
cores, which its data workers inherit, and computes with one thread. This must happen before Paddle
is imported, which reads the variables once.
Read next: machine.py, ppcls_lite/engine/distributed.py, ppcls_lite/kernels/native.py.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence

from ppcls_lite.system.launchers import processes
from ppcls_lite.system.machine import usable_cores, usable_processors

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
KERNEL_THREADS = "PPCLS_LITE_THREADS"  # of the toolkit's own kernels
# Milliseconds for which idle threads keep their core busy (default 200): data workers need it.
SPIN = ("KMP_BLOCKTIME", "1")


def claim(environment: MutableMapping[str, str] = os.environ) -> list[int]:
    """Keep to this process's share of the cores; returns it, empty where nothing is to be done.

    Threads that the environment sets stay as they are; of OpenMP's list for nested levels (`4,2`),
    which Paddle would take for 1, the first number counts. A share is taken only in a process that
    `paddle.distributed.launch` started for a CPU.
    """
    ranks = processes(environment)
    if ranks > 1 and environment.get("PADDLE_DISTRI_BACKEND") != "gloo":  # on GPUs
        return []
    environment.setdefault(*SPIN)
    outermost, comma, _ = environment.get(THREAD_VARIABLES[0], "").partition(",")
    if comma:
        environment[THREAD_VARIABLES[0]] = outermost
    if ranks < 2:
        if not environment.get(THREAD_VARIABLES[0]):  # Paddle will set it to 1
            environment.setdefault(KERNEL_THREADS, str(usable_cores()))
        return []
    mine: list[int] = []
    threads = 1
    if hasattr(os, "sched_setaffinity"):  # only Linux lets a process choose
        neighbours = int(environment.get("PADDLE_LOCAL_SIZE") or 1)
        place = int(environment.get("PADDLE_LOCAL_RANK") or 0)
        mine = share(usable_processors(), neighbours, place)
        threads = len(share(range(usable_cores()), neighbours, place)) or 1  # a quota counts
    if not environment.get(THREAD_VARIABLES[0]):
        environment.setdefault(KERNEL_THREADS, str(threads))
    for name in THREAD_VARIABLES:
        environment.setdefault(name, "1")
    if mine:
        os.sched_setaffinity(0, mine)
    return mine


def share(cores: Sequence[int], neighbours: int, place: int) -> list[int]:
    """The cores of process `place` of `neighbours`; empty if there is none for each of them."""
    if neighbours < 2 or len(cores) < neighbours:
        return []
    first, last = (len(cores) * i // neighbours for i in (place, place + 1))
    return list(cores[first:last])
