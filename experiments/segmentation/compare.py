"""Which DeepLabV3+ pays? Trunks with and without a classification, decoders of several costs.

    python -m experiments.segmentation.compare --camvid dataset/camvid --cifar10 dataset/cifar10

Each row of `ROWS` is the CamVid recipe with some other settings, trained over the same seeds for
the same few updates; the score is mIoU after the last one, on the whole images of the validation
set. `--latency` measures the rows' networks as well, exported at 1024 x 512 (width, height), in
turns. `--half` trains on images and windows of half the edges, in a quarter of the time. What was
trained is kept, and the same call goes on where it was stopped. docs/segmentation.md has the
results. Read before: ../ssld/jobs.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle

from experiments.ssld.jobs import Job, finished, train
from ppcls_lite.benchmark.models import steady
from ppcls_lite.cli import guarded
from ppcls_lite.config.file import find_config
from ppcls_lite.inference.cli.options import positive
from ppcls_lite.inference.engines import available_engines, make_engine
from ppcls_lite.inference.export import export_model
from ppcls_lite.models.create import cost, create_model
from ppcls_lite.system.files import write_text
from ppcls_lite.system.outputs import output_folder
from ppcls_lite.system.timing import in_turns, seconds

RECIPE = "configs/segmentation/deeplabv3p_PPLCNet_x0_5_camvid.yaml"
NETWORK = "deeplabv3p_PPLCNet_x0_5"
TRUNK_RECIPE = Path(__file__).with_name("trunk.yaml")
TRUNK = "trunk"  # the row that the pre-trained one begins with, of one seed
SIZE = (512, 1024)  # height and width for the latency
ROWS: Mapping[str, Mapping[str, Any]] = {  # name -> arguments of Arch
    "plain": {},
    "pretrained": {},
    "width_128": {"aspp_out_channels": 128},
    "width_64": {"aspp_out_channels": 64},
    "eighth": {"low_feature": 1},
    "eighth_128": {"low_feature": 1, "aspp_out_channels": 128},
}


def run(argv: Sequence[str]) -> int:
    """The command line; UserError for missing data, changed settings or a training that failed."""
    args = _parser().parse_args(argv)
    jobs = plan(args)
    scores = finished(jobs)
    print(f"{len(jobs)} trainings, {len(scores)} finished earlier")
    for job, score, spent in train(jobs, scores, args.processes):
        scores[job.name] = score
        print(f"{job.name}: {score:.2f} % ({spent:.0f} s)", flush=True)
    times = latency(args.rows, args.rounds) if args.latency else {}
    text = report(args.rows, jobs, scores, times)
    write_text(args.output / "compare.md", text)
    print(f"\n{text}")
    return 0


def plan(args: argparse.Namespace) -> list[Job]:
    """The trainings of the rows that are asked for, the trunk's first."""
    output = args.output
    jobs = []
    trunk = output / f"{TRUNK}_0"
    if "pretrained" in args.rows:
        data = Path(args.cifar10).resolve()
        own = {"Global.epochs": args.trunk_epochs, "Global.eval_interval": args.trunk_epochs}
        own |= {f"DataLoader.{split}.dataset.image_root": data for split in ("Train", "Eval")}
        own |= {
            f"DataLoader.{split}.dataset.cls_label_path": data / f"{name}_list.txt"
            for split, name in (("Train", "train"), ("Eval", "test"))
        }
        jobs.append(_job(TRUNK, 0, str(TRUNK_RECIPE), own, trunk))
    weights = trunk / "PPLCNet_x0_5" / "latest.pdparams"
    camvid = Path(args.camvid).resolve()
    data = halved(camvid, output / "half").resolve() if args.half else camvid
    for seed in args.seeds:
        for row in args.rows:
            own = {f"Arch.{key}": value for key, value in ROWS[row].items()}
            own |= {"Global.iters": args.iters, "Global.eval_steps": args.iters}
            for split, name in (("Train", "train"), ("Eval", "val")):
                place = f"DataLoader.{split}.dataset"
                own |= {f"{place}.image_root": data, f"{place}.label_file": data / "labels.txt"}
                own |= {f"{place}.list_path": data / f"{name}_list.txt"}
            if args.half:
                own |= {"DataLoader.Train.dataset.transform_ops.2.RandomPadCrop.size": [160, 128]}
            learnt = row == "pretrained"
            if learnt:
                own |= {"Arch.backbone": {"pretrained": str(weights.resolve())}}
            recipe = str(find_config(RECIPE))
            name = f"{row}_{args.iters}{'h' * args.half}"
            folder = output / f"{name}_{seed}"
            jobs.append(_job(name, seed, recipe, own, folder, TRUNK if learnt else None, "miou"))
    return jobs


def halved(source: Path, folder: Path) -> Path:
    """A copy of the data set with half the edges in `folder`, unless it is there; returns it."""
    if (folder / "labels.txt").exists():
        return folder
    for split in ("train", "val"):
        lines = (source / f"{split}_list.txt").read_text(encoding="utf-8").splitlines()
        for line in lines:
            for path, way in zip(line.split(), (cv2.INTER_AREA, cv2.INTER_NEAREST)):
                pixels = cv2.imread(str(source / path), cv2.IMREAD_UNCHANGED)
                small = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=way)
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / path), small)
        write_text(folder / f"{split}_list.txt", "\n".join(lines) + "\n")
    write_text(folder / "labels.txt", (source / "labels.txt").read_text(encoding="utf-8"))
    return folder


def _job(
    row: str,
    seed: int,
    recipe: str,
    own: Mapping[str, Any],
    folder: Path,
    after: str | None = None,
    metric: str = "top1",
) -> Job:
    values = {
        **own,
        **{"Global.seed": seed, "Global.output_dir": folder, "Global.use_visualdl": False},
        "Global.device": "cpu",
        **{f"DataLoader.{split}.loader.num_workers": 0 for split in ("Train", "Eval")},
    }
    texts = tuple(
        f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}"
        for key, value in values.items()
    )
    return Job(row, seed, recipe, texts, folder, after, metric=metric)


def latency(rows: Sequence[str], rounds: int) -> dict[tuple[str, str], float]:
    """ms for one image by (row, engine), one thread: medians over turns."""
    engines = [n for n in ("paddle", "openvino") if available_engines()[n] is None]
    image = np.random.default_rng(0).standard_normal((1, 3, *SIZE), np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        contenders = {}
        for row in rows:
            if row == "pretrained":  # the same network as plain
                continue
            folder = Path(temporary, row)
            paddle.seed(0)
            model = steady(create_model(NETWORK, class_num=11, **ROWS[row]), (224, 224))
            options = {"image_shape": (3, *SIZE), "postprocess": {"Segmentation": {}}}
            noise = np.random.default_rng(1).integers(0, 256, (1, *SIZE, 3), np.uint8)
            operations = [{"NormalizeImage": {"order": ""}}]
            options |= {"transforms": operations, "sample_images": noise, "format": "both"}
            export_model(model, folder, **options)
            for name in engines:
                engine = make_engine(folder, name, threads=1)

                def turn(engine: Any = engine) -> float:
                    return 1000 * min(seconds(lambda: engine.run(image), 3, dropped=1))

                contenders[row, name] = turn
        return {k: statistics.median(v) for k, v in in_turns(contenders, rounds).items()}


def report(
    rows: Sequence[str],
    jobs: Sequence[Job],
    scores: Mapping[str, float],
    times: Mapping[tuple[str, str], float],
) -> str:
    """The table as Markdown."""
    engines = list(dict.fromkeys(engine for _, engine in times))
    heads = ["mIoU (%)", "sd", "runs", "parameters", "10^9 multiply-adds"]
    heads += [f"ms, {engine}" for engine in engines]
    lines = [f"| row | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
    for row in rows:
        own = [scores[j.name] for j in jobs if j.row.rpartition("_")[0] == row and j.name in scores]
        spread = f"{statistics.stdev(own):.2f}" if len(own) > 1 else "-"
        mean = f"{statistics.fmean(own):.2f}" if own else "-"
        network = cost(create_model(NETWORK, class_num=11, **ROWS[row]), (3, *SIZE))
        cells = [f"`{row}`", mean, spread, str(len(own))]
        cells += [f"{network.params:,}", f"{network.flops / 1e9:.2f}"]
        same = "plain" if row == "pretrained" else row
        cells += [f"{times[same, engine]:.0f}" for engine in engines if (same, engine) in times]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    text = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="experiments.segmentation.compare", description=text)
    parser.add_argument("--camvid", default="dataset/camvid", help="images, masks and lists")
    parser.add_argument("--cifar10", default="dataset/cifar10", help="for the pre-trained trunk")
    parser.add_argument("--output", type=output_folder, default="output/segmentation_rows")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--iters", type=positive, default=240, help="updates of each training")
    parser.add_argument("--half", action="store_true", help="images of half the edges")
    parser.add_argument("--trunk-epochs", type=positive, default=10)
    parser.add_argument("--processes", type=positive, default=1, help="trainings at a time")
    parser.add_argument("--latency", action="store_true", help="measure the networks as well")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of a latency")
    return parser


if __name__ == "__main__":
    sys.exit(guarded(run, sys.argv[1:]))
