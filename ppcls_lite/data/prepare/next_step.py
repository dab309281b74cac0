"""What a `prepare` command prints at its end: how to train on what it has written."""

from __future__ import annotations

import shlex
from pathlib import Path


def train_command(recipe: str, root: str | Path, lists: Path, *overrides: str) -> str:
    """The command for images below `root` and the lists in the folder `lists`."""
    places = [
        f"DataLoader.{split}.dataset.{key}={value}"
        for split, name in (("Train", "train"), ("Eval", "val"))
        for key, value in (("image_root", root), ("cls_label_path", lists / f"{name}_list.txt"))
    ]
    lines = [f"  -o {shlex.quote(item)}" for item in (*places, *overrides)]
    return " \\\n".join([f"ppcls-lite train -c {recipe}", *lines])


def labels_at(folder: Path) -> str:
    """The override that names the classes of predictions."""
    return f"Infer.PostProcess.class_id_map_file={folder / 'labels.txt'}"
