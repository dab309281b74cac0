"""Each of several processes on a CPU keeps to its own cores and computes with one thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_lite.system import cores

ROOT = Path(__file__).resolve().parents[2]
PLACE = {  # what the launcher tells beside the counts
    "PADDLE_TRAINER_ID": "0",
    "PADDLE_CURRENT_ENDPOINT": "127.0.0.1:1",
    "PADDLE_TRAINER_ENDPOINTS": "127.0.0.1:1,127.0.0.1:2",
}


def test_shares_cover_all_cores_once() -> None:
    for count in range(2, 9):
        for neighbours in range(2, count + 1):
            shares = [cores.share(range(count), neighbours, i) for i in range(neighbours)]
            assert [core for part in shares for core in part] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_too_few_cores_are_left_alone() -> None:
    assert cores.share([4], 2, 0) == []
    assert cores.share([4, 5], 1, 0) == []


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux pins processes")
def test_a_rank_claims_its_share_before_paddle_starts() -> None:
    code = (
        "import os, sys; from ppcls_lite.system import cores; cores.claim()\n"
        "assert 'paddle' not in sys.modules\n"
        "print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
    )
    here = sorted(os.sched_getaffinity(0))
    if len(here) < 2:
        pytest.skip("one core cannot be shared")
    environment = {k: v for k, v in os.environ.items() if k not in cores.THREAD_VARIABLES}
    environment |= {"PADDLE_TRAINERS_NUM": "2", "PADDLE_DISTRI_BACKEND": "gloo"}
    environment |= {"PADDLE_LOCAL_SIZE": "2"} | PLACE
    seen = [
        subprocess.run(
            [sys.executable, "-c", code],
            env=environment | {"PADDLE_LOCAL_RANK": str(rank)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for rank in range(2)
    ]
    half = len(here) // 2
    assert seen == [f"{here[:half]} 1", f"{here[half:]} 1"]


@pytest.mark.parametrize(("given", "expected"), [("4,2", "4"), ("3", "3"), ("2,", "2")])
def test_of_openmps_list_the_outermost_number_counts(given: str, expected: str) -> None:
    environment = {"OMP_NUM_THREADS": given}
    assert cores.claim(environment) == []
    assert environment["OMP_NUM_THREADS"] == expected
    assert cores.KERNEL_THREADS not in environment  # the kernels read the same number


def test_processes_on_gpus_are_left_alone() -> None:
    before = os.sched_getaffinity(0)
    given = {"PADDLE_TRAINERS_NUM": "2", "PADDLE_LOCAL_SIZE": "2"} | PLACE
    environment = dict(given)
    assert cores.claim(environment) == []
    assert environment == given and os.sched_getaffinity(0) == before


@pytest.mark.parametrize("given", [{}, {"PADDLE_TRAINERS_NUM": "1"}])
def test_a_single_process_runs_the_kernels_on_all_cores(given: dict[str, str]) -> None:
    before = os.sched_getaffinity(0)
    environment = dict(given)
    assert cores.claim(environment) == []
    assert environment == given | {"PPCLS_LITE_THREADS": str(len(before)), "KMP_BLOCKTIME": "1"}
    assert os.sched_getaffinity(0) == before


def test_threads_that_the_user_sets_stay() -> None:
    environment = {"OMP_NUM_THREADS": "3"}
    cores.claim(environment)
    assert environment == {"OMP_NUM_THREADS": "3", "KMP_BLOCKTIME": "1"}
