"""A million rows are predicted while processes and machines are killed: is each answered once?

    python -m experiments.cluster.prediction                # processes of this machine
    python -m experiments.cluster.prediction --ray          # two nodes of a local Ray cluster
    python -m experiments.cluster.prediction --measure      # throughput by processes, undisturbed

`ppcls-lite predict-many` is killed (the command, one of its processes, or a node of the cluster) at
random numbers of finished blocks, and started again where that ends it. Every row of the list has
to be answered once, in its place, with the answer that its image has everywhere else, and no file
that was there at a kill may be another one later. The rows are cheap: a small network, and a
thousand images of 24 pixels under as many names as it takes, by links to their folder.
Read next: ppcls_lite/inference/cli/predict_many.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from experiments.serve_soak import export
from experiments.speed.data import generate
from ppcls_lite.errors import TRY_AGAIN, UserError
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.system.installed import missing
from ppcls_lite.system.machine import cpu_model, usable_cores
from ppcls_lite.system.processes import environment, toolkit_command

EACH = 1000  # rows of a block, and images of a folder
BROKEN = 3  # of these, which are no images
WAYS = ("command", "process")
WAYS_OF_RAY = ("node", "command")
LIMIT = 900.0  # seconds without a finished block
MEMORY = 100 * 2**20  # bytes that a node of Ray keeps objects in


@dataclass
class Report:
    """What happened, and what is wrong with the answers (nothing: each row has one)."""

    kills: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    answers: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


def write_rows(folder: Path, rows: int) -> Path:
    """A list of so many images; its path."""
    rng, files = np.random.default_rng(0), folder / "files"
    files.mkdir(parents=True)
    names = [f"{number:03d}.png" for number in range(EACH)]
    for name in names:
        cv2.imwrite(str(files / name), rng.integers(0, 256, (24, 24, 3), np.uint8))
    for name in names[:: EACH // BROKEN][:BROKEN]:
        (files / name).write_bytes(b"")
    source = folder / "list.txt"
    with source.open("w") as stream:
        for start in range(0, rows, EACH):
            link = folder / f"{start // EACH:06d}"
            link.symlink_to("files")
            stream.writelines(f"{link.name}/{name}\n" for name in names[: rows - start])
    return source


class Cluster:
    """A real cluster of Ray on this machine: a node that stays, and one that may be killed."""

    def __init__(self, cores: int = 1) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self._room = {"num_cpus": cores, "object_store_memory": MEMORY}
        # Else a busy machine leaves workers, which Ray makes nice, no time.
        head = {**self._room, "include_dashboard": False, "_system_config": {"worker_niceness": 0}}
        self._nodes = Nodes(initialize_head=True, head_node_args=head)
        self._second = self._nodes.add_node(**self._room)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self._nodes.shutdown()

    @property
    def address(self) -> str:
        return self._nodes.address

    def swap(self) -> None:
        """Kill the second node, with all that runs there, and add another one."""
        self._nodes.remove_node(self._second, allow_graceful=False)
        self._second = self._nodes.add_node(**self._room)


class Command:
    """`predict-many` of a list, started as often as it takes."""

    def __init__(self, model: Path, source: Path, output: Path, *more: str) -> None:
        self.output, self._log = output, output.with_suffix(".txt")
        arguments = ["--model", model, "--input", source, "--output", output, "--block", EACH]
        self._command = toolkit_command(["predict-many", *map(str, arguments), *more])
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        variables = environment(OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0")
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=variables)
        self.starts += 1

    def parts(self) -> dict[str, tuple[int, int]]:
        """The files of finished blocks, and what makes each of them this one and no other."""
        found = {path.name: path.stat() for path in self.output.glob("part-*.jsonl")}
        return {name: (state.st_ino, state.st_mtime_ns) for name, state in found.items()}

    def wait_for(self, count: int) -> None:
        """Wait until so many blocks are finished."""
        found, end = -1, 0.0
        while found < count:
            now = sum(1 for _ in self.output.glob("part-*.jsonl"))
            if now != found:
                found, end = now, time.monotonic() + LIMIT
            ended = self._process.poll() is not None and found < count
            if ended or time.monotonic() > end:
                raise UserError(f"{found} of {count} blocks, then no more: see {self._log}")
            time.sleep(0.05)

    def wait(self) -> int:
        return self._process.wait(timeout=LIMIT)

    def kill(self) -> None:
        """End the command without a word, and so its processes."""
        self._process.kill()
        self.wait()

    def kill_process(self) -> None:
        """End one of its processes; UserError unless the command then ends as documented."""
        while not (workers := self._workers()):  # it is still starting
            time.sleep(0.05)
        os.kill(random.choice(workers), signal.SIGKILL)
        if (status := self.wait()) != TRY_AGAIN:
            raise UserError(f"the command ended with {status}: see {self._log}")

    def _workers(self) -> list[int]:
        own = self._process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        spawned = (Path(f"/proc/{child}/cmdline") for child in children)
        return [int(p.parent.name) for p in spawned if b"spawn_main" in p.read_bytes()]


def run(model: Path, source: Path, rows: int, kills: int, cluster: Cluster | None = None) -> Report:
    """Predict the list to its end, through so many kills."""
    more = ["--ray", cluster.address] if cluster else ["--processes", str(usable_cores())]
    command = Command(model, source, source.parent / "answers", "--batch-size", "32", *more)
    report, rng, began = Report(), random.Random(0), time.monotonic()
    blocks = -(-rows // EACH)
    seen: dict[str, tuple[int, int]] = {}
    command.start()
    # Not among the last ones: the command might end first.
    for number, count in enumerate(sorted(rng.sample(range(1, blocks - 10), kills))):
        command.wait_for(count)
        ways = WAYS_OF_RAY if cluster else WAYS
        way = ways[number % len(ways)]
        seen = {**command.parts(), **seen}
        if way == "node":
            cluster.swap()
        else:
            command.kill() if way == "command" else command.kill_process()
            command.start()
        report.kills[way] = report.kills.get(way, 0) + 1
    if command.wait() != 1:  # some images are unreadable
        report.wrong.append("the command did not end as it should")
    report.starts, report.seconds = command.starts, time.monotonic() - began
    last = command.parts()
    report.wrong += [
        f"{name} was made again" for name, state in seen.items() if last[name] != state
    ]
    check(source, command.output, report)
    return report


def check(source: Path, output: Path, report: Report) -> None:
    """Compare the answers with the list, row by row."""
    answers: dict[str, Any] = {}  # of each image, under any of its names
    rows = (str(source.parent / line.rstrip("\n")) for line in source.open())
    for part in sorted(output.iterdir()):
        if part.name == "origin.json":
            continue
        for line in part.read_text().splitlines():
            found = json.loads(line)
            name, row = found.pop("file"), next(rows, None)
            report.answers += 1
            if name != row:
                report.wrong.append(f"{part.name}: {name} in the place of {row}")
                return
            known = answers.setdefault(Path(name).name, found)
            if known != found:
                report.wrong.append(f"{part.name}: {name}: {found} instead of {known}")
    report.wrong += [f"{row} has no answer" for row in rows]
    if sum("error" in answer for answer in answers.values()) != BROKEN:
        report.wrong.append("other images are unreadable than those that are")


def measure(folder: Path, model: Path, rows: int) -> Iterator[str]:
    """Rows of a table: processes, and images a second between the first blocks and the last."""
    images = generate(folder / "photographs", 64)
    source = folder / "photographs.txt"
    source.write_text("".join(f"{images[i % len(images)]}\n" for i in range(rows)))
    first = None
    for count in range(1, usable_cores() + 1):
        more = ("--processes", str(count), "--block", "100")
        command = Command(model, source, folder / f"measured-{count}", *more)
        command.start()
        if status := command.wait():
            raise UserError(f"the command ended with {status}: see {command.output}.txt")
        ends = sorted(nanoseconds for _, nanoseconds in command.parts().values())
        rate = 100 * (len(ends) - count) / ((ends[-1] - ends[count - 1]) / 1e9)
        first = first or rate
        yield f"| {count} | {rate:.0f} | {rate / first:.2f} |"


def main(argv: list[str] | None = None) -> int:
    """Print what happened; 0 if each row was answered once."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=positive, default=1_000_000, metavar="N", help="(1000000)")
    options.add_argument("--kills", type=positive, default=10, metavar="N", help="(10)")
    options.add_argument(
        "--ray", action="store_true", help="on two nodes of Ray, one of which dies"
    )
    options.add_argument("--measure", action="store_true", help="only how fast it is, undisturbed")
    args = options.parse_args(argv)
    if args.ray and (reason := missing("ray")):
        raise UserError(reason)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        if args.measure:
            print(f"{cpu_model()}\n| processes | images/s | times one |\n|---|---|---|")
            for row in measure(folder, photographs_model(folder / "model"), min(args.rows, 6400)):
                print(row, flush=True)
            return 0
        export(folder / "model")
        source = write_rows(folder, args.rows)
        cluster = stack.enter_context(Cluster()) if args.ray else None
        report = run(folder / "model", source, args.rows, args.kills, cluster)
    kills = ", ".join(f"{count} of a {way}" for way, count in report.kills.items())
    print(f"{args.rows:,} rows, killed {sum(report.kills.values())} times ({kills}), in all")
    print(f"{report.starts} starts and {report.seconds:.0f} s: {report.answers:,} answers")
    print("\n".join(report.wrong[:20]) or "each row was answered once; nothing was made again")
    return 1 if report.wrong else 0


def photographs_model(folder: Path) -> Path:
    """A PPLCNet_x0_5 for photographs, with random weights."""
    import paddle

    from ppcls_lite.inference.export import export_model
    from ppcls_lite.models.create import create_model

    paddle.seed(0)
    chain = [{"DecodeImage": {}}, {"ResizeImage": {"resize_short": 256}}]
    chain += [{"CropImage": {"size": 224}}, {"NormalizeImage": {"order": ""}}, {"ToCHWImage": None}]
    export_model(create_model("PPLCNet_x0_5"), folder, (3, 224, 224), chain)
    return folder


if __name__ == "__main__":
    sys.exit(main())
