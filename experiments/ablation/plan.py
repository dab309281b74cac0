"""Which runs an ablation consists of: the rows' recipes, given one data set and one budget.

Everything but `Arch` is the same in all rows, and this is checked. What the runner sets are plain
overrides that come before the user's own `-o`, which therefore win:
- data: both lists, their folder, the number of classes and the class names;
- epochs, with a warm-up of at most a tenth of them; batch size, with the learning rate in
  proportion to the images per update (the recipes' rates are for four cards);
- image size, with the resizing that belongs to it, and below 128 pixels smaller strides, so that
  the last stage still sees 4x4 positions: on fewer, 5x5 kernels would see mostly padding.
Loads no Paddle. Read next: record.py (what a run leaves), ablate.py (the runs).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.ablation.record import Settings, differences, settings_of
from experiments.ablation.table import TABLES
from ppcls_lite.config.check import check
from ppcls_lite.config.file import find_config, load_config
from ppcls_lite.config.settings import RecipeSettings
from ppcls_lite.data.image_list import read_image_list
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.transforms.compose import shape_of
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.system.machine import usable_cores

Tree = dict[str, Any]
Pairs = dict[str, Any]  # dotted key -> value

RECIPE_CARDS = 4  # the recipes' learning rates are for their batch size on four cards
SMALL = 64  # images up to this size are cropped less, and evaluated whole
LAST_STAGE = 4  # positions along an edge that the last stage should see
OWN = {
    "Global.output_dir": "use --output",
    "Global.seed": "use --seeds",
    "Global.checkpoints": "leave it out, an interrupted row goes on by itself",
}


@dataclass(frozen=True)
class Options:
    """What the user asked for; None keeps the recipe's value."""

    output: str | Path
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
    """One row with one seed: its recipe, its folder, and the settings that decide its result.

    run_dir: where `recipe.train` leaves checkpoints and logs, below `folder`.
    """

    row: str
    seed: int
    tree: Tree
    folder: Path
    run_dir: Path
    settings: Settings


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
        found = ", ".join(path.name for path in lists if path.is_file()) or "none of them"
        raise UserError(
            f"--data {folder}: expected train_list.txt and val_list.txt (or test_list.txt) in it, "
            f"found {found}; {how}"
        )
    label_file = place / "labels.txt"
    if label_file.is_file():
        return Data(place, train, evaluation, label_file, len(read_label_file(label_file)))
    labels = read_image_list(str(train), str(place)).labels
    return Data(place, train, evaluation, None, int(max(labels, default=0)) + 1)


def plan(rows: Mapping[str, Path], data: Data, options: Options) -> list[Run]:
    """All runs, row by row, checked: each recipe for itself, and that only `Arch` differs.

    Raises ConfigError naming the row.
    """
    for text in options.overrides:
        key = text.partition("=")[0].strip()
        if key in OWN:
            raise ConfigError(f"-o {text}: the ablation sets this key itself; {OWN[key]}")
    runs = []
    for name, path in rows.items():
        given = pairs_for(path, data, options)
        for seed in options.seeds:
            folder = Path(options.output) / name / f"seed_{seed}"
            pairs = {**given, "Global.seed": seed, "Global.output_dir": str(folder)}
            tree = load_config(path, [*_texts(pairs), *options.overrides])
            run_dir = folder / _checked(tree, path).Arch.entry.name
            runs.append(Run(name, seed, tree, folder, run_dir, settings_of(tree)))
    _require_equal_budgets(runs)
    return runs


def pairs_for(path: Path, data: Data, options: Options) -> Pairs:
    """What the runner sets in a row's recipe, by dotted key."""
    recipe, wanted = load_config(path), load_config(path, options.overrides)
    settings = _checked(wanted, path)
    pairs: Pairs = {"Arch.class_num": data.class_num, "Global.use_visualdl": False}
    for split, file in (("Train", data.train_list), ("Eval", data.eval_list)):
        section = f"DataLoader.{split}"
        pairs[f"{section}.dataset.image_root"] = str(data.folder)
        pairs[f"{section}.dataset.cls_label_path"] = str(file)
        workers = getattr(settings.DataLoader, split).loader.num_workers
        pairs[f"{section}.loader.num_workers"] = min(workers, usable_cores())
    if data.label_file and _at(wanted, "Infer.PostProcess"):
        pairs["Infer.PostProcess.class_id_map_file"] = str(data.label_file)
    pairs |= _budget(recipe, wanted, settings, options)
    if options.image_size is not None:
        pairs |= _image_size(wanted, settings, options.image_size)
    elif settings.Global.image_shape is None:  # stated, because tables and costs name it
        ops = settings.DataLoader.Eval.dataset.get("transform_ops")
        pairs["Global.image_shape"] = list(shape_of([op.build() for op in ops]))
    return pairs


def strides_for(size: int) -> list[int]:
    """Strides of PPLCNet's stem and blocks3 ... blocks6 for square images of `size` pixels.

    The first ones become 1 until the last stage sees 4x4 positions: none from 128 pixels on, the
    stem's from 64 on, the stem's and that of blocks3 below.
    """
    for ones in (0, 1):
        if size >= LAST_STAGE * 2 ** (5 - ones):
            return [1] * ones + [2] * (5 - ones)
    return [1, 1, 2, 2, 2]


def _budget(recipe: Tree, wanted: Tree, settings: RecipeSettings, options: Options) -> Pairs:
    """Epochs, batch size and what follows from them; `recipe` is without the user's overrides."""
    epochs = options.epochs or settings.Global.epochs
    own_batch = _at(recipe, "DataLoader.Train.sampler.batch_size")
    batch = options.batch_size or _at(wanted, "DataLoader.Train.sampler.batch_size")
    pairs: Pairs = {
        "Global.epochs": epochs,
        "Global.save_interval": epochs,  # `latest` and `best_model` are enough here
        "DataLoader.Train.sampler.batch_size": batch,
    }
    warmup, rate = (_at(recipe, f"Optimizer.lr.{key}") for key in ("warmup_epoch", "learning_rate"))
    if warmup is not None:
        pairs["Optimizer.lr.warmup_epoch"] = min(float(warmup), epochs / 10)
    if rate is not None and own_batch:
        share = batch * settings.Global.update_freq / (RECIPE_CARDS * own_batch)
        pairs["Optimizer.lr.learning_rate"] = float(rate) * share
    return pairs


def _image_size(tree: Tree, settings: RecipeSettings, size: int) -> Pairs:
    """The sizes in the recipe's transforms, and strides for small images."""
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
        ops = _at(tree, place) or []
        found = {name: i for i, op in enumerate(ops) for name in op if name in names}
        if ops and not found:
            raise ConfigError(
                f"--image-size {size}: {place} has no {' or '.join(names)} whose size could be "
                "set; change the recipe, or leave --image-size out and use -o"
            )
        for name, i in found.items():
            pairs |= {f"{place}.{i}.{name}.{key}": v for key, v in arguments[name].items()}
    if settings.Arch.entry.class_name == "PPLCNet" and "stride_list" not in settings.Arch.arguments:
        pairs["Arch.stride_list"] = strides_for(size)
    return pairs


def _at(tree: Any, path: str) -> Any:
    """The value at a dotted key, None if the way ends before."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _texts(pairs: Pairs) -> list[str]:
    """Overrides as on a command line; JSON is YAML, and quotes what needs it."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in pairs.items()]


def _checked(tree: Tree, path: Path) -> RecipeSettings:
    """The recipe's settings, once it is right and trains something that is scored."""
    try:
        settings = check(tree)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    data = settings.DataLoader
    if None in (settings.Optimizer, settings.Loss, data and data.Train, data and data.Eval):
        raise ConfigError(f"{path}: a row needs Loss, Optimizer, DataLoader.Train and .Eval")
    if _at(tree, "DataLoader.Train.sampler.batch_size") is None:
        raise ConfigError(f"{path}: a row needs DataLoader.Train.sampler.batch_size")
    if not (settings.Global.eval_during_train and settings.Metric and settings.Metric.Eval):
        raise ConfigError(
            f"{path}: rows are compared by the first score of Metric.Eval: keep it, and "
            "Global.eval_during_train"
        )
    return settings


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
                f"could not be compared ({first.row} -> {run.row}):\n  {lines}\n"
                "set the same value for all rows with -o"
            )
