"""Which runs an ablation consists of: the rows' recipes, given one data set and one budget.

Everything but `Arch` is the same in all rows, and this is checked. What the runner sets are plain
overrides that come before the user's own `-o`, which therefore win:
- data: both lists, their folder, the number of classes and the class names;
- epochs, with a warm-up of at most a tenth of them; batch size, with the learning rate in
  proportion to the images per update (the recipes' rates are for four cards);
- image size, with the resizing that belongs to it, and below 128 pixels smaller strides, so that
  the last stage still sees 4x4 positions: on fewer, 5x5 kernels would see mostly padding.
Loads no Paddle. Read next: ablation.py (the runs), ablation_table.py (the result).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppcls_lite.ablation_table import TABLES
from ppcls_lite.config import check
from ppcls_lite.config_file import find_config, load_config
from ppcls_lite.data.image_list import read_image_list, read_labels
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.models.zoo import ZOO

Tree = dict[str, Any]
Pairs = dict[str, Any]  # dotted key -> value

RECIPE_CARDS = 4  # the recipes' learning rates are for their batch size on four cards
SMALL = 64  # images up to this size are cropped less, and evaluated whole
LAST_STAGE = 4  # positions along an edge that the last stage should see
OWN = {
    "Global.output_dir": "--output",
    "Global.seed": "--seeds",
    "Global.checkpoints": "nothing: an interrupted row goes on by itself",
}
# Settings that leave the result as it is: a finished row stays valid when they change.
WITHOUT_EFFECT = (
    *("Global.output_dir", "Global.checkpoints", "Global.print_batch_step"),
    *("Global.use_visualdl", "Global.save_interval", "Global.save_inference_dir"),
    *("DataLoader.Train.loader", "DataLoader.Eval.loader", "Infer"),
)


@dataclass(frozen=True)
class Options:
    """What the user asked for; None keeps the recipe's value."""

    data: str
    output: str
    epochs: int | None = None
    image_size: int | None = None
    batch_size: int | None = None
    seeds: Sequence[int] = (42,)
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class Data:
    """A data set as tools/prepare_data.py leaves it."""

    folder: Path
    train_list: Path
    eval_list: Path
    label_file: Path | None
    class_num: int


@dataclass(frozen=True)
class Run:
    """One row with one seed: its tree, its folder, and the settings that decide its result."""

    row: str
    seed: int
    tree: Tree
    folder: Path
    settings: Mapping[str, Any] = field(repr=False)

    @property
    def run_dir(self) -> Path:
        """Where `recipe.train` leaves checkpoints and logs."""
        return self.folder / self.tree["Arch"]["name"]


def find_rows(configs: Iterable[str], tables: Iterable[str]) -> dict[str, Path]:
    """The rows by name, each with its recipe; files first, then the tables', each row once.

    Raises ConfigError for a file that does not exist, for two files of one name, and for nothing.
    """
    rows: dict[str, Path] = {}
    for config in configs:
        path = find_config(config)
        if rows.setdefault(path.stem, path).resolve() != path.resolve():
            raise ConfigError(
                f"-c {config}: {rows[path.stem]} is called {path.stem} as well; a row is known by "
                "its file's name, so rename one of them"
            )
    for number in tables:
        for name in TABLES[number].rows:
            rows.setdefault(name, find_config(f"configs/ablation/{name}.yaml"))
    if not rows:
        raise ConfigError(
            "there are no rows to train: give recipes, -c configs/ablation/full.yaml "
            "configs/ablation/no_se.yaml, or a table of the paper, --table 6 (7, 8, 9, all)"
        )
    return rows


def find_data(folder: str) -> Data:
    """The lists and classes of a prepared folder.

    Raises UserError that says what is missing and how to make it.
    """
    place = Path(folder).resolve()
    how = f"`python tools/prepare_data.py folder {folder}` writes the lists"
    if not place.is_dir():
        raise UserError(f"--data {folder}: there is no such folder ({place}); {how}")
    lists = [place / f"{name}_list.txt" for name in ("train", "val", "test")]
    train, *others = lists
    evaluation = next((path for path in others if path.is_file()), None)
    if not train.is_file() or evaluation is None:
        found = ", ".join(path.name for path in lists if path.is_file()) or "neither"
        raise UserError(
            f"--data {folder}: expected train_list.txt and val_list.txt (or test_list.txt) in it, "
            f"found {found}; {how}"
        )
    label_file = place / "labels.txt"
    if label_file.is_file():
        return Data(place, train, evaluation, label_file, len(read_labels(str(label_file))))
    labels = read_image_list(str(train), str(place)).labels
    return Data(place, train, evaluation, None, max(labels, default=0) + 1)


def plan(rows: Mapping[str, Path], data: Data, options: Options) -> list[Run]:
    """All runs, row by row, checked: each recipe for itself, and that only `Arch` differs.

    Raises ConfigError naming the row.
    """
    for text in options.overrides:
        key = text.partition("=")[0].strip()
        if key in OWN:
            raise ConfigError(f"-o {text}: the ablation sets this key itself; use {OWN[key]}")
    runs = []
    for name, path in rows.items():
        given = pairs_for(path, data, options)
        for seed in options.seeds:
            folder = Path(options.output) / name / f"seed_{seed}"
            pairs = {**given, "Global.seed": seed, "Global.output_dir": str(folder)}
            tree = load_config(path, [*_texts(pairs), *options.overrides])
            _check(tree, path)
            runs.append(Run(name, seed, tree, folder, settings_of(tree)))
    _require_equal_budgets(runs)
    return runs


def pairs_for(path: Path, data: Data, options: Options) -> Pairs:
    """What the runner sets in a row's recipe, by dotted key."""
    recipe, wanted = load_config(path), load_config(path, options.overrides)
    _check(wanted, path)
    pairs: Pairs = {
        "Arch.class_num": data.class_num,
        "Global.eval_during_train": True,
        "Global.use_visualdl": False,
    }
    for split, file in (("Train", data.train_list), ("Eval", data.eval_list)):
        section = f"DataLoader.{split}"
        pairs[f"{section}.dataset.image_root"] = str(data.folder)
        pairs[f"{section}.dataset.cls_label_path"] = str(file)
        workers = wanted["DataLoader"][split].get("loader", {}).get("num_workers", 4)
        pairs[f"{section}.loader.num_workers"] = min(workers, os.cpu_count() or 1)
    if data.label_file and "Infer" in wanted:
        pairs["Infer.PostProcess.class_id_map_file"] = str(data.label_file)
    return pairs | _budget(recipe, wanted, options) | _image_size(wanted, options.image_size)


def strides_for(size: int) -> list[int]:
    """Strides of PPLCNet's stem and blocks3 ... blocks6 for square images of `size` pixels.

    The first ones become 1 until the last stage sees 4x4 positions: none from 128 pixels on, the
    stem's from 64 on, the stem's and that of blocks3 below.
    """
    for ones in (0, 1):
        if size >= LAST_STAGE * 2 ** (5 - ones):
            return [1] * ones + [2] * (5 - ones)
    return [1, 1, 2, 2, 2]


def settings_of(tree: Tree) -> dict[str, Any]:
    """What decides a run's result, flat by dotted key, with digests of the two lists."""
    flat = {
        key: value
        for key, value in flatten(tree).items()
        if not any(key == skip or key.startswith(f"{skip}.") for skip in WITHOUT_EFFECT)
    }
    for split in ("Train", "Eval"):
        path = tree["DataLoader"][split]["dataset"].get("cls_label_path")
        if isinstance(path, str) and Path(path).is_file():
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            flat[f"DataLoader.{split}.dataset.cls_label_path (content)"] = digest[:16]
    return json.loads(json.dumps(flat))  # as it comes back from a file


def flatten(tree: Any, path: str = "") -> dict[str, Any]:
    """Leaves by dotted key; lists of plain values and empty maps are leaves."""
    if isinstance(tree, list) and any(isinstance(item, (dict, list)) for item in tree):
        tree = {str(i): item for i, item in enumerate(tree)}
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    prefix = f"{path}." if path else ""
    return {k: v for key, item in tree.items() for k, v in flatten(item, f"{prefix}{key}").items()}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """`key: old -> new` for every setting that is not the same."""
    keys = dict.fromkeys([*old, *new])
    shown = {key: (_shown(old, key), _shown(new, key)) for key in keys}
    return [f"{key}: {was} -> {now}" for key, (was, now) in shown.items() if was != now]


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "(not set)"


def _budget(recipe: Tree, wanted: Tree, options: Options) -> Pairs:
    pairs: Pairs = {}
    epochs = options.epochs or wanted["Global"].get("epochs", 20)
    pairs["Global.epochs"] = pairs["Global.save_interval"] = epochs
    batch = options.batch_size or _batch_size(wanted)
    pairs["DataLoader.Train.sampler.batch_size"] = batch
    rate = recipe["Optimizer"].get("lr")
    if isinstance(rate, dict) and "warmup_epoch" in rate:
        pairs["Optimizer.lr.warmup_epoch"] = min(float(rate["warmup_epoch"]), epochs / 10)
    if isinstance(rate, dict) and "learning_rate" in rate:
        images = batch * wanted["Global"].get("update_freq", 1)
        share = images / (RECIPE_CARDS * _batch_size(recipe))
        pairs["Optimizer.lr.learning_rate"] = float(rate["learning_rate"]) * share
    return pairs


def _batch_size(tree: Tree) -> int:
    return tree["DataLoader"]["Train"]["sampler"]["batch_size"]


def _image_size(tree: Tree, size: int | None) -> Pairs:
    if size is None:
        return {}
    small = size <= SMALL
    arguments: dict[str, Pairs] = {
        "RandCropImage": {"size": size} | ({"scale": [0.5, 1.0]} if small else {}),
        "ResizeImage": {"resize_short": size if small else round(size * 256 / 224)},
        "CropImage": {"size": size},
    }
    places = {
        "DataLoader.Train.dataset.transform_ops": ("RandCropImage",),
        "DataLoader.Eval.dataset.transform_ops": ("ResizeImage", "CropImage"),
        "Infer.transforms": ("ResizeImage", "CropImage"),
    }
    pairs: Pairs = {"Global.image_shape": [3, size, size]}
    for place, names in places.items():
        below: Any = tree
        for key in place.split("."):
            below = below.get(key) or {}
        found = {name: i for i, op in enumerate(below) for name in op if name in names}
        if below and not found:
            raise ConfigError(
                f"--image-size {size}: {place} has no {' or '.join(names)} whose size could be "
                "set; change the recipe, or leave --image-size out and use -o"
            )
        for name, i in found.items():
            pairs |= {f"{place}.{i}.{name}.{key}": v for key, v in arguments[name].items()}
    arch = tree["Arch"]
    entry = ZOO.get(arch["name"])
    family = entry.family if entry else arch["name"]
    if family == "PPLCNet" and "stride_list" not in arch:
        pairs["Arch.stride_list"] = strides_for(size)
    return pairs


def _texts(pairs: Pairs) -> list[str]:
    """Overrides as on a command line; JSON is YAML, and quotes what needs it."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in pairs.items()]


def _check(tree: Tree, path: Path) -> None:
    """The recipe for itself, and that it trains something whose top-1 can be compared."""
    try:
        settings = check(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    needed = (settings.Optimizer, settings.Loss, settings.DataLoader)
    splits = settings.DataLoader and (settings.DataLoader.Train, settings.DataLoader.Eval)
    if None in needed or None in splits:
        raise ConfigError(f"{path}: a row needs Loss, Optimizer, DataLoader.Train and .Eval")
    metrics = (settings.Metric and settings.Metric.Eval) or []
    top = [m.get("topk") for m in metrics if m.entry.name == "TopkAcc"]
    if not settings.Global.eval_during_train or not any(k == 1 or 1 in k for k in top):
        raise ConfigError(
            f"{path}: rows are compared by top-1: keep Global.eval_during_train, and TopkAcc with "
            "k = 1 in Metric.Eval"
        )


def _require_equal_budgets(runs: Sequence[Run]) -> None:
    """A table is only worth reading if nothing but the network differs."""
    first = runs[0]
    skipped = ("Arch.", "Global.seed")
    for run in runs[1:]:
        old, new = (
            {k: v for k, v in r.settings.items() if not k.startswith(skipped)} for r in (first, run)
        )
        found = differences(old, new)
        if found:
            lines = "\n  ".join(found)
            raise ConfigError(
                f"the rows {first.row} and {run.row} differ in more than Arch, so their scores "
                f"could not be compared:\n  {lines}\nset the same value for all rows with -o"
            )
