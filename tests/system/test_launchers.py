"""What a launcher's variables say: one of several, alone, or half of it."""

from __future__ import annotations

import pytest

from ppcls_lite.errors import UserError
from ppcls_lite.system.launchers import processes

TORCHRUN = {
    **{"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
}
SRUN = {
    **{"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"},
    **{"SLURM_STEP_NODELIST": "gpu-[07-08,11]", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"},
    **{"SLURM_JOB_ID": "1000", "SLURM_STEP_ID": "3"},
}


def test_without_a_launcher_a_process_is_alone() -> None:
    for environment in ({}, {"PADDLE_TRAINERS_NUM": ""}, {"PADDLE_TRAINERS_NUM": "1"}):
        assert processes(environment) == 1
    assert processes({"WORLD_SIZE": "1", "RANK": "0"}) == 1
    assert processes({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) == 1  # a batch script's own


@pytest.mark.parametrize(
    ("given", "master", "local"),
    [
        (TORCHRUN, "10.0.0.1:29500", "1"),
        (TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}, "10.0.0.1:29501", "1"),
        (SRUN, "gpu-07:27003", "0"),
        (SRUN | {"SLURM_STEP_NODELIST": "a1,b[2-3]"}, "a1:27003", "0"),
    ],
)
def test_other_launchers_are_told_to_paddle(given: dict[str, str], master: str, local: str) -> None:
    environment = dict(given)
    assert processes(environment) == 4 == processes(environment)
    assert environment["PADDLE_TRAINERS_NUM"] == "4"
    assert environment["PADDLE_TRAINER_ID"] == given.get("RANK", given.get("SLURM_PROCID"))
    assert environment["PADDLE_MASTER"] == master
    assert environment["PADDLE_LOCAL_SIZE"] == "2"
    assert environment["PADDLE_LOCAL_RANK"] == local
    ends = environment["PADDLE_TRAINER_ENDPOINTS"].split(",")
    assert ends[0] == master and len(set(ends)) == 4
    assert environment["PADDLE_CURRENT_ENDPOINT"] == ends[int(environment["PADDLE_TRAINER_ID"])]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PADDLE_TRAINERS_NUM": "2"}, "PADDLE_TRAINERS_NUM=2 .* but not PADDLE_TRAINER_ID"),
        ({"PADDLE_TRAINERS_NUM": "abc"}, "PADDLE_TRAINERS_NUM=abc: expected a number; unset it"),
        ({"PADDLE_TRAINERS_NUM": "-2"}, "PADDLE_TRAINERS_NUM=-2: expected a number"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2 .* but not RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"),
        (TORCHRUN | {"RANK": "4"}, "RANK=4: expected less than WORLD_SIZE=4"),
        (TORCHRUN | {"MASTER_PORT": "x"}, "MASTER_PORT=x: expected a number"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "but not SLURM_PROCID, SLURM_LOCALID, SLURM_STEP_NODELIST"),
    ],
)
def test_half_of_it_is_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        processes(environment)
