"""Lists for a folder with one sub-folder of images per class. Read before: split.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ppcls_lite.data.files import class_folders, images_in, is_image_name, walk_files
from ppcls_lite.data.image_list import require_folder, write_lines
from ppcls_lite.data.prepare.next_step import labels_at, train_command
from ppcls_lite.data.prepare.split import stratified_split
from ppcls_lite.data.transforms.image_file import decode_rgb, read_file
from ppcls_lite.errors import ImageError, UserError

SHOWN = 5


def prepare_folder(folder: str, output: str | None, val: float, seed: int, check: bool) -> None:
    """Write lists for `folder`/<class>/<image>, a share `val` of each class for validation.

    UserError for no such folder, fewer than two classes, or a share that is not in [0, 1).
    """
    if not 0 <= val < 1:
        raise UserError(f"--val is {val:g}; expected a share of at least 0 and below 1, e.g. 0.2")
    require_folder(folder)
    classes = class_folders(folder)
    names, labels, others = [], [], 0
    for label, name in enumerate(classes):
        images = images_in(folder, name)
        others += sum(1 for _ in walk_files(Path(folder, name), hidden=True)) - len(images)
        names += [f"{name}/{image}" for image in images]
        labels += [label] * len(images)
    if len(set(labels)) < 2:
        raise UserError(
            f"{folder}: found {len(names):,} images in {len(classes)} sub-folders; expected at "
            f"least two sub-folders with images, one per class, as in {folder}/cat/1.jpg and "
            f"{folder}/dog/2.jpg"
        )
    if others:
        print(f"{others:,} other files in the sub-folders are left out")
    loose = sum(1 for f in Path(folder).iterdir() if f.is_file() and is_image_name(f.name))
    if loose:
        print(f"warning: {loose:,} images lie in {folder} itself, in no class; they are left out")
    if check:
        names, labels = _readable(folder, names, labels)
    kept = np.array(labels)
    counts = np.bincount(kept, minlength=len(classes))
    for name, count in zip(classes, counts):
        if count < 2:
            print(f"warning: class {name!r} has {count} images; it needs two or more to validate")
    in_val = stratified_split(kept, val, seed)
    place = Path(output or folder)
    place.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {label}" for name, label in zip(names, labels)]
    for split, chosen in (("train", ~in_val), ("val", in_val)):
        write_lines(place / f"{split}_list.txt", [lines[i] for i in np.flatnonzero(chosen)])
    write_lines(place / "labels.txt", [f"{i} {name}" for i, name in enumerate(classes)])
    more = f"Arch.class_num={len(classes)}", labels_at(place)
    command = train_command("configs/quickstart/photos.yaml", folder, place, *more)
    print(
        f"{len(names):,} images of {len(classes)} classes: {np.sum(~in_val):,} for training, "
        f"{np.sum(in_val):,} for validation; wrote {place / 'train_list.txt'}, val_list.txt and "
        f"labels.txt there\n\nnext, for example:\n{command}"
    )


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
