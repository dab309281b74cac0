"""How to train on what a `prepare` command has written: a recipe and its changes.

The commands print it; `ppcls-lite fit` and `ppcls-lite check` go on with it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PHOTOS = "configs/quickstart/photos.yaml"  # the recipe for photographs of one's own
OBJECTS = "configs/detection/photos.yaml"  # the same for objects on them


@dataclass(frozen=True)
class NextStep:
    """A recipe, and the overrides `path.to.key=value` that lead it to the prepared data.

    own_split: whether the data came with their split; else it was made by chance.
    """

    recipe: str
    overrides: tuple[str, ...]
    own_split: bool = True

    def __str__(self) -> str:
        """The command that trains."""
        lines = [f"  -o {shlex.quote(item)}" for item in self.overrides]
        return " \\\n".join([f"ppcls-lite train -c {self.recipe}", *lines])


def with_lists(
    recipe: str, root: str | Path, lists: Path, *overrides: str, own_split: bool = True
) -> NextStep:
    """For images below `root` and the lists in the folder `lists`."""
    splits = {
        split: {"image_root": root, "cls_label_path": lists / f"{name}_list.txt"}
        for split, name in (("Train", "train"), ("Eval", "val"))
    }
    return with_data(recipe, splits, *overrides, own_split=own_split)


def with_data(
    recipe: str,
    splits: Mapping[str, Mapping[str, object]],
    *overrides: str,
    own_split: bool = True,
) -> NextStep:
    """For data sets of any kind: split -> arguments."""
    places = [
        f"DataLoader.{split}.dataset.{key}={'null' if value is None else value}"
        for split, arguments in splits.items()
        for key, value in arguments.items()
    ]
    return NextStep(recipe, (*places, *overrides), own_split)


def labels_at(folder: Path, name: str = "labels.txt") -> str:
    """The override that names the classes of predictions."""
    return f"Infer.PostProcess.class_id_map_file={folder / name}"
