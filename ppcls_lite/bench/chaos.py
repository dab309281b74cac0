"""Kills a small real training again and again, and shows that nothing is lost.

Trains a PP-LCNet on drawn images, with augmentation, worker processes, averaged weights and a
checkpoint every few steps: once without a disturbance, and once so that it is killed at random
moments (SIGKILL, SIGTERM, SIGUSR1, SIGINT, and SIGKILL while a checkpoint is being written) and
started again with the same command and `Global.checkpoints=auto`. At the end the whole training
state, weights included, and the metrics of both runs have to be equal, bit by bit.
"""

from __future__ import annotations

import argparse
import json
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

from ppcls_lite import safe_pickle
from ppcls_lite.engine import checkpoint, manifest
from ppcls_lite.engine.record import VARYING
from ppcls_lite.errors import UserError

WAYS = ("SIGKILL", "SIGTERM", "write", "SIGUSR1", "SIGINT")
RESUMABLE = {0, -9, 75, 130, 143}
SIZE, BATCH, STEPS = 32, 8, 6
ARCH = "PPLCNet_x0_25"
ENTRY = "import sys; from ppcls_lite.cli import main; sys.exit(main(sys.argv[1:]))"


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


def chaos(kills: int, folder: Path, seed: int = 0, ways: Sequence[str] = WAYS) -> Report:
    """Kill `kills` times, resume each time, and compare with an undisturbed run."""
    chance, report = random.Random(seed), Report()
    draw_data(folder / "data", BATCH * STEPS)
    epochs = max(4, 8 * kills // STEPS)  # a killed run gets on by 4 to 7 steps
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(folder / "data", epochs)), encoding="utf-8")
    whole, killed = folder / "whole" / ARCH, folder / "killed" / ARCH
    process = _start(path, whole.parent)
    status = process.wait()
    if status != 0:
        raise UserError(f"the undisturbed run failed with {status}; see {whole / 'train.log'}")
    pending = [ways[i % len(ways)] for i in range(kills)]
    chance.shuffle(pending)
    status = None
    while status != 0:
        report.starts += 1
        status = _disturbed(path, killed, pending, chance, report)
        if status not in RESUMABLE:
            raise UserError(f"a resumed run failed with {status}; see {killed / 'train.log'}")
    if pending:
        report.differences.append(f"the run ended before {len(pending)} of the kills")
    report.differences += compare(whole, killed)
    return report


def _start(path: Path, output: Path) -> subprocess.Popen[str]:
    options = ["-c", str(path), "-o", f"Global.output_dir={output}"]
    command = [sys.executable, "-u", "-c", ENTRY, "train", *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _disturbed(
    path: Path, run_dir: Path, pending: list[str], chance: random.Random, report: Report
) -> int:
    """Start or resume, kill in the next way if there is one left; the exit status."""
    records = run_dir / "metrics.jsonl"
    before = records.stat().st_ino if records.exists() else None
    process = _start(path, run_dir.parent)
    if not pending:
        return process.wait()
    while process.poll() is None and (not records.exists() or records.stat().st_ino == before):
        time.sleep(0.01)  # it writes that file anew when training begins
    wanted = _lines(records) + chance.randint(2, 5)
    while process.poll() is None and _lines(records) < wanted:
        time.sleep(0.002)
    way = pending[-1]
    if way == "write":
        while process.poll() is None and not (run_dir / ".latest.pdstate.tmp").exists():
            time.sleep(0.0002)
        time.sleep(chance.random() * 0.02)
    else:
        time.sleep(chance.random() * 0.1)
    if process.poll() is None:
        process.send_signal(getattr(signal, "SIGKILL" if way == "write" else way))
    status = process.wait()
    if status != 0:
        pending.pop()
        report.kills[way] = report.kills.get(way, 0) + 1
        report.torn += any(run_dir.glob(".*.pd*.tmp"))
        prefixes = [state.with_suffix("") for state in run_dir.glob("*.pdstate")]
        report.passed_over += any(manifest.problem(prefix) for prefix in prefixes)
    return status


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def compare(whole: Path, killed: Path) -> list[str]:
    """Where two finished runs differ: state, weights, metrics (but not times), files."""
    found = _unequal(checkpoint.load(whole / "latest"), checkpoint.load(killed / "latest"), "state")
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
    found += [f"left over: {path.name}" for path in killed.glob(".*.tmp")]
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
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--seed", type=int, default=0, help="of the moments and the order")
    options.add_argument("--keep", metavar="FOLDER", help="leave the runs there")
    args = options.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        started = time.monotonic()
        report = chaos(args.kills, Path(args.keep or temporary), args.seed)
    kills = ", ".join(f"{way} {count}" for way, count in sorted(report.kills.items()))
    print(f"{sum(report.kills.values())} kills ({kills}), {report.starts} starts")
    print(f"{report.torn} kills left an unfinished file, {report.passed_over} a mixed checkpoint")
    for difference in report.differences:
        print(f"DIFFERENT: {difference}")
    if not report.differences:
        print("equal: training state, weights, averaged weights, files, metrics.jsonl")
    print(f"{time.monotonic() - started:.0f} s")
    return int(bool(report.differences))
