"""New lists for data that were looked through, with no picture in two splits. `check --fix`, `fit`.

Images with one class each get lists `path class`; those with boxes or masks what their data set
writes, and a recipe that reads it. What is there already stays.
Read before: check.py, ../data/grouped_split.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.config import registry
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.file import BASE, base_name, difference, dump, load_config
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.grouped_split import Grouped, grouped_split
from ppcls_lite.data.prepare.folders import write_split
from ppcls_lite.data.prepare.next_step import PHOTOS, NextStep, labels_at, with_data
from ppcls_lite.errors import ConfigError, UserError
from ppcls_lite.recipe.check import SEED, SHARE, Checked
from ppcls_lite.system.files import write_text

_GROUPED = "grouped"  # how names begin that are written for boxes and masks


def fix(checked: Checked) -> str:
    """Write lists in which no picture is in two splits, beside the old ones; returns a text."""
    step, text = write_lists(checked, _beside(checked))
    return f"{text}\nnext, for example:\n{step}"


def write_lists(
    checked: Checked, place: Path, share: float = SHARE, seed: int = SEED
) -> tuple[NextStep, str]:
    """Write lists of all images, or free names of the kind, into `place`.

    No picture is in two splits; unreadable images and copies with different labels are left out.
    Returns how to train on them, and a text. Raises UserError for data that were not all looked at,
    and for those that no list of ours can hold.
    """
    found = checked.examined
    if found is None:
        raise UserError("new lists: correct the mistakes first; no image was looked at")
    missing = sum(len(data) for data in checked.datasets.values()) - len(found.splits)
    if missing > len(found.splits) // 100:  # some paths are listed twice, but not so many
        raise UserError("new lists: all images have to be looked at: give --images a larger number")
    made = grouped_split(found, share, seed)
    write = _with_classes if checked.has_classes else _with_annotations
    step, written = write(checked, made, place)
    text = (
        f"wrote {written}: {(~made.in_val).sum():,} images for "
        f"training, {made.in_val.sum():,} for validation; left out: {made.unreadable:,} that "
        f"cannot be read, {made.contradicting:,} copies in different classes"
    )
    return step, text


def _with_classes(checked: Checked, made: Grouped, place: Path) -> tuple[NextStep, str]:
    """Lists `path class` and the names of the classes."""
    found = checked.examined
    first = next(iter(checked.datasets.values()))
    root = common_root(checked.datasets.values())
    lines = [
        f"{Path(found.census.looks[i].path).relative_to(root).as_posix()} {found.labels[i]}"
        for i in made.keep
    ]
    classes = found.names or [str(i) for i in range(first.class_num)]
    written, step = write_beside(
        *(place, root, lines, made.in_val, classes), own_split="Eval" in found.splits
    )
    return step, written


def _with_annotations(checked: Checked, made: Grouped, place: Path) -> tuple[NextStep, str]:
    """What the data set of each split writes of its images, and a recipe that reads both."""
    where = {
        path: (data, index)
        for data in checked.datasets.values()
        for index, path in enumerate(data.paths)
    }
    chosen = [where[checked.examined.census.looks[i].path] for i in made.keep]
    root = Path(os.path.commonpath([Path(data.paths[i]).parent for data, i in chosen]))
    end = _free_end(place, lambda end: any(place.glob(f"{_GROUPED}{end}_*")))
    if checked.step is None:
        raise UserError("new lists: there is no recipe that they could be for")
    if checked.folder is None and "Eval" not in checked.datasets:
        raise ConfigError("DataLoader.Eval: is missing; add it for a share of the images")
    place.mkdir(parents=True, exist_ok=True)
    sections: dict[str, Any] = {}
    for split, inside in (("Train", ~made.in_val), ("Eval", made.in_val)):
        mine = [chosen[i] for i in np.flatnonzero(inside)]
        if not mine:
            raise UserError(f"new lists: no image is left for {split}; give more images")
        file = place / f"{_GROUPED}{end}_{split.lower()}"
        sections[split] = mine[0][0].write_list(mine, root, file)
    step = checked.step(place)
    recipe = place / f"{_GROUPED}{end}_recipe.yaml"
    base = load_config(step.recipe)
    tree = load_config(step.recipe, step.overrides)
    for split, arguments in sections.items():
        tree["DataLoader"][split]["dataset"] = _reading(
            tree["DataLoader"][split]["dataset"], arguments
        )
    write_text(recipe, dump({BASE: base_name(step.recipe), **difference(base, tree)}))
    files = sorted(file.name for file in place.glob(f"{_GROUPED}{end}_*"))
    own = "Eval" in checked.examined.splits
    return NextStep(str(recipe), (), own_split=own), f"{', '.join(files)} in {place}"


def _free_end(place: Path, is_taken: Callable[[str], bool]) -> str:
    """What makes names free in `place`: nothing, or the first of _2, _3, ... that is not taken."""
    for number in range(1, 1000):
        end = "" if number == 1 else f"_{number}"
        if not is_taken(end):
            return end
    raise UserError(f"{place}: there are a thousand lists already")


def _reading(dataset: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's `dataset` with other annotations; what the one that reads them does not take goes.

    arguments: its name, and what is new.
    """
    _, old = take_apart(dataset)
    entry = registry.find("dataset", arguments["name"], registry.entries())
    taken = {argument.name for argument in entry.arguments}
    return {"name": arguments["name"], **{k: v for k, v in old.items() if k in taken}, **arguments}


def _beside(checked: Checked) -> Path:
    """Where the lists of the first split are, or the folder of all images.

    A folder of annotations stays as it is: what is written for it goes beside it.
    """
    if checked.folder is not None:
        own = checked.folder.resolve()
        name = f"{own.name}_lists"
        end = _free_end(own.parent, lambda end: own.with_name(f"{name}{end}").exists())
        return own.with_name(f"{name}{end}")
    source = Path(next(iter(checked.datasets.values())).source)
    return common_root(checked.datasets.values()) if source.is_dir() else source.parent


def common_root(datasets: Iterable[ImageDataset]) -> Path:
    """The folder that all images are in."""
    roots = [Path(data.paths.root).parts for data in datasets]
    same = 0
    while all(len(parts) > same for parts in roots) and len({p[same] for p in roots}) == 1:
        same += 1
    return Path(*roots[0][:same])


def free_lists(place: Path) -> Mapping[str, str]:
    """Names of lists that are not there yet."""

    def names(end: str) -> Mapping[str, str]:
        stems = {"train": "train_list", "val": "val_list", "labels": "labels"}
        return {name: f"{stem}{end}.txt" for name, stem in stems.items()}

    return names(_free_end(place, lambda e: any((place / n).exists() for n in names(e).values())))


def write_beside(
    place: Path,
    root: Path,
    lines: Sequence[str],
    in_val: np.ndarray,
    classes: Sequence[str],
    own_split: bool = True,
) -> tuple[str, NextStep]:
    """Write new lists of images below `root` into `place`; their names, and what reads them.

    lines: `path class`; in_val: (n,) bool, which of them are for validation.
    """
    names = free_lists(place)
    write_split(place, lines, in_val, classes, names)
    splits = {
        split: {"image_root": root, "cls_label_path": place / names[name]}
        for split, name in (("Train", "train"), ("Eval", "val"))
    }
    more = f"Arch.class_num={len(classes)}", labels_at(place, names["labels"])
    step = with_data(PHOTOS, splits, *more, own_split=own_split)
    return f"{', '.join(names.values())} in {place}", step
