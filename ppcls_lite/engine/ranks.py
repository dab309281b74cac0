"""`Global.cpu_processes: N`: one command that trains in N processes on this machine's CPU.

The command starts itself N times, each time with the variables that `paddle.distributed.launch`
would set for a rank, hands signals on, and ends with the status of the ranks. The recipe's batch
size stays the total: every rank takes its part (`batch_of`). Paddle is not imported here.
Read next: cores.py, distributed.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from types import FrameType
from typing import Any, Literal

from ppcls_lite.engine.signals import WATCHED
from ppcls_lite.errors import TRY_AGAIN, ConfigError
from ppcls_lite.system import launchers
from ppcls_lite.system.processes import free_ports, tied

SMALLEST_PART = 32  # images a process; below, `auto` leaves batch normalisation alone
GRACE_SECONDS = 15  # for the other ranks to end after one that failed


def resolve(wanted: int | Literal["auto"], batch_size: int, cores: int) -> int:
    """The number of processes: `wanted`, or as many as pay.

    `auto` is the largest number that the cores allow, that divides the batch, and that leaves
    each process 32 images. Raises ConfigError if the batch cannot be divided by `wanted`.
    """
    if wanted == "auto":
        fits = (n for n in range(cores, 1, -1) if batch_size % n == 0)
        return next((n for n in fits if batch_size // n >= SMALLEST_PART), 1)
    batch_of(wanted, batch_size)
    return wanted


def batch_of(processes: int, batch_size: int) -> int:
    """One process's part of a batch."""
    if batch_size % processes:
        raise ConfigError(
            f"Global.cpu_processes: {processes} processes cannot share a batch of {batch_size} "
            "images evenly; choose a number that divides DataLoader.Train.sampler.batch_size"
        )
    return batch_size // processes


def size_key(arguments: Iterable[Any]) -> str:
    """What a sampler with these constructor `arguments` calls its batch size."""
    names = {argument.name for argument in arguments}
    return "batch_size" if "batch_size" in names else "first_bs"


def run(processes: int, command: Sequence[str]) -> int:
    """Run `command` as `processes` ranks; returns their exit status.

    It is that of rank 0, unless another one fails first; 75 (try again) if that one was killed.
    SIGINT, SIGTERM and SIGUSR1 go to all ranks, which save and end together (130, 143, 75).
    """
    ports = free_ports(processes + 1)
    ends = [f"127.0.0.1:{port}" for port in ports[1:]]
    team: list[subprocess.Popen] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        for process in team:
            if process.poll() is None:
                process.send_signal(number)

    previous = {watched: signal.signal(watched, hand_on) for watched in WATCHED}
    try:
        for rank in range(processes):
            environment = {**os.environ, **place(rank, ports[0], ends)}
            team.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    start_new_session=True,  # a terminal's Ctrl-C comes once, from us
                    preexec_fn=tied(),  # should this process be killed, its ranks stop and save
                )
            )
        return _status(team)
    finally:
        for process in team:
            if process.poll() is None:
                process.kill()
            process.wait()
        for watched, handler in previous.items():
            signal.signal(watched, handler)


def _status(team: Sequence[subprocess.Popen]) -> int:
    """Wait for all; after a failure the others get some seconds to end by themselves."""
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in team):
        time.sleep(0.05)
        bad = [process.returncode for process in team if process.returncode]
        if bad and not failed:
            failed, deadline = bad[0], time.monotonic() + GRACE_SECONDS
        if time.monotonic() > deadline:
            break
    code = failed or next((p.returncode for p in team if p.returncode), 0)
    if code == -signal.SIGKILL:  # for lack of memory, or by a scheduler: not the run's own fault
        return TRY_AGAIN
    return 128 - code if code < 0 else code  # ended by another signal: as a shell says it


def place(rank: int, port: int, ends: Sequence[str]) -> dict[str, str]:
    """The environment that `paddle.distributed.launch` gives to a rank on a CPU."""
    count = str(len(ends))
    return {
        "PADDLE_MASTER": f"127.0.0.1:{port}",
        "PADDLE_DISTRI_BACKEND": "gloo",
        launchers.COUNT: count,
        "PADDLE_LOCAL_SIZE": count,
        launchers.RANK: str(rank),
        "PADDLE_LOCAL_RANK": str(rank),
        "PADDLE_CURRENT_ENDPOINT": ends[rank],
        "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
    }
