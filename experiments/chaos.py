"""Kills a small real training again and again, and shows that nothing is lost.

Trains a PP-LCNet on drawn images, with augmentation, worker processes, averaged weights and a
checkpoint every few steps: once without a disturbance, and once so that it is killed at random
moments and started again with the same command and `Global.checkpoints=auto`. At the end the whole
training state, weights included, and the metrics of both runs have to be equal, bit by bit.

One process is ended by SIGKILL, SIGTERM, SIGUSR1, SIGINT, and SIGKILL while a checkpoint is being
written, or while those that an epoch's end brings are (`between`), or by the loss of its data
worker. Of several, started by `paddle.distributed.launch`, one rank is killed, or its data worker,
or rank 0 while it writes, or all with their launcher at once; or the launcher gets SIGTERM, or one
rank SIGUSR1. The killed run's disk is slow:
it pauses before each file of a checkpoint is flushed and before each takes its place, so that kills
fall between any two.
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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from ppcls_lite.engine import checkpoint
from ppcls_lite.engine.record import VARYING
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import not_negative, positive
from ppcls_lite.system import manifest, safe_pickle
from ppcls_lite.system.files import TEMPORARY
from ppcls_lite.system.processes import ROOT, environment

WAYS = ("between", "SIGKILL", "SIGTERM", "write", "SIGUSR1", "SIGINT", "worker")
WAYS_OF_RANKS = ("between", "rank", "SIGTERM", "write", "SIGUSR1", "SIGKILL", "worker")
WRITING = {"write": "latest", "between": "[be]*"}  # which unfinished checkpoint a kill waits for
PAUSES = 32  # two for each file, when an epoch ends
RESUMABLE = {-9, 75, 130, 143}
# The launcher ends with the number of SIGTERM, or as a rank did: saved, killed, or left alone.
RESUMABLE_LAUNCH = {-9, 247, 15, 75, 1, 241}
SIZE, BATCH, STEPS = 32, 8, 6
ARCH = "PPLCNet_x0_25"
ENTRY = """
import sys
sys.path[:0] = [{root!r}]
from experiments.chaos import slow_disk
from ppcls_lite.cli import main
slow_disk({pause})
sys.exit(main(sys.argv[1:]))
"""


def slow_disk(pause: float) -> None:
    """Let `pause` seconds pass in this process where a checkpoint is written.

    Before each of its files is flushed, and before each takes its place.
    """
    replace, sync = Path.replace, os.fsync

    def slow_replace(path: Path, target: Path) -> Path:
        if ".pd" in path.name or ".manifest" in path.name:
            time.sleep(pause)
        return replace(path, target)

    def slow_sync(file: int) -> None:
        time.sleep(pause)
        sync(file)

    if pause:
        Path.replace = slow_replace  # type: ignore[method-assign]
        os.fsync = slow_sync


@dataclass
class Report:
    """What happened: kills by way, starts, and differences (none: nothing was lost)."""

    kills: dict[str, int] = field(default_factory=dict)
    starts: int = 0
    torn: int = 0  # kills that left an unfinished file
    passed_over: int = 0  # kills between the renames of one checkpoint, which is then passed over
    differences: list[str] = field(default_factory=list)


def draw_data(folder: Path, count: int) -> None:
    """Write `count` images of a bright bar, upright (class 0) or lying (1), and their list."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    lines = []
    for i in range(count):
        image = rng.integers(0, 120, (SIZE + 8, SIZE + 8, 3), dtype=np.uint8)
        place = slice(int(rng.integers(4, 24)), None)
        image[place, :8] += 100
        image = image if i % 2 else np.ascontiguousarray(image.transpose(1, 0, 2))
        cv2.imwrite(str(folder / f"{i}.png"), image)
        lines.append(f"{i}.png {i % 2}")
    (folder / "list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def recipe(data: Path, epochs: int) -> dict[str, Any]:
    """A small run with everything that a resume has to bring back."""

    def split(transforms: list[Any], workers: int, **sampler: Any) -> dict[str, Any]:
        dataset: dict[str, Any] = {
            "name": "ImageNetDataset",
            "image_root": str(data),
            "cls_label_path": str(data / "list.txt"),
            "transform_ops": ["DecodeImage", *transforms, {"NormalizeImage": {"order": ""}}],
        }
        return {
            "dataset": dataset,
            "sampler": {"name": "DistributedBatchSampler", "batch_size": BATCH, **sampler},
            "loader": {"num_workers": workers},
        }

    train = split(
        [{"RandCropImage": {"size": SIZE}}, {"RandFlipImage": {"flip_code": 1}}, "RandAugment"],
        workers=2,
        shuffle=True,
        drop_last=True,
    )
    train["dataset"]["batch_transform_ops"] = [{"MixupOperator": {"alpha": 0.2}}]
    return {
        "Global": {
            **{"epochs": epochs, "device": "cpu", "print_batch_step": 1, "checkpoints": "auto"},
            **{"save_steps": 2, "keep_last": 2, "keep_best": 1},
        },
        "Arch": {"name": ARCH, "class_num": 2, "dropout_prob": 0.2},
        "EMA": {"decay": 0.95, "use_warmup": True},
        "Loss": {"Train": [{"CELoss": {"epsilon": 0.1}}], "Eval": [{"CELoss": {}}]},
        "Optimizer": {
            **{"name": "Momentum", "momentum": 0.9, "regularizer": {"name": "L2", "coeff": 3e-5}},
            "lr": {"name": "Cosine", "learning_rate": 0.05, "warmup_epoch": 1},
        },
        "DataLoader": {"Train": train, "Eval": split([{"ResizeImage": {"size": SIZE}}], 0)},
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
    }


@dataclass
class Run:
    """The command that starts or resumes the run in `run_dir`, in `processes` processes.

    pause: seconds before each file of a checkpoint is flushed and takes its place.
    """

    recipe: Path
    run_dir: Path
    processes: int
    pause: float = 0.0

    def start(self) -> subprocess.Popen[str]:
        """The run's process, or its launcher."""
        options = ["-c", str(self.recipe), "-o", f"Global.output_dir={self.run_dir.parent}"]
        entry = self.run_dir.parent.with_suffix(".py")
        entry.write_text(ENTRY.format(root=str(ROOT), pause=self.pause), encoding="utf-8")
        command = [sys.executable, str(entry), "train", *options]
        if self.processes > 1:
            command = [sys.executable, "-m", "paddle.distributed.launch"]
            command += ["--nproc_per_node", str(self.processes)]
            command += ["--log_dir", str(self.run_dir.parent / "log")]
            command += [str(entry), "train", *options]
        return subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self, process: subprocess.Popen[str], way: str, chance: random.Random) -> None:
        """End the running `process` in one of the ways."""
        number = getattr(signal, way, signal.SIGKILL)
        ranks = _rank_processes(process.pid) if self.processes > 1 else {0: process.pid}
        rank = 0 if way in WRITING else chance.randrange(self.processes)
        if way == "SIGTERM":
            wanted = [process.pid]
        elif way == "SIGKILL":
            wanted = [process.pid, *ranks.values()]  # as if the machine were gone
        elif way == "worker":
            wanted = []
            while rank in ranks and not wanted and process.poll() is None:
                wanted = _children(ranks[rank])[-1:]  # there are none before the first batch
                time.sleep(0.002)
        else:
            wanted = [ranks[rank]] if rank in ranks else []
        for pid in wanted:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(pid, number)

    @property
    def resumable(self) -> set[int]:
        """The exit statuses that a kill leaves."""
        return RESUMABLE_LAUNCH if self.processes > 1 else RESUMABLE


def _children(parent: int) -> list[int]:
    """The processes that the main thread of one has started; none if that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(c) for c in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    return []


def _rank_processes(launcher: int) -> dict[int, int]:
    """Process ids by rank."""
    found = {}
    for child in _children(launcher):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            variables = Path(f"/proc/{child}/environ").read_text().split("\0")
            rank = [v.partition("=")[2] for v in variables if v.startswith("PADDLE_TRAINER_ID=")]
            found |= {int(rank[0]): child} if rank else {}
    return found


def chaos(
    kills: int,
    folder: Path,
    seed: int = 0,
    ways: Sequence[str] = (),
    processes: int = 1,
    pause: float = 0.02,
) -> Report:
    """Kill `kills` times, resume each time, and compare with an undisturbed run.

    `ways`: of `WAYS`, or of `WAYS_OF_RANKS` with several processes (the default: all of them).
    `pause`: see `Run`; the undisturbed run has none.
    """
    ways = ways or (WAYS_OF_RANKS if processes > 1 else WAYS)
    chance, report = random.Random(seed), Report()
    draw_data(folder / "data", BATCH * STEPS * processes)
    epochs = max(4, 12 * kills // STEPS)  # a killed run gets on by 4 to 12 steps
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(folder / "data", epochs)), encoding="utf-8")
    whole = Run(path, folder / "whole" / ARCH, processes)
    killed = Run(path, folder / "killed" / ARCH, processes, pause)
    status = whole.start().wait()
    if status != 0:
        raise UserError(f"the undisturbed run failed with {status}; see {whole.run_dir}/train.log")
    pending = [ways[i % len(ways)] for i in range(kills)]
    chance.shuffle(pending)
    status = None
    while status != 0:
        report.starts += 1
        status = _disturbed(killed, pending, chance, report)
    if pending:
        report.differences.append(f"the run ended before {len(pending)} of the kills")
    report.differences += compare(whole.run_dir, killed.run_dir)
    return report


def _disturbed(run: Run, pending: list[str], chance: random.Random, report: Report) -> int:
    """Start or resume, kill in the next way if there is one left; the exit status."""
    run_dir, killed = run.run_dir, False
    records = run_dir / "metrics.jsonl"
    before = records.stat().st_mtime_ns if records.exists() else None
    process = run.start()
    if pending:
        while process.poll() is None and (
            not records.exists() or records.stat().st_mtime_ns == before
        ):
            time.sleep(0.01)  # it writes that file anew when training begins
        wanted = lines_of(records) + chance.randint(2, 5)
        while process.poll() is None and lines_of(records) < wanted:
            time.sleep(0.002)
        way = pending[-1]
        if way in WRITING:
            unfinished = f".{WRITING[way]}.pdstate.*.tmp"
            while process.poll() is None and not any(run_dir.glob(unfinished)):
                time.sleep(0.0002)
            time.sleep(chance.random() * (0.02 + PAUSES * run.pause))
        else:
            time.sleep(chance.random() * 0.1)
        if killed := process.poll() is None:
            run.kill(process, way, chance)
    status = process.wait()
    if status != 0 and (not killed or status not in run.resumable):
        raise UserError(f"a resumed run failed with {status}; see {run_dir / 'train.log'}")
    if status != 0:
        pending.pop()
        report.kills[way] = report.kills.get(way, 0) + 1
        report.torn += any(run_dir.glob(".*.pd*.tmp"))
        prefixes = [state.with_suffix("") for state in run_dir.glob("*.pdstate")]
        report.passed_over += any(manifest.problem(prefix) for prefix in prefixes)
    return status


def lines_of(path: Path) -> int:
    """How many lines a file has that may not be there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def compare(whole: Path, killed: Path) -> list[str]:
    """Where two finished runs differ: state, weights, metrics (but not times), files.

    Their recipes may: the number of data workers, for example, changes nothing.
    """
    states = [checkpoint.load(folder / "latest") | {"origin": None} for folder in (whole, killed)]
    found = _unequal(*states, "state")
    for name in ("latest", "best_model", "latest_raw"):
        one, other = (safe_pickle.load(d / f"{name}.pdparams") for d in (whole, killed))
        found += _unequal(one, other, f"{name}.pdparams")
    one, other = (_records(folder) for folder in (whole, killed))
    if one != other:
        at = [i for i, (a, b) in enumerate(zip(one, other)) if a != b]
        found.append(f"metrics.jsonl: {len(one)} and {len(other)} lines, differs at {at[:1]}")
    names = [{p.name for p in folder.glob("*.pd*")} for folder in (whole, killed)]
    if names[0] != names[1]:
        found.append(f"files: {sorted(names[0] ^ names[1])}")
    found += [f"left over: {path.name}" for path in killed.glob(TEMPORARY)]
    return found


def _records(run_dir: Path) -> list[dict[str, Any]]:
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(n).items() if k not in VARYING} for n in lines]


def _unequal(one: Any, other: Any, place: str) -> list[str]:
    if type(one) is not type(other):
        return [place]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f"{place}: keys"]
        return [d for k in one for d in _unequal(one[k], other[k], f"{place}.{k}")]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [f"{place}: length"]
        return [d for i, p in enumerate(zip(one, other)) for d in _unequal(*p, f"{place}[{i}]")]
    if isinstance(one, np.ndarray):
        same = one.dtype == other.dtype and one.tobytes() == other.tobytes()
    else:
        same = one == other
    return [] if same else [place]


def run(argv: list[str]) -> int:
    """The command line; exit status 1 if anything was lost."""
    options = argparse.ArgumentParser(prog="chaos.py", description=__doc__.split("\n")[0])
    options.add_argument("--kills", type=positive, default=20)
    options.add_argument(
        "--processes", type=int, default=1, help="more than 1: kill their ranks too"
    )
    options.add_argument("--seed", type=int, default=0, help="of the moments and the order")
    options.add_argument(
        "--pause", type=not_negative, default=0.02, help="seconds before each flush and rename"
    )
    options.add_argument("--keep", metavar="FOLDER", help="leave the runs there")
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        started = time.monotonic()
        folder = Path(args.keep or temporary)
        report = chaos(args.kills, folder, args.seed, (), args.processes, args.pause)
    kills = ", ".join(f"{way} {count}" for way, count in sorted(report.kills.items()))
    print(f"{sum(report.kills.values())} kills ({kills}), {report.starts} starts")
    print(f"{report.torn} kills left an unfinished file, {report.passed_over} a mixed checkpoint")
    for difference in report.differences:
        print(f"DIFFERENT: {difference}")
    if not report.differences:
        print("equal: training state, weights, averaged weights, files, metrics.jsonl")
    print(f"{time.monotonic() - started:.0f} s")
    return int(bool(report.differences))
