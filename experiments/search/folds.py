"""The data that experiments with searches share: folds, their recipe, trainings that are scored."""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from paddle import nn

from ppcls_lite.benchmark.result import Setting
from ppcls_lite.errors import UserError
from ppcls_lite.models.create import create_model
from ppcls_lite.search.latency import Meter
from ppcls_lite.search.space import Piece
from ppcls_lite.system.files import write_text
from ppcls_lite.system.machine import usable_processors
from ppcls_lite.system.processes import ROOT, environment, tied, toolkit_command

FOLDS = 3
BASE = ROOT / "configs" / "_base_" / "pplcnet.yaml"
STRIDES = {32: [1, 1, 2, 2, 2], 64: [2, 1, 2, 2, 2]}  # the last stage keeps 4 x 4 positions


def parser_of(about: str) -> argparse.ArgumentParser:
    """The options of every experiment on the folds; `about` is its module's docstring."""
    parser = argparse.ArgumentParser(description=about.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="lists and images (CIFAR-10)")
    parser.add_argument("--size", type=int, default=32, choices=sorted(STRIDES), help="of images")
    return parser


def dealt(count: int) -> list[np.ndarray]:
    """The places of `count` images in each fold."""
    return np.array_split(np.random.default_rng(0).permutation(count), FOLDS)


def lines_of(data: Path) -> list[str]:
    """Of all lists in the folder."""
    found = []
    for name in ("train_list.txt", "test_list.txt", "val_list.txt"):
        if (data / name).is_file():
            found += [line for line in (data / name).read_text().splitlines() if line.strip()]
    if not found:
        raise UserError(f"{data}: expected train_list.txt and test_list.txt or val_list.txt")
    return found


def classes_of(lines: Sequence[str]) -> int:
    """How many classes their labels name."""
    return 1 + max(int(line.rsplit(maxsplit=1)[1]) for line in lines)


def recipe_of(place: Path, data: Path, fold: int, size: int, epochs: int) -> Path:
    """The recipe that searches and trainings of a fold share, for images of `size`."""
    lines = lines_of(data)
    place.mkdir(parents=True, exist_ok=True)
    held = set(dealt(len(lines))[fold].tolist())
    for name, inside in (("train", False), ("test", True)):
        chosen = [line for number, line in enumerate(lines) if (number in held) is inside]
        write_text(place / f"{name}.txt", "".join(f"{line}\n" for line in chosen))
    normalize = {"NormalizeImage": {"order": ""}}
    crop = {"RandCropImage": {"size": size, "scale": [0.5, 1.0]}}
    ends = {
        "Train": [crop, {"RandFlipImage": {"flip_code": 1}}],
        "Eval": [{"ResizeImage": {"size": size}}],
    }
    loaders = {}
    for split, name, batch in (("Train", "train", 64), ("Eval", "test", 128)):
        loaders[split] = {
            "dataset": {
                "image_root": str(data),
                "cls_label_path": str(place / f"{name}.txt"),
                "transform_ops": [{"DecodeImage": {"to_rgb": True}}, *ends[split], normalize],
            },
            "sampler": {"batch_size": batch, "drop_last": split == "Train"},
            "loader": {"num_workers": 1},
        }
    tree = {
        "_base_": str(BASE),
        "Global": {
            "epochs": epochs,
            "eval_interval": epochs,
            "total_batch_size": 64,
        },
        "Arch": {
            "name": "PPLCNet_x0_5",
            "class_num": classes_of(lines),
            "stride_list": STRIDES[size],
        },
        "Optimizer": {"lr": {"learning_rate": 0.1, "warmup_epoch": 2}},
        "DataLoader": loaders,
        "Metric": {"Eval": [{"TopkAcc": {"topk": [1]}}]},
        "Infer": {"PostProcess": {"name": "Topk", "topk": 1}},
    }
    write_text(place / "recipe.yaml", yaml.safe_dump(tree, sort_keys=False))
    return place / "recipe.yaml"


def trained(
    place: Path,
    recipe: Path,
    arch: dict,
    size: int,
    seed: int,
    epochs: int | None = None,
    optimizer: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The last evaluation of a network that is trained from random weights.

    `epochs` and what is changed about `optimizer`, if not the recipe's.
    """
    records = place / arch["name"] / "metrics.jsonl"
    own = place / "recipe.yaml"
    place.mkdir(parents=True, exist_ok=True)
    tree = {"_base_": str(recipe.resolve()), "Arch": arch}
    tree["Global"] = {"output_dir": str(place), "checkpoints": "auto", "seed": seed}
    tree["Global"]["image_size"] = size
    if optimizer is not None:
        tree["Optimizer"] = optimizer
    if epochs is not None:
        tree["Global"] |= {"epochs": epochs, "eval_interval": epochs}
    write_text(own, yaml.safe_dump(tree, sort_keys=False))
    toolkit("train", "-c", str(own))
    last = [json.loads(line) for line in records.read_text().splitlines()]
    return [record for record in last if record["kind"] == "eval"][-1]


def network_of(arch: dict[str, Any]) -> nn.Layer:
    """The network of an `Arch`, with random weights."""
    return create_model(arch["name"], **{k: v for k, v in arch.items() if k != "name"})


def latencies(networks: Sequence[tuple[dict[str, Any], int]], setting: Setting) -> list[float]:
    """Of networks and the edges of their images, measured as wholes, as a search measures."""
    pieces = []
    for number, (arch, size) in enumerate(networks):
        build = partial(network_of, arch)
        pieces.append(Piece(f"{number} {arch['name']}", (3, size, size), build, feature=False))
    found = Meter(setting, usable_processors()[: setting.threads], print)(pieces)
    return [found[piece.name] for piece in pieces]


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What a JSON file holds, which is made once."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text())


def toolkit(*arguments: str) -> None:
    """Run a command of the toolkit. Raises UserError if it fails."""
    # tied: a training would go on when its experiment has been killed
    done = subprocess.run(toolkit_command(arguments), env=environment(), preexec_fn=tied())
    if done.returncode:
        raise UserError(f"ppcls-lite {arguments[0]} ended with status {done.returncode}")
