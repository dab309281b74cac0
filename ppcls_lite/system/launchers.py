"""Is this process one of several? What paddle.distributed.launch, torchrun or srun say about it.

Paddle reads the variables of its own launcher only. Complete ones of torchrun or srun are turned
into these; variables that are left over in a shell, and say only half of it, are a mistake that is
named: a training alone, beside others in the same folder, would be worse.
Read next: cores.py, ../engine/distributed.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, MutableMapping

from ppcls_lite.errors import UserError

COUNT, RANK = "PADDLE_TRAINERS_NUM", "PADDLE_TRAINER_ID"
PADDLE = (COUNT, RANK, "PADDLE_CURRENT_ENDPOINT", "PADDLE_TRAINER_ENDPOINTS")
TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SRUN = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NODELIST")
PORTS = 20_000, 20_000  # srun names none: the first that is taken, and how many there are
FIRST_HOST = re.compile(r"([^,\[]+)(?:\[(\d+))?")  # of `node-1,node-2` and of `node-[01-04,7]`


def processes(environment: MutableMapping[str, str] = os.environ) -> int:
    """How many processes this run has; 1 if no launcher started it.

    The variables of torchrun and srun are completed by those of `paddle.distributed.launch`.
    Raises UserError for variables that are incomplete or no numbers.
    """
    for names in (PADDLE, TORCHRUN, SRUN):
        if environment.get(names[0]):
            break
    else:
        return 1
    size = _number(environment, names[0])
    if size == 1:
        return 1
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UserError(
            f"{names[0]}={size} is in the environment, but not {', '.join(missing)}: it says that "
            f"this is one of {size} processes, but not which. Unset {names[0]}, or start the run "
            "by a launcher: python -m paddle.distributed.launch, torchrun or srun"
        )
    rank = _number(environment, names[1])
    if rank >= size:
        raise UserError(f"{names[1]}={rank}: expected less than {names[0]}={size}")
    if names is TORCHRUN:
        port = _number(environment, "MASTER_PORT")
        if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            port += 1  # torchrun itself listens there
        local = _number(environment, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environment else 1
        master = f"{environment['MASTER_ADDR']}:{port}"
        environment.update(_as_paddle(size, rank, environment["LOCAL_RANK"], local, master))
    elif names is SRUN:
        tasks = re.match(r"\d+", environment.get("SLURM_STEP_TASKS_PER_NODE", "1"))
        local = int(tasks.group()) if tasks else 1
        master = f"{_first_host(environment['SLURM_STEP_NODELIST'])}:{_srun_port(environment)}"
        environment.update(_as_paddle(size, rank, environment["SLURM_LOCALID"], local, master))
    return size


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "")
    if not text.isdecimal():
        raise UserError(f"{name}={text}: expected a number; unset it if no launcher set it")
    return int(text)


def _as_paddle(size: int, rank: int, local_rank: str, local: int, master: str) -> dict[str, str]:
    """The variables of `paddle.distributed.launch`; of the endpoints it uses none but the first."""
    host = master.rpartition(":")[0]
    ends = [master, *(f"{host}:{i}" for i in range(1, size))]
    return {
        COUNT: str(size),
        RANK: str(rank),
        "PADDLE_MASTER": master,
        "PADDLE_LOCAL_SIZE": str(local),
        "PADDLE_LOCAL_RANK": local_rank,
        "PADDLE_RANK_IN_NODE": local_rank,
        "PADDLE_CURRENT_ENDPOINT": ends[rank],
        "PADDLE_TRAINER_ENDPOINTS": ",".join(ends),
        "FLAGS_selected_gpus": local_rank,
    }


def _first_host(nodes: str) -> str:
    match = FIRST_HOST.match(nodes)
    return f"{match.group(1)}{match.group(2) or ''}" if match else nodes


def _srun_port(environment: Mapping[str, str]) -> int:
    """The same for all tasks of a step, another for other steps: from their numbers."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID")
    job, step = (int(re.sub(r"\D", "", environment.get(name, "")) or 0) for name in names)
    first, count = PORTS
    return first + (job * 7 + step) % count
