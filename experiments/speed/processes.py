"""How much faster several processes train on a CPU than one: `benchmark.py train --processes 1 2`.

Each contender is a number of processes that train the same network with the toolkit's own loop and
CPU kernels (Paddle's with `--cpu-kernels off`), on batches in memory, and average their gradients
over gloo in every step. One process runs as a user starts it, with kernels on all cores; several
keep to their own cores with one thread each, as `paddle.distributed.launch tools/train.py` makes
them. All are started first; then they take turns, so that other work on the machine meets both.
Where it is busy all the time, the ratio by
processor time says what is left of it: how fast they were if each process had a core to itself.
Read before: train.py, ppcls_lite/system/cores.py.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ppcls_lite.engine import ranks
from ppcls_lite.errors import UserError
from ppcls_lite.system import cores
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.processes import environment, free_ports
from ppcls_lite.system.timing import in_turns

ANSWER = "seconds:"  # before a worker's measurement, which a library's messages may surround


def compare(options: argparse.Namespace) -> int:
    """Measure and print; exit status 1 if the last ratio is below `--at-least`."""
    counts = list(dict.fromkeys(options.processes))
    if len(counts) < 2 or min(counts) < 1:
        raise UserError(f"--processes: expected two or more numbers, as in 1 2, found {counts}")
    print(
        f"{options.arch} on the CPU: {options.rounds} rounds of {options.steps} steps of "
        f"{options.batch_size} images of {options.image_size}x{options.image_size} per process; "
        f"{usable_cores()} cores, load {os.getloadavg()[0]:.1f} before the start"
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        teams = {n: stack.enter_context(_team(n, options, Path(folder, str(n)))) for n in counts}
        turns = {count: partial(_epoch, team) for count, team in teams.items()}
        costs = in_turns(turns, options.rounds)
    images = options.steps * options.batch_size
    for count, measured in costs.items():
        speeds = [count * images / wall for wall, _ in measured]
        cpu = 1000 * statistics.median(cpu for _, cpu in measured) / images
        print(
            f"{count} processes: {statistics.median(speeds):8.1f} images/s ({min(speeds):.1f} to "
            f"{max(speeds):.1f}), {cpu:.2f} ms of processor per image"
        )
    first, wall = counts[0], 0.0
    for count in counts[1:]:
        pairs = list(zip(costs[first], costs[count]))
        wall, cpu = (
            statistics.median(count / first * a[i] / b[i] for a, b in pairs) for i in (0, 1)
        )
        print(
            f"{count} / {first} processes: {wall:.2f}x by the clock, {cpu:.2f}x by processor time"
        )
    return int(wall < options.at_least)


@contextlib.contextmanager
def _team(count: int, options: argparse.Namespace, folder: Path) -> Iterator[list]:
    """`count` processes that are ready to train."""
    folder.mkdir()
    ports = free_ports(count + 1)
    endpoints = [f"127.0.0.1:{port}" for port in ports[1:]]
    shared = {k: v for k, v in os.environ.items() if not k.startswith("PADDLE_")}
    shared = environment(shared, GLOG_minloglevel="2", PYTHONWARNINGS="ignore")
    team: list[subprocess.Popen] = []
    command = [sys.executable, "-m", __name__, "--arch", options.arch, "--run-dir", str(folder)]
    for name in ("steps", "batch_size", "image_size", "rounds", "cpu_kernels"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    try:
        for rank in range(count):
            own = {} if count == 1 else ranks.place(rank, ports[0], endpoints)
            team.append(
                subprocess.Popen(
                    command,
                    env=shared | own,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
        _answers(team)
        yield team
    finally:
        for process in team:
            process.kill()
            process.wait()


def _epoch(team: list[subprocess.Popen]) -> tuple[float, float]:
    """Let a team train for one epoch: the largest seconds by the clock, and of the processor."""
    for process in team:
        process.stdin.write("go\n")
        process.stdin.flush()
    wall, cpu = zip(*_answers(team))
    return max(wall), max(cpu)


def _answers(team: list[subprocess.Popen]) -> list[tuple[float, float]]:
    answers = []
    for process in team:
        line = next((line for line in process.stdout if line.startswith(ANSWER)), None)
        if line is None:
            raise UserError("a process of the measurement has ended; its message is above")
        wall, cpu = line.removeprefix(ANSWER).split()
        answers.append((float(wall), float(cpu)))
    return answers


def _work(argv: list[str]) -> None:
    """The life of one process: an epoch for every line on its standard input."""
    options = _parser().parse_args(argv)
    cores.claim()  # before anything imports Paddle

    import paddle

    from experiments.speed.train import Batches, toolkit_loop
    from ppcls_lite.engine import log
    from ppcls_lite.engine.distributed import connect

    paddle.set_device("cpu")
    world = connect()
    batches = Batches(options.steps, options.batch_size, options.image_size)
    epoch = toolkit_loop(
        options.arch, batches, options.run_dir, options.rounds + 1, world, options.cpu_kernels
    )
    print(ANSWER, 0.0, 0.0, flush=True)
    for _ in sys.stdin:
        log.setup(Path(options.run_dir), world.rank)
        with contextlib.redirect_stdout(io.StringIO()):  # the lines of a run, only not shown
            epoch()
        print(ANSWER, batches.cost.wall, batches.cost.cpu, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmark.py train --processes (one of them)")
    parser.add_argument("--arch", required=True)
    parser.add_argument("--run-dir", required=True)
    for name in ("--steps", "--batch-size", "--image-size", "--rounds"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--cpu-kernels", required=True)
    return parser


if __name__ == "__main__":
    _work(sys.argv[1:])
