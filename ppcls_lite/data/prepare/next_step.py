"""What a `prepare` command prints at its end: how to train on what it has written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

OBJECTS = "configs/detection/photos.yaml"  # the recipe for objects on photographs of one's own


def train_command(recipe: str, root: str | Path, lists: Path, *overrides: str) -> str:
    """The command for images below `root` and the lists in the folder `lists`."""
    places = [
        f"DataLoader.{split}.dataset.{key}={value}"
        for split, name in (("Train", "train"), ("Eval", "val"))
        for key, value in (("image_root", root), ("cls_label_path", lists / f"{name}_list.txt"))
    ]
    lines = [f"  -o {shlex.quote(item)}" for item in (*places, *overrides)]
    return " \\\n".join([f"ppcls-lite train -c {recipe}", *lines])


def objects_command(splits: Mapping[str, Mapping[str, object]], *overrides: str) -> str:
    """The command for data sets of boxes: split -> the data set's name and arguments."""
    return data_command(OBJECTS, splits, *overrides)


def data_command(recipe: str, splits: Mapping[str, Mapping[str, object]], *overrides: str) -> str:
    """The command for data sets of any kind: split -> arguments."""
    places = [
        f"DataLoader.{split}.dataset.{key}={'null' if value is None else value}"
        for split, arguments in splits.items()
        for key, value in arguments.items()
    ]
    lines = [f"  -o {shlex.quote(item)}" for item in (*places, *overrides)]
    return " \\\n".join([f"ppcls-lite train -c {recipe}", *lines])


def labels_at(folder: Path, name: str = "labels.txt") -> str:
    """The override that names the classes of predictions."""
    return f"Infer.PostProcess.class_id_map_file={folder / name}"
