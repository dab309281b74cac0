"""How the service answers under load, and under more load than it can bear.

Starts `ppcls-lite serve` with an exported folder and lets 1, N, 2N, 4N, ... connections post the
same image as fast as they get answers; whoever is refused asks again at once. At each load: useful
answers per second, their latency, refusals, and the service's processor time for each useful
answer, which depends least on what else the machine does. The client is one process of its own; on
a small machine it takes its share of the cores, so compare the rows, not machines.

    python -m experiments.serve_load --model inference/PPLCNet_x0_5 --image cat.jpg

Read next: serve_soak.py.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ppcls_lite.system.processes import environment, toolkit_command

GOAL_SHARE, GOAL_LATE = 0.85, 2.0  # of the peak's answers; of the full load's 99 %
HEAD = "connections  useful/s  of peak  median ms   99 % ms  of loaded  refused/s     cpu ms"


@dataclass
class Load:
    """What some connections saw in some seconds."""

    connections: int
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)  # seconds, of status 200
    processor: float = 0.0  # seconds that the service and its engine have used

    @property
    def rate(self) -> float:
        """Useful answers per second."""
        return self.statuses[200] / self.seconds

    def row(self, peak: Load, calm: Load) -> str:
        """A row of the table, compared with the loads that the goals name."""
        middle, late = np.percentile(self.latencies or [np.nan], [50, 99]) * 1e3
        calm_late = np.percentile(calm.latencies, 99) * 1e3
        refused = sum(self.statuses.values()) - self.statuses[200]
        share = self.rate / peak.rate
        return (
            f"{self.connections:11}  {self.rate:8.1f}  {share:7.0%}  {middle:9.1f}  "
            f"{late:8.1f}  {late / calm_late:9.2f}  {refused / self.seconds:9.1f}  "
            f"{1e3 * _each(self):9.2f}"
        )


def verdict(one: Load, full: Load, over: Load, peak: Load) -> tuple[bool, str]:
    """Whether the goals are met at four times the full load, and the figures in a sentence."""
    share = over.rate / peak.rate
    late = [
        float(np.percentile(load.latencies or [np.inf], 99)) * 1e3 for load in (one, full, over)
    ]
    met = share >= GOAL_SHARE and late[2] <= GOAL_LATE * late[1]
    dearer = _each(over) / _each(full)
    text = (
        f"{'goals met' if met else 'goals missed'} at {over.connections} connections, "
        f"{over.connections / full.connections:g} x the full load: {share:.0%} of the peak's "
        f"useful answers (goal {GOAL_SHARE:.0%}); 99 % of the served within {late[2]:.0f} ms, "
        f"{late[2] / late[1]:.2f} x the full load's {late[1]:.0f} ms (goal {GOAL_LATE:g}) and "
        f"{late[2] / late[0]:.1f} x one connection's {late[0]:.1f} ms; processor time for an "
        f"answer, refusals included, {dearer:.2f} x the full load's"
    )
    return met, text


def _each(load: Load) -> float:
    """Processor seconds for each useful answer."""
    return load.processor / max(1, load.statuses[200]) or float("nan")


class _Client(asyncio.Protocol):
    """Posts again and again on one connection."""

    def __init__(self, request: bytes, load: Load) -> None:
        self._request = request
        self._load = load
        self._found = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._found += data
        head, separator, body = self._found.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        status = int(head[9:12])
        self._load.statuses[status] += 1
        if status == 200:
            self._load.latencies.append(time.perf_counter() - self._sent)
        self._found = b""
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self.transport.write(self._request)


def processor_seconds(pid: int) -> float:
    """What a process and its children have used; 0 where there is no /proc."""
    tasks = Path(f"/proc/{pid}/task")
    if not tasks.is_dir():
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = [
        child for task in tasks.iterdir() for child in (task / "children").read_text().split()
    ]
    return used + sum(processor_seconds(int(child)) for child in children)


async def _post(pid: int, port: int, body: bytes, load: Load, seconds: float) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    loop = asyncio.get_running_loop()
    clients = [
        (
            await loop.create_connection(
                lambda: _Client(head.encode() + body, load), "127.0.0.1", port
            )
        )
        for _ in range(load.connections)
    ]
    await asyncio.sleep(min(1.0, seconds / 4))  # until the queue is full
    load.statuses.clear()
    load.latencies.clear()
    begun, used = time.perf_counter(), processor_seconds(pid)
    await asyncio.sleep(seconds)
    load.seconds = time.perf_counter() - begun
    load.processor = processor_seconds(pid) - used
    for transport, _ in clients:
        transport.abort()


def measure(pid: int, port: int, body: bytes, connections: int, seconds: float) -> Load:
    """What so many connections see in some seconds."""
    load = Load(connections)
    asyncio.run(_post(pid, port, body, load, seconds))
    return load


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; returns 1 if the goals are missed at four times the load of the peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path, metavar="DIR")
    parser.add_argument("--image", required=True, type=Path, metavar="FILE")
    parser.add_argument("--queue", type=int, default=64, metavar="N", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=8.0, help="each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="(%(default)s)")
    args = parser.parse_args(argv)
    options = ["--model", args.model, "--port", 0, "--queue", args.queue, "--threads", 1]
    command = toolkit_command(["serve", *map(str, options)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        print(first)
        port = int(first.rpartition(":")[2])
        body = args.image.read_bytes()
        met = True
        try:
            measure(process.pid, port, body, 8, min(args.seconds, 2.0))  # warm-up
            for _ in range(args.rounds):
                loads = [
                    measure(process.pid, port, body, connections, args.seconds)
                    for connections in (1, args.queue // 2, args.queue, 4 * args.queue)
                ]
                peak = max(loads, key=lambda load: load.rate)
                print(HEAD)
                for load in loads:
                    print(load.row(peak, loads[2]))
                good, text = verdict(loads[0], *loads[2:], peak)
                print(text)
                met &= good
        finally:
            process.terminate()
            process.wait(60)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
