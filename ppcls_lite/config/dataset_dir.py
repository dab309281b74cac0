"""`Global.dataset_dir: DIR`: one key for a folder that holds its images, lists and class names.

PaddleX's layout, or the one that `ppcls-lite prepare` writes. Both data sets of a recipe get their
`image_root` and `cls_label_path`, prediction the class names, and the classes are counted in the
data. Read next: complete.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from ppcls_lite.config import registry
from ppcls_lite.config.check import plugins_of
from ppcls_lite.config.components import take_apart
from ppcls_lite.config.file import is_file, is_folder
from ppcls_lite.errors import ConfigError, shown

Tree = dict[str, Any]
_KEY = "Global.dataset_dir"
_LISTS = ("image_root", "cls_label_path")


class Layout(NamedTuple):
    """The names of a folder's lists and of its class names."""

    train: str
    val: str
    labels: str


LAYOUTS = (
    Layout("train.txt", "val.txt", "label.txt"),  # PaddleX, image classification
    Layout("train_list.txt", "val_list.txt", "labels.txt"),
)


def fill_in(tree: Tree) -> Tree:
    """The recipe with what `Global.dataset_dir` stands for, if it has the key; `tree` is changed.

    Raises ConfigError for a folder without such lists, or data sets that have none.
    """
    folder = _map(tree, "Global").get("dataset_dir")
    if not isinstance(folder, str):
        return tree
    layout = next((x for x in LAYOUTS if is_file(Path(folder) / x.train)), None)
    if layout is None:
        found = "there is no such list" if is_folder(folder) else "there is no such folder"
        names = " or ".join(", ".join(layout) for layout in LAYOUTS)
        raise ConfigError(
            f"{_KEY}: {shown(folder)}: {found}; expected a folder with {names}; give its path, or "
            "write the lists with `ppcls-lite prepare folder DIR`"
        )
    for split, name in (("Train", layout.train), ("Eval", layout.val)):
        _set_lists(tree, split, folder, f"{folder}/{name}")
    if "class_num" in _map(tree, "Arch"):
        tree["Arch"]["class_num"] = None  # counted in the data, and later in the weights
    infer = _map(tree, "Infer")
    if "infer_imgs" in infer:
        infer["infer_imgs"] = folder
    name, arguments = _parts(infer.get("PostProcess"))
    if "class_id_map_file" in arguments:
        labels = Path(folder) / layout.labels
        file = str(labels) if is_file(labels) else None
        infer["PostProcess"] = {"name": name, **arguments, "class_id_map_file": file}
    return tree


def _set_lists(tree: Tree, split: str, folder: str, file: str) -> None:
    section = _map(_map(tree, "DataLoader"), split)
    name, arguments = _parts(section.get("dataset"))
    entry = registry.entries(plugins_of(tree)).get(("dataset", name))
    if entry is None:
        return  # the check says what is wrong
    if not {*_LISTS} <= {argument.name for argument in entry.arguments}:
        raise ConfigError(
            f"{_KEY}: sets {' and '.join(_LISTS)}, which DataLoader.{split}.dataset, {name}, does "
            "not have: leave the key out, and give this data set its own"
        )
    section["dataset"] = {"name": name, **arguments, **dict(zip(_LISTS, (folder, file)))}


def _parts(node: Any) -> tuple[str, Tree]:
    """Name and arguments of a component; without a name where it is written as none."""
    try:
        name, arguments = take_apart(node)
    except ConfigError:
        return "", {}
    fits = isinstance(name, str) and isinstance(arguments, dict)
    return (name, arguments) if fits else ("", {})


def _map(tree: Tree, key: str) -> Tree:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}
