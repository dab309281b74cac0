"""How many images a second a cluster of CPU machines trains, on paper, and where that stops.

    python -m experiments.cluster.scaling             # measures a step here, prints the table
    python -m experiments.cluster.scaling --measure   # then two ranks on a slow line, as root

One update of N ranks takes a rank's step, and the exchange of its B bytes in a ring: each rank
sends 2 (N - 1) / N of B, in 2 (N - 1) messages (Patarasuk and Yuan 2009, "Bandwidth optimal
all-reduce algorithms for clusters of workstations", section 4). Nothing overlaps, as in
engine/distributed.py. A step is taken by processor time of one thread, so a rank is a core and a
busy machine does not matter. `--measure` holds the model against two network namespaces whose line
is so slow that the exchange is most of the update.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.cluster import network
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.system import cores
from ppcls_lite.system.processes import environment

if TYPE_CHECKING:
    from ppcls_lite.engine.distributed import World

ARCHS = ("PPLCNet_x0_5", "PPLCNet_x2_5")
RANKS = (8, 64, 512)
LINES = (10e9, 100e9)  # bits per second
MESSAGE = 50e-6  # seconds that a message takes beside its bytes; an assumption: TCP, one switch
SLOW = 100e6  # bits per second of the line of `--measure`
ANSWER = "measured:"  # before a rank's numbers, which a library's messages may surround
PORT = 6180
MANY = range(2, 100_000)


@dataclass(frozen=True)
class Rank:
    """What one rank does in an update."""

    images: int
    seconds: float  # of its step
    bytes: int  # of its message: gradients, running statistics, two flags

    def exchange(self, ranks: int, bits: float, message: float = MESSAGE) -> float:
        """Seconds of the exchange with `bits` per second."""
        sent = 2 * (ranks - 1) / ranks * self.bytes
        return 8 * sent / bits + 2 * (ranks - 1) * message

    def rate(self, ranks: int, bits: float) -> float:
        """Images per second of all ranks."""
        return ranks * self.images / (self.seconds + self.exchange(ranks, bits))

    def efficiency(self, ranks: int, bits: float) -> float:
        """The share of `ranks` times one rank's rate."""
        return self.seconds / (self.seconds + self.exchange(ranks, bits))

    def stop(self, bits: float) -> int:
        """The number of ranks from which on half of the time goes into the exchange."""
        return next((n for n in MANY if self.efficiency(n, bits) < 0.5), MANY.stop)


def measured(arch: str, images: int, steps: int) -> Rank:
    """One rank of a network that learns 1,000 classes at 224 pixels, on one core of this machine.

    Of several ranks this process may be one: then the exchanges take part.
    """
    import paddle

    from experiments.speed.train import Batches, toolkit_loop
    from ppcls_lite.engine.distributed import STATISTICS, World
    from ppcls_lite.models.create import create_model

    paddle.set_device("cpu")
    tensors = create_model(arch, class_num=1000).state_dict()
    parts = [t for name, t in tensors.items() if name.endswith(STATISTICS) or not t.stop_gradient]
    message = 4 * (sum(int(t.size) for t in parts) + 2)
    batches = Batches(steps, images, 224)
    with tempfile.TemporaryDirectory() as folder:
        epoch = toolkit_loop(arch, batches, folder, 2, World(), "auto")
        epoch()  # the first one prepares
        epoch()
    return Rank(images, batches.cost.cpu / steps, message)


def line(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def table(ranks: dict[str, Rank]) -> list[str]:
    """The rows of the document."""
    head = [f"{n} ranks" for n in RANKS]
    rows = [f"| | bytes, step | line | {' | '.join(head)} | half is exchange from |"]
    rows.append("|---|---|---|" + "---:|" * (len(RANKS) + 1))
    for arch, rank in ranks.items():
        for bits in LINES:
            cells = [
                f"{rank.rate(n, bits):,.0f} ({100 * rank.efficiency(n, bits):.0f} %)" for n in RANKS
            ]
            about = f"{rank.bytes / 1e6:.1f} MB, {line(rank.seconds)}"
            name = f"{bits / 1e9:.0f} Gbit/s"
            rows.append(
                f"| {arch} | {about} | {name} | {' | '.join(cells)} | {rank.stop(bits):,} ranks |"
            )
    return rows


def on_a_slow_line(size: int, repeats: int = 5) -> float:
    """Seconds of one exchange of `size` bytes between two machines, the median of `repeats`."""
    with network.Network(2) as net:
        team = []
        for rank, machine in enumerate(net.machines):
            machine.narrow(f"{SLOW / 1e6:.0f}mbit")
            place = {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0"}
            place |= {"MASTER_ADDR": net.machines[0].address, "MASTER_PORT": str(PORT)}
            command = [sys.executable, "-m", f"{__package__}.scaling", "--exchange", str(size)]
            command += ["--repeats", str(repeats)]
            variables = environment(**place, GLOG_minloglevel="2", PYTHONWARNINGS="ignore")
            team.append(machine.start(command, env=variables, stdout=subprocess.PIPE))
        printed = [process.communicate(timeout=600)[0] for process in team]
    answers = [n for n in printed[0].splitlines() if n.startswith(ANSWER)]
    if not answers:
        raise UserError("a rank of the measurement has ended; its message is above")
    return statistics.median(float(word) for word in answers[0].split()[1:])


def _exchange(size: int, repeats: int) -> None:
    """The life of one rank of `on_a_slow_line`."""
    import paddle

    from ppcls_lite.engine.distributed import connect

    paddle.set_device("cpu")
    world: World = connect()
    message, seconds = paddle.ones([size // 4]), []
    for _ in range(repeats + 1):  # the first one connects
        world.barrier()
        began = time.perf_counter()
        world.total(message)
        seconds.append(time.perf_counter() - began)
    print(ANSWER, *seconds[1:], flush=True)
    world.barrier()


def main(argv: list[str] | None = None) -> int:
    """Print the table, and with `--measure` the model beside two ranks."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--images", type=positive, default=32, help="a rank and step (32)")
    options.add_argument("--steps", type=positive, default=5, help="that are measured (5)")
    options.add_argument("--measure", action="store_true", help="two ranks on a line of 100 Mbit/s")
    options.add_argument("--exchange", type=int, help=argparse.SUPPRESS)
    options.add_argument("--repeats", type=int, default=5, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.exchange:
        _exchange(args.exchange, args.repeats)
        return 0
    cores.claim()
    ranks = {arch: measured(arch, args.images, args.steps) for arch in ARCHS}
    print("\n".join(table(ranks)), flush=True)
    if args.measure:
        if reason := network.unmet():
            raise UserError(f"two machines on this one: {reason}")
        for arch, rank in ranks.items():
            found, model = on_a_slow_line(rank.bytes), rank.exchange(2, SLOW)
            print(
                f"{arch}: an exchange of two ranks at {SLOW / 1e6:.0f} Mbit/s takes {line(found)}, "
                f"by the model {line(model)}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
