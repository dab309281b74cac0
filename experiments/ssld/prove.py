"""Does distillation help? The command behind tools/prove_ssld.py.

A small student (PP-LCNet 0.25x) is trained alone and distilled as SSLD does it (Cui et al. 2021,
arXiv 2103.05959): the loss compares soft answers with those of a frozen teacher, a ResNet18_vd, and
sees no label. Both are trained for the same number of updates, with the same schedule, augmentation
and seeds. Four rows:

    alone_all       the student from all labels
    distilled_all   the student from all images; the teacher was trained from all labels
    alone_few       the student from the few labelled images alone
    distilled_few   the student from all images; the teacher was trained from the few labels alone

The score is top-1 after the last epoch, so that no test image decides about anything. Read next:
jobs.py; docs/measured.md has the results.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.ablation.plan import Data, find_data
from experiments.ablation.table import spread_note
from experiments.ssld.jobs import Job, finished, split_labels, train
from ppcls_lite.cli import INTERRUPTED
from ppcls_lite.config.file import find_config
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.system.files import write_text
from ppcls_lite.system.machine import usable_cores
from ppcls_lite.system.outputs import output_folder

TEACHER_SEED = 0  # one teacher for all students of a row
ROWS = {
    "alone_all": "student alone, all labels",
    "distilled_all": "student distilled; teacher from all labels",
    "alone_few": "student alone, the few labels",
    "distilled_few": "student distilled with unlabelled images; teacher from the few labels",
}
COMPARED = (
    ("distilled_all", "alone_all", "all images are labelled"),
    ("distilled_few", "alone_few", "few labels, for the teacher too"),
    ("distilled_all", "alone_few", "few labels for the student, a teacher that saw all"),
)


def run(argv: Sequence[str]) -> int:
    """The command line; returns the exit status: 130 after Ctrl-C.

    Raises UserError for missing data, changed settings, or a training that failed.
    """
    args = _parser().parse_args(argv)
    if args.quick:
        args.epochs = args.teacher_epochs = 1
        args.seeds = args.seeds[:1]
    data, output = find_data(args.data), args.output
    jobs = plan(data, output, args)
    scores = finished(jobs)
    print(f"{len(jobs)} trainings, {len(scores)} finished earlier, {args.processes} at a time")
    status, before = 0, resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        for job, top1, seconds in train(jobs, scores, args.processes):
            scores[job.name] = top1
            print(
                f"[{len(scores)}/{len(jobs)}] {job.name}: top-1 {top1:.1f} % "
                f"({seconds / 60:.1f} minutes)",
                flush=True,
            )
    except KeyboardInterrupt:
        status = INTERRUPTED
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = sum(getattr(after, k) - getattr(before, k) for k in ("ru_utime", "ru_stime"))
    lists = output / "lists"
    counts = {path.stem: len(path.read_text().splitlines()) for path in lists.glob("*.txt")}
    text = report(scores, jobs, counts, shlex.join(["python", "tools/prove_ssld.py", *argv]))
    write_text(output / "proof.md", text)
    found = {"scores": scores, "rows": summary(scores, jobs), "images": counts}
    write_text(output / "proof.json", json.dumps(found, indent=2) + "\n")
    print(f"\n{text}\nprocessor time of this call: {spent / 60:.1f} minutes; in {output}: proof.md")
    if status:
        print("stopped; the same command goes on")
    return status


def plan(data: Data, output: Path, args: argparse.Namespace) -> list[Job]:
    """All trainings, the teachers first. Writes the lists of images they use."""
    limit = 8 if args.quick else None
    labeled = 2 * data.class_num if args.quick else args.labeled
    lists = split_labels(data, labeled, limit, output / "lists")
    counts = {name: len(path.read_text().splitlines()) for name, path in lists.items()}
    # the epochs over the labelled images alone that make as many updates
    more = counts["all"] / counts["labeled"]
    common = {
        "Arch.class_num": data.class_num,
        "Global.use_visualdl": False,
        "Global.device": "cpu",
        "DataLoader.Train.loader.num_workers": 0,
        "DataLoader.Eval.loader.num_workers": 0,
        "DataLoader.Train.dataset.image_root": data.folder,
        "DataLoader.Eval.dataset.image_root": data.folder,
        "DataLoader.Eval.dataset.cls_label_path": lists["eval"].resolve(),
        "Infer.PostProcess.class_id_map_file": data.label_file,
    }
    if args.quick:
        common |= {f"DataLoader.{split}.sampler.batch_size": 4 for split in ("Train", "Eval")}
        common |= {"Global.total_batch_size": 4, "Optimizer.lr.learning_rate": 0.01}

    def job(
        row: str, seed: int, epochs: int, own: Mapping[str, Any], teacher: str | None = None
    ) -> Job:
        folder = output / f"{row}_{seed}"
        kind = row.split("_")[0]
        recipe_of = "student" if kind == "alone" else kind
        values = {
            **common,
            **own,
            "Global.seed": seed,
            "Global.output_dir": folder,
            "Global.epochs": epochs,
            "Global.eval_interval": epochs,
            "Global.save_interval": epochs,
        }
        texts = tuple(
            f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}"
            for key, value in values.items()
        )
        path = find_config(f"configs/distillation/cifar10_{recipe_of}.yaml")
        network = "ResNet18_vd" if recipe_of == "teacher" else None
        return Job(row, seed, str(path), texts, folder, teacher, network)

    def labels(which: str) -> dict[str, Any]:
        return {"DataLoader.Train.dataset.cls_label_path": lists[which].resolve()}

    def pupil(which: str) -> dict[str, Any]:
        own = labels("all" if which == "all" else "labeled")
        own |= {"Arch.models.0.Teacher.path": exported(output, f"teacher_{which}")}
        if which == "few":
            place = "DataLoader.Train.dataset"
            own |= {f"{place}.name": "UnlabeledDataset", f"{place}.unlabeled_root": data.folder}
            own |= {f"{place}.unlabeled_list": lists["unlabeled"].resolve()}
        return own

    epochs, few_epochs = args.epochs, round(args.epochs * more)
    teacher_epochs = args.teacher_epochs
    jobs = []
    for which, count, name in (
        ("all", teacher_epochs, "all"),
        ("few", round(teacher_epochs * more), "labeled"),
    ):
        own = labels(name) | {"Global.save_inference_dir": exported(output, f"teacher_{which}")}
        jobs.append(job(f"teacher_{which}", TEACHER_SEED, count, own))
    for seed in args.seeds:
        jobs.append(job("alone_all", seed, epochs, labels("all")))
        jobs.append(job("alone_few", seed, few_epochs, labels("labeled")))
        jobs.append(job("distilled_few", seed, epochs, pupil("few"), "teacher_few"))
        jobs.append(job("distilled_all", seed, epochs, pupil("all"), "teacher_all"))
    return jobs


def exported(output: Path, row: str) -> Path:
    """Where a teacher's inference model lies."""
    return (output / f"{row}_{TEACHER_SEED}" / "inference").resolve()


def summary(scores: Mapping[str, float], jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """Each row's scores in percent, their mean, and their sample standard deviation."""
    found: dict[str, dict[str, Any]] = {}
    for row in dict.fromkeys(job.row for job in jobs):
        own = [scores[job.name] for job in jobs if job.row == row and job.name in scores]
        spread = statistics.stdev(own) if len(own) > 1 else None
        mean = statistics.fmean(own) if own else None
        found[row] = {"top1": own, "mean": mean, "sd": spread}
    return found


def report(
    scores: Mapping[str, float], jobs: Sequence[Job], counts: Mapping[str, int], command: str
) -> str:
    """The tables as Markdown; what is not finished yet is `-`."""
    rows = summary(scores, jobs)
    images, labeled = counts["all_list"], counts["labeled_list"]
    parts = [f"{images:,} images, {labeled:,} of them labelled where labels are few"]
    parts += ["", "| row | | top-1 (%) | sd | runs |", "|---|---|---:|---:|---:|"]
    titles = {
        "teacher_all": "teacher, all labels",
        "teacher_few": "teacher, the few labels",
        **ROWS,
    }
    for name, row in rows.items():
        cells = [f"`{name}`", titles[name], _number(row["mean"]), _number(row["sd"])]
        parts.append(f"| {' | '.join([*cells, str(len(row['top1']))])} |")
    parts += ["", "| difference | of | points | standard error |", "|---|---|---:|---:|"]
    for better, base, title in COMPARED:
        difference, error = _difference(rows[better], rows[base])
        cells = [title, f"`{better}` - `{base}`", _number(difference, "+"), _number(error)]
        parts.append(f"| {' | '.join(cells)} |")
    return "\n".join([*parts, "", f"`{command}`", "", spread_note(counts["eval_list"]), ""])


def _difference(better: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[Any, Any]:
    """Of the means, and its standard error over the seeds."""
    if better["mean"] is None or base["mean"] is None:
        return None, None
    error = None
    if better["sd"] is not None and base["sd"] is not None:
        error = math.sqrt(sum(row["sd"] ** 2 / len(row["top1"]) for row in (better, base)))
    return better["mean"] - base["mean"], error


def _number(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.2f}"


def _parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="prove_ssld.py",
        description="Train a small network alone and distilled, under the same budget, with all "
        "labels and with few, and print what distillation gains. The same command goes on where "
        "it was stopped.",
    )
    add = options.add_argument
    add("--data", default="dataset/cifar10", metavar="DIR", help="default: dataset/cifar10")
    add(
        "--output",
        type=output_folder,
        default="output/prove_ssld",
        metavar="DIR",
        help="default: output/prove_ssld",
    )
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], metavar="N", help="default: 1 2 3")
    add("--epochs", type=positive, default=16, metavar="N", help="of the students; default: 16")
    add("--teacher-epochs", type=positive, default=12, metavar="N", help="default: 12")
    add("--labeled", type=positive, default=1000, metavar="N", help="the few labels; default: 1000")
    add(
        *("--processes",),
        type=int,
        default=usable_cores(),
        metavar="N",
        help="trainings at a time, one thread each; default: the cores",
    )
    add("--quick", action="store_true", help="8 images of each class: a trial of the command")
    return options
