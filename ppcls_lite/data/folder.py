"""A data set read directly from folders: one sub-folder of images per class, no list file.

Read before: datasets.py. Read next: files.py, prepare/folders.py (lists from folders).
"""

from __future__ import annotations

import os

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, Seed, TransformSpec
from ppcls_lite.data.datasets import LabeledDataset
from ppcls_lite.data.files import IMAGE_SUFFIXES, class_folders, images_in
from ppcls_lite.data.image_list import SHOWN, PathList, read_lines, require_folder
from ppcls_lite.data.labels import read_label_file

LEAVE_OUT = "without label_file, the folders' names are the classes"


@register("dataset")
class FolderDataset(LabeledDataset):
    """`root/<class>/<image>`; the classes are numbered in the order of their names.

    An evaluation's classes get the numbers that they have in the training set.

    Args: as ImageNetDataset, and
        label_file: class names in their order, one a line, `name` or `id name`, for an order of
            one's own or a training folder without some of them.
        split_file: the images to use, one path below `root` a line; null: all.
    """

    def __init__(
        self,
        root: str,
        transform_ops: list[TransformSpec],
        label_file: str | None = None,
        split_file: str | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        require_folder(root)
        folders = class_folders(root)
        self.class_names = read_label_file(label_file, remedy=LEAVE_OUT) if label_file else folders
        problems = _class_problems(root, folders, label_file, self.class_names, class_num)
        if split_file:
            names, wrong = _names_of_split(split_file, root, self.class_names)
            problems += wrong
        else:
            names = [
                f"{c}/{n}" for c in folders if c in self.class_names for n in images_in(root, c)
            ]
        ids = {name: i for i, name in enumerate(self.class_names)}
        labels = np.array([ids[_class_of(name)] for name in names], np.int64)
        if not names and not problems:
            problems.append(
                f"{root}: no images in its sub-folders (looked for {', '.join(IMAGE_SUFFIXES)})"
            )
        count = class_num or max(1, len(self.class_names))
        super().__init__(root, PathList(names, root), labels, transform_ops, count, seed, problems)
        self.class_keys, self.numbers_classes = self.class_names, label_file is None


def _class_of(name: str) -> str:
    return name.replace(os.sep, "/").split("/", 1)[0]


def _names_of_split(file: str, root: str, classes: list[str]) -> tuple[list[str], list[str]]:
    """The images that a split file names, and what is wrong with it."""
    names, strange = [], []
    for number, line in read_lines(file):
        if _class_of(line) in classes:
            names.append(line)
        else:
            strange.append(
                f"{file}:{number}: expected <class>/<image> below {root}, found {line!r}"
            )
    return names, strange[:SHOWN]


def _class_problems(
    root: str, folders: list[str], label_file: str | None, names: list[str], class_num: int | None
) -> list[str]:
    problems = []
    if not folders:
        problems.append(
            f"{root}: no sub-folders; expected one per class, as in {root}/cat/1.jpg (for a list "
            "file use ImageNetDataset)"
        )
    unknown = [f for f in folders if f not in names]
    if unknown:
        problems.append(
            f"{root}: {len(unknown)} sub-folders are not in {label_file}: "
            f"{', '.join(unknown[:SHOWN])}; add them there or move them away"
        )
    if class_num is not None and folders and len(names) > class_num:
        problems.append(
            f"{label_file or root}: {len(names)} classes, but Arch.class_num is {class_num}: set "
            f"it to {len(names)}"
        )
    return problems
