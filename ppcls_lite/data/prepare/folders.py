"""Lists for a folder with one sub-folder of images per class, or with such a folder for each split.

Read before: split.py. Read next: next_step.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ppcls_lite.data.files import class_folders, images_in, is_image_name, walk_files
from ppcls_lite.data.image_list import require_folder, some, write_lines
from ppcls_lite.data.prepare.next_step import PHOTOS, NextStep, labels_at, with_lists
from ppcls_lite.data.prepare.split import stratified_split
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError, UserError

SHOWN = 5
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test")}


def split_folders(folder: str) -> dict[str, str]:
    """The sub-folders for training and validation, of a folder that is split already; else empty.

    Each of them holds sub-folders with images, one per class: {"train": "train", "val": "valid"}.
    """
    there = {name.lower(): name for name in class_folders(folder)}
    found = {
        split: next((there[name] for name in names if name in there), None)
        for split, names in SPLITS.items()
    }
    if not all(found.values()):
        return {}
    layout = {split: name for split, name in found.items() if name is not None}
    return layout if all(class_folders(Path(folder, name)) for name in layout.values()) else {}


def prepare_folder(
    folder: str, output: str | Path | None, val: float, seed: int, check: bool
) -> NextStep:
    """Write lists for `folder`/<class>/<image>, a share `val` of each class for validation.

    Of `folder`/train/<class>/<image> and `folder`/val/<class>/<image> the lists of this split.
    UserError for no such folder, fewer than two classes, or a share that is not in [0, 1).
    """
    if not 0 <= val < 1:
        raise UserError(f"--val is {val:g}; expected a share of at least 0 and below 1, e.g. 0.2")
    require_folder(folder)
    layout = split_folders(folder)
    roots = [Path(folder, name) for name in layout.values()] or [Path(folder)]
    classes = sorted({name for root in roots for name in class_folders(root)})
    found = [_images(folder, root, classes) for root in roots]
    names = [name for part, _ in found for name in part]
    labels = [label for _, part in found for label in part]
    if len(set(labels)) < 2:
        raise UserError(
            f"{folder}: found {len(names):,} images in {len(classes)} sub-folders; expected at "
            f"least two sub-folders with images, one per class, as in {folder}/cat/1.jpg and "
            f"{folder}/dog/2.jpg"
        )
    for root in roots:
        _say_what_is_left_out(root, classes)
    if check:
        names, labels = _readable(folder, names, labels)
    kept = np.array(labels)
    counts = np.bincount(kept, minlength=len(classes))
    for name, count in zip(classes, counts):
        if count < 2:
            print(f"warning: class {name!r} has {count} images; it needs two or more to validate")
    if layout:
        in_val = np.array([name.startswith(f"{layout['val']}/") for name in names])
        untaught = set(kept[in_val]) - set(kept[~in_val])
        if untaught:
            raise UserError(
                f"{roots[1]}: {len(untaught)} classes have no images in {roots[0]}: "
                f"{some([classes[i] for i in sorted(untaught)])}; correct the folders' names"
            )
    else:
        in_val = stratified_split(kept, val, seed)
    place = Path(output or folder)
    write_split(place, [f"{n} {k}" for n, k in zip(names, labels)], in_val, classes)
    print(
        f"{len(names):,} images of {len(classes)} classes: {np.sum(~in_val):,} for training, "
        f"{np.sum(in_val):,} for validation; wrote {place / 'train_list.txt'}, val_list.txt and "
        "labels.txt there"
    )
    more = f"Arch.class_num={len(classes)}", labels_at(place)
    return with_lists(PHOTOS, folder, place, *more, own_split=bool(layout))


def write_split(
    place: Path,
    lines: Sequence[str],
    in_val: np.ndarray,
    classes: Sequence[str],
    names: Mapping[str, str] | None = None,
) -> None:
    """Write the lines for training and those for validation, (n,) bool, and the classes' names.

    names: of the files, by "train", "val" and "labels".
    """
    names = names or {"train": "train_list.txt", "val": "val_list.txt", "labels": "labels.txt"}
    place.mkdir(parents=True, exist_ok=True)
    for split, chosen in (("train", ~in_val), ("val", in_val)):
        write_lines(place / names[split], [lines[i] for i in np.flatnonzero(chosen)])
    write_lines(place / names["labels"], [f"{i} {name}" for i, name in enumerate(classes)])


def _images(folder: str, root: Path, classes: Sequence[str]) -> tuple[list[str], list[int]]:
    """The images of each class below `root`, as paths from `folder`, and their labels."""
    names, labels = [], []
    here = set(class_folders(root))
    prefix = "" if root == Path(folder) else f"{root.relative_to(folder).as_posix()}/"
    for label, name in enumerate(classes):
        images = images_in(root, name) if name in here else []
        names += [f"{prefix}{name}/{image}" for image in images]
        labels += [label] * len(images)
    return names, labels


def left_out(root: Path, classes: Sequence[str]) -> tuple[int, int]:
    """How many files of the class folders are no images, and how many images lie in no class."""
    here = [name for name in class_folders(root) if name in classes]
    files = sum(1 for name in here for _ in walk_files(root / name, hidden=True))
    others = files - sum(len(images_in(root, name)) for name in here)
    return others, sum(1 for f in root.iterdir() if f.is_file() and is_image_name(f.name))


def _say_what_is_left_out(root: Path, classes: Sequence[str]) -> None:
    others, loose = left_out(root, classes)
    if others:
        print(f"{others:,} other files in the sub-folders are left out")
    if loose:
        print(f"warning: {loose:,} images lie in {root} itself, in no class; they are left out")


def _readable(folder: str, names: list[str], labels: list[int]) -> tuple[list[str], list[int]]:
    """The images that can be decoded; prints which cannot."""

    def reason(name: str) -> str | None:
        path = str(Path(folder, name))
        try:
            decode_rgb(read_file(path), path)
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:  # decoding runs outside the interpreter's lock
        reasons = list(pool.map(reason, names))
    bad = [text for text in reasons if text is not None]
    if bad:
        more = f"\n  and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
        print(
            f"warning: {len(bad):,} unreadable images are left out:\n  "
            + "\n  ".join(bad[:SHOWN])
            + more
        )
    good = [i for i, text in enumerate(reasons) if text is None]
    return [names[i] for i in good], [labels[i] for i in good]
