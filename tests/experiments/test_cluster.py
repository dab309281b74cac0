"""Two machines, as network namespaces: killed and back, frozen, cut off; and the model on paper.

The long form, with every case of docs/distributed.md, is `python -m experiments.cluster.failures`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.cluster import failures, network, scaling, slurm
from experiments.cluster.network import Network
from ppcls_lite.errors import UserError
from ppcls_lite.system.processes import environment

machines = pytest.mark.skipif(network.unmet() is not None, reason=f"{network.unmet()}")

PROGRAM = """
import os, sys
import paddle
paddle.set_device("cpu")
from ppcls_lite.engine.distributed import connect
from ppcls_lite.errors import UserError
folder, stall = sys.argv[1], float(sys.argv[2])
try:
    world, meetings = connect(stall), 0
    while not os.path.exists(f"{folder}/over") or world.rank:
        if not float(world.total(paddle.ones([1]))[0]) == 2:
            break
        open(f"{folder}/met-{world.rank}", "w").write(str(meetings := meetings + 1))
    else:
        world.total(paddle.zeros([1]))
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""


class Pair:
    """Two ranks on two machines that exchange a number again and again."""

    def __init__(self, folder: Path, stall: float, net: Network) -> None:
        self.folder, self.machines, self.team = folder, net.machines, []
        for rank, machine in enumerate(net.machines):
            place = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0"}
            place |= {"MASTER_ADDR": net.machines[0].address, "MASTER_PORT": "6180"}
            command = [sys.executable, "-c", PROGRAM, str(folder), str(stall)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            variables = environment(**place, OMP_NUM_THREADS="1")
            self.team.append(machine.start(command, env=variables, **pipes))
        self.exchange()

    def exchange(self) -> None:
        """Wait until they have met once more."""
        before, end = self.meetings, time.monotonic() + 100
        while self.meetings < before + 2:
            assert time.monotonic() < end
            time.sleep(0.02)

    @property
    def meetings(self) -> int:
        met = self.folder / "met-0"
        return int(met.read_text() or 0) if met.exists() else 0

    def end(self) -> None:
        (self.folder / "over").touch()
        assert [process.wait(timeout=100) for process in self.team] == [0, 0]


@pytest.fixture
def net() -> Iterator[Network]:
    with Network(2) as found:
        yield found


@machines
def test_a_machine_that_is_killed_and_comes_back_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    recipe = failures.prepare(tmp_path, epochs=2)
    found = failures.run("kill", recipe)
    assert "`rank 1 on node-2 has ended without a message`" in found.seen
    assert found.restarts and found.differences == []


@machines
@pytest.mark.parametrize(("node", "name"), [(0, "rank 0 on 10.77.0.1"), (1, "rank 1 on node-2")])
def test_a_machine_that_hangs_is_named_within_the_time_stated(
    net: Network, tmp_path: Path, node: int, name: str
) -> None:
    pair = Pair(tmp_path, 3, net)
    net.machines[node].signal(signal.SIGSTOP)
    frozen, other = time.monotonic(), pair.team[1 - node]
    printed, _ = other.communicate(timeout=100)
    assert time.monotonic() - frozen < 3 + 30 + 10  # gloo's own, if it fell into an exchange
    assert other.returncode == 75
    assert f"{name} has given no sign of life for" in printed


@machines
def test_a_cable_that_is_out_for_a_while_costs_nothing(net: Network, tmp_path: Path) -> None:
    pair = Pair(tmp_path, 60, net)
    net.machines[1].cable(plugged=False)
    time.sleep(1)
    before = pair.meetings
    time.sleep(3)
    assert pair.meetings == before
    net.machines[1].cable(plugged=True)
    pair.exchange()
    pair.end()


@pytest.mark.skipif(slurm.unmet() is not None, reason=f"{slurm.unmet()}")
def test_slurm_accepts_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "")  # so that it is as before afterwards
    asked = ("sbatch", "--test-only")
    with slurm.cluster(tmp_path / "slurm"):
        assert " on nodes node-[1-2] " in slurm.said(*asked, slurm.SCRIPT, "recipe.yaml")
        with pytest.raises(UserError, match="not available"):
            slurm.said(*asked, "--nodes=3", slurm.SCRIPT, "recipe.yaml")


def test_the_model_of_a_ring() -> None:
    rank = scaling.Rank(images=32, seconds=0.5, bytes=8_000_000)
    assert rank.exchange(2, 1e9, message=0) == pytest.approx(0.064)  # each sends all bytes once
    assert rank.exchange(1000, 1e9, message=0) == pytest.approx(0.128, rel=0.01)
    assert rank.exchange(5, 1e9, message=0.01) == pytest.approx(0.1024 + 0.08)
    assert rank.rate(2, 1e12) == pytest.approx(128, rel=0.01)
    stop = rank.stop(1e9)
    assert rank.efficiency(stop - 1, 1e9) >= 0.5 > rank.efficiency(stop, 1e9)
