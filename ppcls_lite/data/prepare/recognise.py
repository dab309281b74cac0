"""What a folder of one's own holds: images by class, masks, or boxes, and in whose files.

A layout is a row of `KINDS`: how it is recognised, by names and the beginnings of files, and how it
is prepared. Read before: folders.py, masks.py, objects.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ppcls_lite.config.dataset_dir import LAYOUTS
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.files import class_folders, is_image_name, walk_files, walk_images
from ppcls_lite.data.folder import FolderDataset
from ppcls_lite.data.image_list import read_lines, require_folder
from ppcls_lite.data.prepare.folders import prepare_folder, split_folders
from ppcls_lite.data.prepare.masks import prepare_masks
from ppcls_lite.data.prepare.next_step import PHOTOS, NextStep
from ppcls_lite.data.prepare.objects import prepare_objects
from ppcls_lite.errors import UserError

_MASKS = ("masks", "labels", "annotations", "mask", "SegmentationClass")  # beside `images`
_SPLITS = {"Train": "train", "Eval": "val"}
_HEAD = 2**16  # bytes of an annotation file

# folder, where the lists go, share for validation, seed
Prepare = Callable[[str, str, float, int], NextStep]


class Kind(NamedTuple):
    """A layout: its name (of `ppcls-lite prepare`), what it looks like, and what to do with it.

    sets: its data sets by split, "Images" where there is no split, without writing anything; None:
    those of a recipe after `prepare`.
    """

    name: str
    about: str
    fits: Callable[[Path, list[str]], bool]  # the folder, the files below it
    prepare: Prepare
    sets: Callable[[str], dict[str, ImageDataset]] | None = None


def recognise(folder: str) -> Kind:
    """The layout of a folder.

    Raises UserError where there is no such folder, no image in it, or no layout that it has.
    """
    require_folder(folder)
    root = Path(folder)
    files = list(walk_files(root))
    kind = next((kind for kind in KINDS if kind.fits(root, files)), None)
    if kind is not None:
        return kind
    images = sum(1 for file in files if is_image_name(file))
    loose = sum(1 for file in files if is_image_name(file) and "/" not in file)
    folders = len({file.split("/", 1)[0] for file in files if "/" in file and is_image_name(file)})
    found = "no images"
    if images:
        found = f"{images:,} images, in {folders} sub-folders and {loose:,} beside them"
    expected = "\n  ".join(f"{kind.about} (prepare {kind.name})" for kind in KINDS)
    raise UserError(
        f"{folder}: found {found}, and nothing that says what is on them; expected one of\n  "
        f"{expected}"
    )


def _has_lists(root: Path, files: list[str]) -> bool:
    """Whether there are lists of images and class numbers, for training and validation."""
    layout = next((x for x in LAYOUTS if x.train in files and x.val in files), None)
    if layout is None:
        return False
    lines = read_lines(str(root / layout.train))
    return bool(lines) and lines[0][1].rpartition(" ")[2].isdecimal()


def _with_lists(folder: str, output: str | Path, val: float, seed: int) -> NextStep:
    return NextStep(PHOTOS, (f"Global.dataset_dir={folder}",))


def _has_classes(root: Path, files: list[str]) -> bool:
    """Whether two sub-folders, or those of a sub-folder for training, hold images."""
    tops = {file.split("/", 1)[0] for file in files if "/" in file and is_image_name(file)}
    below = (root / name for name in tops)
    return len(tops) > 1 or any(len(class_folders(folder)) > 1 for folder in below)


def _holds(suffix: str, *marks: bytes) -> Callable[[Path, list[str]], bool]:
    """Whether a file's name ends in `suffix`, and its beginning has all `marks` (expressions)."""

    def fits(root: Path, files: list[str]) -> bool:
        named = [file for file in files if file.lower().endswith(suffix)][:20]
        heads = [_head(root / file) for file in named]
        return any(all(re.search(m, head, re.M) for m in marks) for head in heads)

    return fits


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_HEAD)
    except OSError:
        return b""


def _mask_folder(root: Path) -> str | None:
    """What the folder of masks beside `images` is called; None where there is none."""
    return next((name for name in _MASKS if _has_image(root / name)), None)


def _has_masks(root: Path, files: list[str]) -> bool:
    return _has_image(root / "images") and _mask_folder(root) is not None


def _has_image(folder: Path) -> bool:
    return folder.is_dir() and next(walk_images(folder), None) is not None


def _with_masks(folder: str, output: str | Path, val: float, seed: int) -> NextStep:
    masks = _mask_folder(Path(folder)) or _MASKS[0]
    return prepare_masks(folder, "images", masks, val, seed, None, None, output)


def _class_folders(folder: str) -> dict[str, ImageDataset]:
    layout = split_folders(folder)
    roots = {split: Path(folder, layout[name]) for split, name in _SPLITS.items() if layout}
    found = {
        split: FolderDataset(str(root), [])
        for split, root in (roots or {"Images": Path(folder)}).items()
    }
    if "Eval" in found:
        found["Eval"].number_as(found["Train"])
    return found


def _boxes(kind: str) -> Prepare:
    return lambda folder, output, val, seed: prepare_objects(kind, folder, output, val, seed)


KINDS = (
    Kind(
        *("folder", "train_list.txt and val_list.txt with lines `path 7`", _has_lists, _with_lists)
    ),
    Kind("labelme", "boxes of LabelMe", _holds(".json", rb'"shapes"\s*:'), _boxes("labelme")),
    Kind(
        "coco",
        "boxes in COCO's JSON",
        _holds(".json", rb'"(images|annotations)"\s*:\s*\['),
        _boxes("coco"),
    ),
    Kind("voc", "boxes in VOC's XML", _holds(".xml", rb"<annotation"), _boxes("voc")),
    Kind(
        "yolo",
        "boxes as YOLO has them, with a data.yaml",
        _holds(".yaml", rb"^names\s*:", rb"^train\s*:"),
        _boxes("yolo"),
    ),
    Kind(
        "masks",
        "images/a.jpg with masks/a.png",
        _has_masks,
        _with_masks,
    ),
    Kind(
        "folder",
        "one sub-folder of images per class, as cat/1.jpg and dog/2.jpg",
        _has_classes,
        lambda folder, output, val, seed: prepare_folder(folder, output, val, seed, check=True),
        _class_folders,
    ),
)
