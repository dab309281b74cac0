"""Which cheap price orders networks as their long trainings do: Kendall's tau of each.

Networks near one latency are drawn by chance and trained several times: short (`--prices`: epochs,
edge of the images and epochs of warm-up), and for `--epochs` at full size. The same images score
all, by top-1 and by the loss; the number of parameters and the latency stand beside them, and what
supernets of the whole space (`--supernets`) say. What is done is not done again: the same command
goes on, and several, each with its `--share`, divide the networks.

    python -m experiments.search.prices --data dataset/cifar10
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from experiments.search.folds import (
    STRIDES,
    classes_of,
    kept,
    latencies,
    lines_of,
    network_of,
    parser_of,
    recipe_of,
    trained,
)
from ppcls_lite.benchmark.result import Setting
from ppcls_lite.cli import guarded
from ppcls_lite.config.file import load_config
from ppcls_lite.errors import UserError
from ppcls_lite.recipe.start import start
from ppcls_lite.search.evolution import near_budget
from ppcls_lite.search.judge import SupernetJudge
from ppcls_lite.search.networks import Networks, trainable
from ppcls_lite.search.pplcnet_space import PPLCNetSpace
from ppcls_lite.search.report import kendall
from ppcls_lite.system.files import write_text
from ppcls_lite.system.outputs import output_folder

_DRAWN = 8  # networks that are measured for each that is wanted


class Price(NamedTuple):
    """A training: epochs, edge of its images, epochs of warm-up."""

    epochs: int
    size: int
    warmup: int

    def __str__(self) -> str:
        return f"{self.epochs} epochs ({self.warmup} of warm-up) at {self.size}"


def main(argv: Sequence[str]) -> int:
    """Do what is left of the share, and print the table once all is done."""
    options = _parser().parse_args(argv)
    file, (first, step) = options.output / "networks.json", options.share
    if first and not file.exists():
        raise UserError(f"there is no {file}: share 0 draws the networks, so start that first")
    networks = kept(file, lambda: _networks(options))
    recipe = recipe_of(options.output, options.data, 0, options.size, options.epochs)
    prices = [*options.prices, Price(options.epochs, options.size, 2)]
    for number in range(first, len(networks), step):
        for price in prices:
            file, arch = _file(options.output, number, price), networks[number]["arch"]
            changes = {"lr": {"warmup_epoch": price.warmup}}
            asked = file.parent, recipe, arch, price.size, 0, price.epochs, changes
            kept(file, lambda asked=asked: trained(*asked))
    files = [[_file(options.output, n, price) for price in prices] for n in range(len(networks))]
    missing = sum(not file.exists() for row in files for file in row)
    if missing:
        print(f"{missing} trainings of other shares are left")
        return 0
    for price in options.supernets:
        place = options.output / f"supernet_{'_'.join(map(str, price))}"
        asked = networks, recipe, price, place
        scores = kept(place / "scores.json", lambda asked=asked: _supernet(*asked))
        for network, score in zip(networks, scores):
            network[f"supernet, {price}"] = score
    found = [[json.loads(file.read_text()) for file in row] for row in files]
    print("\n".join(table(networks, [str(price) for price in prices], found)))
    return 0


def table(
    networks: Sequence[dict[str, Any]], prices: Sequence[str], found: Sequence[Sequence[dict]]
) -> list[str]:
    """A line for each price: its tau with the last one's top-1 and with its loss.

    found: of each network what each training was scored by.
    """
    count = len(networks)
    lines = [
        f"Kendall's tau over {count} networks, {prices[-1]} as the truth",
        "",
        "| price | tau with its top-1 | tau with its loss |",
        "|---|---:|---:|",
    ]
    truths = [row[-1]["top1"] for row in found], [-row[-1]["loss"] for row in found]
    for name, values in _cheap(networks, prices, found):
        taus = (kendall(values, truth) for truth in truths)
        lines.append(f"| {name} | " + " | ".join("" if t is None else f"{t:.2f}" for t in taus))
        lines[-1] += " |"
    return [*lines, "", *_each(networks, found)]


def _cheap(
    networks: Sequence[dict[str, Any]], prices: Sequence[str], found: Sequence[Sequence[dict]]
) -> Iterator[tuple[str, list[float]]]:
    for name in (key for key in networks[0] if key not in ("arch", "candidate")):
        yield name, [network[name] for network in networks]
    for place, price in enumerate(prices):
        yield f"{price}, top-1", [row[place]["top1"] for row in found]
        yield f"{price}, loss", [-row[place]["loss"] for row in found]


def _each(networks: Sequence[dict[str, Any]], found: Sequence[Sequence[dict]]) -> Iterator[str]:
    for network, row in zip(networks, found):
        scores = ", ".join(f"{100 * one['top1']:.2f}" for one in row)
        yield f"{network['ms']:.3f} ms, {network['parameters']:,} parameters: {scores}"


def _networks(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Those whose latency is between `--fill` and all of the target's."""
    space, rng = PPLCNetSpace(), np.random.default_rng(options.seed)
    own = {"class_num": classes_of(lines_of(options.data)), "stride_list": STRIDES[options.size]}
    drawn = [near_budget(space, rng) for _ in range(_DRAWN * options.networks)]
    archs = [{"name": options.target, **own}]
    archs += [{"name": "PPLCNet", **own, **space.arch(candidate)} for candidate in drawn]
    setting = Setting("openvino", "fp32", 1)
    most, *times = latencies([(arch, options.size) for arch in archs], setting)
    inside = [
        {"candidate": candidate, "arch": arch, "ms": ms, "parameters": trainable(network_of(arch))}
        for candidate, arch, ms in zip(drawn, archs[1:], times)
        if options.fill * most <= ms <= most
    ]
    if len(inside) < options.networks:
        raise UserError(f"only {len(inside)} networks are that fast; give a lower --fill")
    return inside[: options.networks]


def _supernet(
    networks: Sequence[dict[str, Any]], recipe: Path, price: Price, place: Path
) -> list[float]:
    """Top-1 of each network by its part of a supernet that is trained for that price."""
    tree = {
        "_base_": str(recipe.resolve()),
        "Global": {"epochs": price.epochs, "image_size": price.size},
        "Arch": {"name": "PPLCNet"},
        "Optimizer": {"lr": {"warmup_epoch": price.warmup}},
    }
    write_text(place / "recipe.yaml", yaml.safe_dump(tree, sort_keys=False))
    made, world = start(
        load_config(place / "recipe.yaml"), ("Loss", "Optimizer", "DataLoader", "Infer")
    )
    shape = (3, price.size, price.size)
    judge = SupernetJudge(made, Networks(made, PPLCNetSpace(), shape), world, place)
    judge.train(price.epochs)
    scores = judge.score([network["candidate"] for network in networks])
    judge.close()
    return scores


def _file(output: Path, number: int, price: Price) -> Path:
    return output / f"{number}" / "_".join(map(str, price)) / "score.json"


def _price(text: str) -> Price:
    return Price(*map(int, text.split(":")))


def _share(text: str) -> tuple[int, int]:
    first, step = map(int, text.split("/"))
    return first, step


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--target", default="PPLCNet_x0_5", help="whose latency bounds them")
    parser.add_argument("--fill", type=float, default=0.5, help="of it they take at least")
    parser.add_argument(
        "--epochs", type=int, default=24, help="of the trainings that are the truth"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    text = "EPOCHS:SIZE:WARMUP of each"
    cheap = [Price(3, 32, 2), Price(3, 32, 0), Price(3, 16, 0), Price(6, 16, 0)]
    parser.add_argument("--prices", nargs="+", type=_price, default=cheap, help=text)
    parser.add_argument("--supernets", nargs="+", type=_price, default=[], help=text)
    parser.add_argument("--share", type=_share, default=(0, 1), help="NUMBER/COUNT of the networks")
    parser.add_argument("--output", type=output_folder, default="output/prices")
    return parser


if __name__ == "__main__":
    sys.exit(guarded(main, sys.argv[1:]))
