"""Two machines train; one is killed, frozen, cut off or slowed down. What is seen, and is it equal?

    python -m experiments.cluster.failures                # every case, the table of docs
    python -m experiments.cluster.failures kill partition

The machines are network namespaces (network.py); each runs Paddle's launcher, with one rank over
gloo, under deploy/cluster/keep_running.sh. The small training of experiments/chaos.py has to end
as it does in two processes of one machine that nothing disturbs: state, weights and records, bit by
bit. Prints one row for each case, and fails where it is not as `CASES` says. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from experiments import chaos
from experiments.cluster import network
from experiments.cluster.network import Machine, Network
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.system.installed import missing
from ppcls_lite.system.processes import ROOT, environment

PORT = 6170
LIMIT = 900.0  # seconds for a run: far more than it takes
UPDATES = 3  # before the disturbance
LINKED = 120.0  # the default of Global.stall_timeout
SHORT = 8.0  # the same, where waiting is what is looked at


class Team:
    """The launchers of two machines that train one network, and what they say."""

    def __init__(self, machines: list[Machine], recipe: Path, folder: Path, case: Case) -> None:
        self.machines, self._recipe, self._folder, self._case = machines, recipe, folder, case
        self.run_dir = folder / "output" / chaos.ARCH
        self._launchers: dict[int, subprocess.Popen[str]] = {}
        folder.mkdir(parents=True)

    def start(self, node: int) -> None:
        """Start the launcher of a machine, under what starts it again."""
        machine = self.machines[node]
        command = [sys.executable, "-m", "paddle.distributed.launch", "--nnodes", "2"]
        if self._case.elastic:
            command += ["--master", f"etcd://{network.SWITCH}:{PORT}", "--job_id", "failures"]
            command += ["--elastic_level", "1", "--max_restart", "1000"]
        else:
            keep = ROOT / "deploy" / "cluster" / "keep_running.sh"
            command = ["bash", str(keep), *command, "--rank", str(node)]
            command += ["--master", f"{self.machines[0].address}:{PORT}"]
        command += ["--host", machine.address, "--nproc_per_node", "1"]
        command += ["--log_dir", str(self._folder / f"log-{node}")]
        command += [str(ROOT / "tools" / "train.py"), "-c", str(self._recipe)]
        command += ["-o", f"Global.output_dir={self.run_dir.parent}"]
        command += ["-o", f"Global.stall_timeout={self._case.stall:g}"]
        variables = environment(GLOG_minloglevel="2", PYTHONWARNINGS="ignore", PAUSE="1")
        variables["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"  # etcd3 needs it
        with (self._folder / f"node-{node}.txt").open("a") as output:
            self._launchers[node] = machine.start(
                command, env=variables, cwd=ROOT, stdout=output, stderr=output
            )

    def said(self, node: int) -> str:
        """All that a machine has printed, its rank included."""
        files = [self._folder / f"node-{node}.txt", *self._folder.glob(f"log-{node}/workerlog.*")]
        return "".join(path.read_text(errors="replace") for path in files if path.exists())

    def wait_for_updates(self, count: int) -> None:
        """Wait until the run has recorded so many more updates."""
        records = self.run_dir / "metrics.jsonl"
        wanted = chaos.lines_of(records) + count
        self._until(lambda: chaos.lines_of(records) >= wanted, f"{count} updates")

    def wait_for(self, words: str, node: int) -> float:
        """Seconds until a machine says these words."""
        began = time.monotonic()
        self._until(lambda: words in self.said(node), words)
        return time.monotonic() - began

    def sentence(self, words: str, node: int) -> str:
        """From these words on, the half of a sentence that a machine has said."""
        return words + re.split(r"[,:.;] ", self.said(node).partition(words)[2])[0]

    def wait_for_the_end(self) -> None:
        """Wait for all launchers; raises UserError unless the run is complete."""
        self._until(lambda: all(p.poll() is not None for p in self._launchers.values()), "the end")
        status = [process.returncode for process in self._launchers.values()]
        if any(status):
            raise UserError(f"the launchers ended with {status}: see {self._folder}")

    def _until(self, ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + LIMIT
        while not ready():
            if time.monotonic() > end:
                raise UserError(f"no sign of {what} within {LIMIT:g} s: see {self._folder}")
            time.sleep(0.05)


def kill(team: Team, node: int) -> str:
    """Everything on a machine is killed; it comes back after three seconds."""
    team.machines[node].kill()
    words = _name(team, node)  # then: has ended without a message; or that the connection broke
    seconds = team.wait_for(words, 1 - node)
    time.sleep(3)
    team.start(node)
    return f"`{team.sentence(words, 1 - node)}` after {seconds:.0f} s"


def kill_any(team: Team) -> str:
    """As `kill`, where a machine's rank is not known beforehand."""
    team.machines[1].kill()
    seconds = team.wait_for(words := "Look into", 0)  # the advice after either message
    time.sleep(3)
    team.start(1)
    found = re.findall(rf"error: (.*?)[:.;] .*{words}", team.said(0))
    return f"`{found[0]}` after {seconds:.0f} s"


def hang(team: Team, node: int) -> str:
    """Everything on a machine is frozen until the other one has noticed."""
    team.machines[node].signal(signal.SIGSTOP)
    seconds = team.wait_for(words := f"{_name(team, node)} has given no sign of life", 1 - node)
    team.machines[node].signal(signal.SIGCONT)
    return f"`{team.sentence(words, 1 - node)}` after {seconds:.0f} s"


def partition(team: Team, seconds: float) -> str:
    """The cable of the second machine is pulled for so long."""
    team.machines[1].cable(plugged=False)
    time.sleep(seconds)
    team.machines[1].cable(plugged=True)
    return "nothing: the ranks wait"


def cut_off(team: Team) -> str:
    """The cable stays out until both have noticed."""
    team.machines[1].cable(plugged=False)
    seconds = team.wait_for(words := f"{_name(team, 1)} has given no sign of life", 0)
    team.wait_for("again in", 1)
    team.machines[1].cable(plugged=True)
    return f"`{team.sentence(words, 0)}` after {seconds:.0f} s"


def narrow(team: Team) -> str:
    """The line of the second machine lets a hundredth of the bytes pass."""
    team.machines[1].narrow("10mbit")
    return "nothing: the ranks wait"


def slow(team: Team) -> str:
    """The second machine computes a fifth of the time."""
    with _throttled(team.machines[1], 0.2):
        team.wait_for_updates(4)
    return "nothing: the ranks wait"


@contextlib.contextmanager
def _throttled(machine: Machine, share: float) -> Iterator[None]:
    """Freeze a machine most of the time, as cpulimit(1) does."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.2 * share):
            machine.signal(signal.SIGSTOP)
            time.sleep(0.2 * (1 - share))
            machine.signal(signal.SIGCONT)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _name(team: Team, node: int) -> str:
    host = team.machines[node].name if node else team.machines[0].address
    return f"rank {node} on {host}"


@dataclass(frozen=True)
class Case:
    """A disturbance, in words and as a call; how long silence is borne; what becomes of the run."""

    words: str
    disturb: Callable[[Team], str]
    stall: float
    restarts: bool  # whether the launchers have to start again
    elastic: bool = False  # Paddle's elastic mode on etcd, instead of the script


CASES = {
    "none": Case("nothing", lambda team: "nothing", LINKED, False),
    "kill": Case("everything on node 2 is killed", lambda t: kill(t, 1), LINKED, True),
    "kill-first": Case(
        "everything on node 1 is killed (rank 0, launchers' meeting point, writer)",
        lambda t: kill(t, 0),
        LINKED,
        True,
    ),
    "kill-elastic": Case(
        "the same in elastic mode: all on node 2 is killed", kill_any, LINKED, True, elastic=True
    ),
    "hang": Case("node 2 hangs (SIGSTOP)", lambda t: hang(t, 1), SHORT, True),
    "hang-first": Case("node 1 hangs (SIGSTOP)", lambda t: hang(t, 0), SHORT, True),
    "partition": Case(
        "the link is down for 10 s", functools.partial(partition, seconds=10), LINKED, False
    ),
    "cut-off": Case("the link is down until it is noticed", cut_off, SHORT, True),
    "narrow": Case("a line of 10 Mbit/s", narrow, LINKED, False),
    "slow": Case("node 2 computes a fifth of the time", slow, LINKED, False),
}


@dataclass(frozen=True)
class Outcome:
    """How a case went: what was seen, how often each launcher was started again, what differs."""

    seen: str
    restarts: int
    differences: list[str]


def prepare(folder: Path, epochs: int) -> Path:
    """Write data and recipe, and train once, undisturbed, in two processes; the recipe's path."""
    chaos.draw_data(folder / "data", 2 * chaos.BATCH * chaos.STEPS)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(chaos.recipe(folder / "data", epochs)), encoding="utf-8")
    status = chaos.Run(path, folder / "whole" / chaos.ARCH, processes=2).start().wait()
    if status != 0:
        raise UserError(f"the undisturbed run failed with {status}")
    return path


def run(name: str, recipe: Path) -> Outcome:
    """Run one case with the data and recipe that `prepare` has made."""
    case, folder = CASES[name], recipe.parent
    with Network(2) as net:
        team = Team(net.machines, recipe, folder / name, case)
        if case.elastic:
            _start_etcd(net.switch, folder / name)
        for node in range(2):
            team.start(node)
        team.wait_for_updates(UPDATES)
        seen = case.disturb(team)
        team.wait_for_the_end()
        restarts = max(team.said(node).count("Run Pod") for node in range(2)) - 1
    return Outcome(seen, restarts, chaos.compare(folder / "whole" / chaos.ARCH, team.run_dir))


def _unmet(case: Case) -> str | None:
    """What a case lacks here."""
    if not case.elastic:
        return None
    return "etcd is not installed" if shutil.which("etcd") is None else missing("etcd3")


def _start_etcd(machine: Machine, folder: Path) -> None:
    ends = {"client": f"http://{network.SWITCH}:{PORT}", "peer": "http://127.0.0.1:2380"}
    command = ["etcd", "--data-dir", str(folder / "etcd"), "--listen-peer-urls", ends["peer"]]
    command += ["--listen-client-urls", ends["client"], "--advertise-client-urls", ends["client"]]
    with (folder / "etcd.txt").open("w") as output:
        machine.start(command, stdout=output, stderr=output)
    time.sleep(3)


def main(argv: list[str] | None = None) -> int:
    """Run the cases and print their table; 0 if each went as it should."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)} (all)")
    options.add_argument("--epochs", type=positive, default=6, help="of six updates (6)")
    options.add_argument("--keep", metavar="FOLDER", type=Path, help="leave runs and logs there")
    args = options.parse_args(argv)
    if unknown := [name for name in args.cases if name not in CASES]:
        options.error(f"{', '.join(unknown)}: expected some of {', '.join(CASES)}")
    if reason := network.unmet():
        raise UserError(f"two machines on this one: {reason}")
    failed = []
    with tempfile.TemporaryDirectory() as temporary:
        recipe = prepare(args.keep or Path(temporary), args.epochs)
        print("| what happens | what is said | the launchers | the result |\n|---|---|---|---|")
        for name in args.cases or CASES:
            if reason := _unmet(CASES[name]):
                print(f"| {CASES[name].words} | not run: {reason} | | |")
                continue
            found = run(name, recipe)
            again = "start again" if found.restarts else "go on"
            equal = f"differs: {found.differences}" if found.differences else "equal"
            print(f"| {CASES[name].words} | {found.seen} | {again} | {equal} |", flush=True)
            if found.differences or bool(found.restarts) != CASES[name].restarts:
                failed.append(name)
    print(f"not as documented: {', '.join(failed)}" if failed else "all as documented")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
