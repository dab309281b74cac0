"""The processor cores of one of several training processes on a machine without a GPU.

Paddle's own CPU kernels hardly gain from a second thread, and MKL's threads of several processes
fight for the same cores. So each process gets a share of the cores, and computes with one thread;
its data workers inherit the share. This must happen before Paddle is imported, which reads the
variables once. Read next: distributed.py.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping, Sequence

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def claim(environment: MutableMapping[str, str] = os.environ) -> list[int]:
    """Keep to this process's share of the cores; returns it, empty where nothing is to be done.

    Acts only in a process that `paddle.distributed.launch` started for a CPU. Threads that the
    environment sets stay as they are.
    """
    ranks = int(environment.get("PADDLE_TRAINERS_NUM") or 1)
    if ranks < 2 or environment.get("PADDLE_DISTRI_BACKEND") != "gloo":
        return []
    for name in THREAD_VARIABLES:
        environment.setdefault(name, "1")
    if not hasattr(os, "sched_setaffinity"):  # only Linux lets a process choose
        return []
    neighbours = int(environment.get("PADDLE_LOCAL_SIZE") or 1)
    place = int(environment.get("PADDLE_LOCAL_RANK") or 0)
    mine = share(sorted(os.sched_getaffinity(0)), neighbours, place)
    if mine:
        os.sched_setaffinity(0, mine)
    return mine


def share(cores: Sequence[int], neighbours: int, place: int) -> list[int]:
    """The cores of process `place` of `neighbours`; empty if there is none for each of them."""
    if neighbours < 2 or len(cores) < neighbours:
        return []
    first, last = (len(cores) * i // neighbours for i in (place, place + 1))
    return list(cores[first:last])
