"""Search against chance and against PP-LCNet's own scales, at equal measured latency.

All images of a data set are dealt into three folds. For each fold, with a seed of its own, networks
are searched on the other two and trained on them from random weights; the fold scores them, so
every image scores once and no search has seen those that score. Compared are what evolution found,
what drawing by chance found at equal cost, and the scale of PP-LCNet whose latency is the target.
What is done is not done again: the same command goes on. With `--candidates` equal cost is so many
trainings that score, whatever else the machine does; with `--minutes` it is time.

    python -m experiments.search.prove --data dataset/cifar10 --minutes 20
    python -m experiments.search.prove --data dataset/cifar10 --space sizes --output output/sizes
    python -m experiments.search.prove --data dataset/cifar10 --space wide --targets PPLCNet_x1_0

The second one's space has the edge of the images as a slot, and narrower widths to pay for it, the
third one's has wider stages, for targets that shallow networks would not use up.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.search.folds import (
    FOLDS,
    STRIDES,
    classes_of,
    latencies,
    lines_of,
    parser_of,
    recipe_of,
    toolkit,
    trained,
)
from ppcls_lite.benchmark.result import Setting
from ppcls_lite.cli import guarded
from ppcls_lite.errors import UserError
from ppcls_lite.search.journal import NAME as JOURNAL
from ppcls_lite.system.outputs import output_folder

SCALE = "scale"  # of PP-LCNet, which the target is the latency of
TAUGHT = "taught"  # learns from searches of the same fold, which `--teachers` has
METHODS = {  # what is changed about `Search`
    SCALE: {},
    "evolution": {"strategy": "evolution"},
    "sieved": {"strategy": "evolution", "sieve": "parameters", "sieve_keeps": 0.2},
    "random": {"strategy": "random"},
    "filled": {"strategy": "evolution", "fill": 0.8},  # the latency is to be used up
    "random_filled": {"strategy": "random", "fill": 0.8},
    "learned": {"strategy": "evolution", "fill": 0.8, "sieve": "learned", "sieve_keeps": 0.25},
    TAUGHT: {"strategy": "evolution", "fill": 0.8, "sieve": "learned", "sieve_keeps": 0.1},
}
_SEEDS = 6  # further apart are folds; of one fold, each method has a seed of its own
GENERATIONS = 4  # of searches for so many candidates, at most
SMALLEST = 4  # candidates of a generation
SPACES: dict[str, dict[str, Any]] = {
    "default": {"name": "PPLCNetSpace"},
    "sizes": {
        "name": "PPLCNetSpace",
        "sizes": [24, 32, 40, 48],
        "widths": [
            [8, 16, 24, 32],
            [16, 24, 32, 48, 64],
            [32, 48, 64, 96, 128],
            [64, 96, 128, 192, 256],
            [128, 192, 256, 384, 512],
        ],
    },
    "wide": {
        "name": "PPLCNetSpace",
        "widths": [
            [16, 24, 32, 48],
            [32, 48, 64, 96],
            [64, 96, 128, 192],
            [128, 192, 256, 384],
            [256, 384, 512, 768],
        ],
    },
}


def main(argv: Sequence[str]) -> int:
    """Do what is left, and print the table."""
    options = _parser().parse_args(argv)
    setting = Setting(options.engine, options.precision, options.threads)
    classes = classes_of(lines_of(options.data))
    strides = STRIDES[options.size]
    scores: dict[str, list[float]] = {}  # method -> top-1 of each fold
    networks: dict[str, list[tuple[dict[str, Any], int]]] = {}  # method -> of each fold
    for target in options.targets:
        for fold in options.folds:
            place = options.output / f"fold{fold}"
            recipe = recipe_of(place, options.data, fold, options.size, options.epochs)
            scale = {"name": target, "class_num": classes, "stride_list": strides}
            chosen = {target: (scale, options.size)} if SCALE in options.methods else {}
            for number, method in enumerate(METHODS):
                if method == SCALE or method not in options.methods:
                    continue
                found = place / f"{target}_{method}"
                if not (found / "report.md").exists():
                    toolkit(
                        *("search", "-c", str(recipe), "--latency", target),
                        *("--output", str(found), *_cost(options)),
                        *("--engine", setting.engine, "--precision", setting.precision),
                        *("--threads", str(setting.threads)),
                        *_changed(METHODS[method]),
                        *(_taught(options.teachers, fold) if method == TAUGHT else ()),
                        # else all methods would begin with the same candidates
                        *("-o", f"Global.seed={_SEEDS * fold + number}"),
                        *("-o", f"Search.space={json.dumps(SPACES[options.space])}"),
                        *("-o", "Arch.name=PPLCNet"),
                    )
                tree = yaml.safe_load((found / "recipe.yaml").read_text())
                arch = tree["Arch"]
                del arch["pretrained"]  # from random weights, as the scales
                size = tree["Global"].get("image_size", options.size)
                chosen[f"{target}: {method}"] = (arch, size)
            for name, network in chosen.items():
                final = place / name.replace(": ", "_")
                tops = [
                    trained(final / run, recipe, *network, fold + FOLDS * seed)["top1"]
                    for seed, run in enumerate(_finals(options.seeds))
                ]
                scores.setdefault(name, []).append(statistics.mean(tops))
                networks.setdefault(name, []).append(network)
    flat = [network for found in networks.values() for network in found]
    measured = [latencies(flat, one) for one in (setting, *options.also)]  # all in turns
    times = iter(zip(*measured))
    rows = {name: [(score, *next(times)) for score in scores[name]] for name in networks}
    print("\n".join(table(rows, [str(one) for one in (setting, *options.also)])))
    return 0


def table(rows: dict[str, list[tuple[float, ...]]], settings: Sequence[str]) -> list[str]:
    """A line for each method: top-1 and its standard error, latencies in each of the settings.

    rows: of each fold top-1 and milliseconds; the table has the means.
    """
    lines = ["| network | top-1 | s.e. | " + " | ".join(f"ms, {one}" for one in settings) + " |"]
    lines.append("|---|---:|---:|" + "---:|" * len(settings))
    for name, found in rows.items():
        scores, *times = zip(*found)
        error = statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
        shown = " | ".join(f"{statistics.mean(ms):.3f}" for ms in times)
        mean = 100 * statistics.mean(scores)
        lines.append(f"| {name} | {mean:.2f} | {100 * error:.2f} | {shown} |")
    return lines


def _finals(seeds: int) -> list[str]:
    """The folders of a network's trainings that are scored."""
    return ["final", *(f"final_{seed}" for seed in range(1, seeds))]


def _cost(options: argparse.Namespace) -> list[str]:
    """Arguments of a search: its time, or how many candidates it scores."""
    if options.candidates is None:
        return ["--minutes", str(options.minutes)]
    trainings = {
        "supernet_epochs": 0,
        "finalists": options.finalists,
        "proxy_epochs": 6,
        "rungs": options.rungs,
    }
    generations = max(1, min(GENERATIONS, options.candidates // SMALLEST))
    drawn = {"population": -(-options.candidates // generations), "generations": generations}
    return _changed(trainings | drawn)


def _changed(search: Mapping[str, Any]) -> list[str]:
    """Arguments that change `Search` of a recipe."""
    return [part for key, value in search.items() for part in ("-o", f"Search.{key}={value}")]


def _taught(output: Path | None, fold: int) -> list[str]:
    """Arguments of a search that learns from those of a fold in `output`."""
    if output is None:
        raise UserError(f"the method {TAUGHT} needs --teachers, the --output of another run")
    journals = sorted((output / f"fold{fold}").glob(f"*/{JOURNAL}"))
    return _changed({"learn_from": json.dumps([str(file.parent) for file in journals])})


def _setting(text: str) -> Setting:
    """ENGINE:PRECISION:THREADS."""
    engine, precision, threads = text.split(":")
    return Setting(engine, precision, int(threads))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="of each search")
    parser.add_argument("--candidates", type=int, metavar="N", help="scored by each, instead")
    text = "so many of them train on, where candidates are counted"
    parser.add_argument("--finalists", type=int, default=3, metavar="N", help=text)
    text = "so often the better half of them trains twice as long, from 6 epochs on"
    parser.add_argument("--rungs", type=int, default=2, metavar="N", help=text)
    parser.add_argument("--epochs", type=int, default=40, help="of each training that is scored")
    text = "trainings of each network that are scored; a fold's score is their mean"
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help=text)
    parser.add_argument("--space", default="default", choices=sorted(SPACES), help="what to choose")
    parser.add_argument("--targets", nargs="+", default=["PPLCNet_x0_5", "PPLCNet_x1_0"])
    alone = [method for method in METHODS if method != TAUGHT]
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=alone, help="to compare")
    folds = range(FOLDS)
    parser.add_argument("--folds", nargs="+", type=int, choices=folds, default=[*folds])
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    text = "other settings ENGINE:PRECISION:THREADS to measure what was found in"
    parser.add_argument("--also", nargs="+", type=_setting, default=[], help=text)
    text = f"--output of another run, at another size say, whose searches teach `{TAUGHT}`"
    parser.add_argument("--teachers", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--output", type=output_folder, default="output/prove_search")
    return parser


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
