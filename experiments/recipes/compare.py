"""Does a modern recipe lift the same network? The command behind tools/compare_recipes.py.

Each network is trained by the paper's recipe and by that of MobileNetV4 ("ra4"), with equally many
updates of equally many images. All images of a data set are scored: they are cut into folds, evenly
by class, each fold is scored by a training on the others, and a seed's score is that of all images
together. Another seed cuts other folds and draws other weights. The score is top-1 after the last
epoch, so that no scored image decides about anything.

The trainings are ordinary `train` commands (experiments/ssld/jobs.py), seed by seed, so that a
stopped comparison holds whole seeds; docs/training.md has the results.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.ablation.plan import Data, find_data
from experiments.ssld.jobs import Job, finished, train
from ppcls_lite.cli import INTERRUPTED
from ppcls_lite.config.file import find_config
from ppcls_lite.errors import UserError
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.system.files import write_text
from ppcls_lite.system.outputs import output_folder

RECIPES = {"paper": "the paper's recipe", "ra4": "MobileNetV4's recipe"}
NETWORKS = ("PPLCNet_x0_5", "PPLCNet_x1_0")
Scores = Mapping[str, float]  # top-1 in percent by job


def run(argv: Sequence[str]) -> int:
    """The command line; returns the exit status: 130 after Ctrl-C.

    Raises UserError for missing data, changed settings, or a training that failed.
    """
    args = _parser().parse_args(argv)
    if args.folds < 2:
        raise UserError(
            "--folds: expected at least 2, because one part trains and another is scored"
        )
    data, output = find_data(args.data), args.output
    jobs = plan(data, output, args)
    scores = finished(jobs)
    missing = [job for job in jobs if job.name not in scores][: args.most]
    print(f"{len(jobs)} trainings, {len(scores)} finished earlier, {len(missing)} in this call")
    status = 0
    try:
        for job, top1, seconds in train(missing, {}, 1):
            scores[job.name] = top1
            print(f"{job.name}: top-1 {top1:.1f} % ({seconds / 60:.1f} minutes)", flush=True)
    except KeyboardInterrupt:
        status = INTERRUPTED
    sizes = fold_sizes(output, args)
    command = shlex.join(["python", "tools/compare_recipes.py", *argv])
    text = report(scores, sizes, args, command)
    write_text(output / "recipes.md", text)
    write_text(output / "recipes.json", json.dumps({"scores": scores}, indent=2) + "\n")
    print(f"\n{text}")
    if len(scores) < len(jobs):
        print("not finished; the same command goes on")
    return status


def name_of(network: str, recipe: str, seed: int, fold: int) -> str:
    """What a training is called, in `scores` and as a folder."""
    return f"{network}_{recipe}_fold{fold}_{seed}"


def plan(data: Data, output: Path, args: argparse.Namespace) -> list[Job]:
    """All trainings, seed by seed. Writes the lists of the folds."""
    jobs = []
    for seed in args.seeds:
        write_folds(data, output, args, seed)
        for fold in range(args.folds):
            for network in args.networks:
                jobs += [_job(data, output, args, network, r, seed, fold) for r in RECIPES]
    return jobs


def _job(
    data: Data,
    output: Path,
    args: argparse.Namespace,
    network: str,
    recipe: str,
    seed: int,
    fold: int,
) -> Job:
    folder = output / name_of(network, recipe, seed, fold)
    lists = output / "lists"
    values: dict[str, object] = {
        "Arch.name": network,
        "Arch.class_num": data.class_num,
        "Global.seed": seed,
        "Global.output_dir": str(folder),
        "Global.epochs": args.epochs,
        "Global.eval_interval": args.epochs,
        "Global.save_interval": args.epochs,
        "Global.device": "cpu",
        "Global.use_visualdl": False,
        "Optimizer.lr.warmup_epoch": min(1, args.epochs / 10),
        "Infer.PostProcess.class_id_map_file": data.label_file and str(data.label_file),
    }
    for split, kind in (("Train", "train"), ("Eval", "scored")):
        place = f"DataLoader.{split}"
        values[f"{place}.loader.num_workers"] = 0
        values[f"{place}.dataset.image_root"] = "/"
        path = lists / f"{kind}_{seed}_{fold}.txt"
        values[f"{place}.dataset.cls_label_path"] = str(path.resolve())
    if args.rate is not None:
        values["Optimizer.lr.learning_rate"] = args.rate
    texts = tuple(f"{key}={json.dumps(value)}" for key, value in values.items())
    path = find_config(f"configs/recipes/cifar10_{recipe}.yaml")
    return Job(f"{network}_{recipe}_fold{fold}", seed, str(path), texts, folder)


def folds_of(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """The fold (0 ... count - 1) of each image: equally many of each class in each, within one."""
    rng = np.random.default_rng(seed)
    found = np.empty(len(labels), np.int64)
    given = 0
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(np.asarray(labels) == label))
        found[members] = (np.arange(len(members)) + given) % count
        given += len(members)
    return found


def write_folds(data: Data, output: Path, args: argparse.Namespace, seed: int) -> None:
    """Lists of absolute paths in `output/lists`: what each fold is trained and scored on."""
    images, labels = [], []
    for path in (data.train_list, data.eval_list):
        for line in filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines())):
            image, label = line.rsplit(maxsplit=1)
            images.append(f"{(data.folder / image).as_posix()} {label}\n")
            labels.append(int(label))
    folds = folds_of(labels, args.folds, seed)
    folder = output / "lists"
    folder.mkdir(parents=True, exist_ok=True)
    for fold in range(args.folds):
        for kind, chosen in (("train", folds != fold), ("scored", folds == fold)):
            text = "".join(line for line, own in zip(images, chosen) if own)
            write_text(folder / f"{kind}_{seed}_{fold}.txt", text)


def fold_sizes(output: Path, args: argparse.Namespace) -> dict[tuple[int, int], int]:
    """How many images each seed's folds score."""
    return {
        (seed, fold): len((output / "lists" / f"scored_{seed}_{fold}.txt").read_text().splitlines())
        for seed in args.seeds
        for fold in range(args.folds)
    }


def whole(
    scores: Scores, sizes: Mapping[tuple[int, int], int], network: str, recipe: str
) -> dict[int, float]:
    """Top-1 in percent of all images, by seed; of the seeds whose folds are all scored."""
    found = {}
    for seed in dict.fromkeys(seed for seed, _ in sizes):
        counts = {fold: count for (s, fold), count in sizes.items() if s == seed}
        names = {fold: name_of(network, recipe, seed, fold) for fold in counts}
        if all(name in scores for name in names.values()):
            right = sum(scores[names[fold]] * count for fold, count in counts.items())
            found[seed] = right / sum(counts.values())
    return found


def report(
    scores: Scores,
    sizes: Mapping[tuple[int, int], int],
    args: argparse.Namespace,
    command: str,
) -> str:
    """The table as Markdown; what is not finished yet is `-`."""
    images = sum(sizes.values()) // len(args.seeds)
    lines = [
        f"{images:,} images in {args.folds} folds, {args.epochs} epochs of "
        f"{images - images // args.folds:,} images a training",
        "",
        "| network | " + " | ".join(f"{title} (%)" for title in RECIPES.values()) + " | difference "
        "| standard error | seeds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for network in args.networks:
        by_recipe = [whole(scores, sizes, network, recipe) for recipe in RECIPES]
        seeds = [seed for seed in by_recipe[0] if seed in by_recipe[1]]
        pairs = [by_recipe[1][seed] - by_recipe[0][seed] for seed in seeds]
        cells = [_number([found[seed] for seed in seeds]) for found in by_recipe]
        error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else None
        cells += [_number(pairs, "+"), "-" if error is None else f"{error:.2f}", str(len(seeds))]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    note = (
        "The difference is taken within each seed, over the same images; its standard error is "
        "that of the seeds' mean."
    )
    return "\n".join([*lines, "", f"`{command}`", "", note, ""])


def _number(values: Sequence[float], sign: str = "") -> str:
    return f"{statistics.fmean(values):{sign}.2f}" if values else "-"


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="compare_recipes.py",
        description="Train networks by the paper's recipe and by MobileNetV4's, under the same "
        "budget, and score all images by cross-validation. The same command goes on where it was "
        "stopped.",
    )
    add = options.add_argument
    add("--data", default="dataset/cifar10", metavar="DIR", help="default: dataset/cifar10")
    add(
        "--output",
        type=output_folder,
        default="output/recipes",
        metavar="DIR",
        help="default: output/recipes",
    )
    add("--networks", nargs="+", default=list(NETWORKS), metavar="NAME", help="of the zoo")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    add("--folds", type=positive, default=2, metavar="N", help="default: 2")
    add("--epochs", type=positive, default=12, metavar="N", help="default: 12")
    add("--rate", type=float, metavar="R", help="another learning rate, to try some")
    add("--most", type=positive, metavar="N", help="trainings in this call; default: all")
    return options
