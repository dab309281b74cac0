"""The layout of Ultralytics' YOLO: data.yaml, folders `images` and `labels`, a text file an image.

A line is `class x y width height`, the box's centre and size as shares of the image's; a line with
more numbers is an outline `class x1 y1 x2 y2 ...`, whose box is taken. An image without a text
file has no objects. Source: docs.ultralytics.com, "Object Detection Datasets Overview".
Read before: table.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from ppcls_lite.config.file import is_file, is_folder
from ppcls_lite.config.yaml_reader import in_file, read_yaml
from ppcls_lite.data.annotations.kept import kept
from ppcls_lite.data.annotations.table import BoxTable, Found, checked
from ppcls_lite.data.files import walk_images
from ppcls_lite.data.image_list import read_lines, read_text
from ppcls_lite.errors import UserError, shown

_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # the EXIF tag, and where it exchanges the edges
_SLACK = 1e-3  # by which shares may leave 0 to 1, from rounding
_NAMES = "`names: [cat, dog]` or `names: {0: cat, 1: dog}`"


def read_yolo(file: str, split: str, root: str | None = None) -> BoxTable:
    """The boxes of the images that `split` (train, val, test) of a data.yaml names.

    root: where its paths begin; None: `path` in it, or its own folder.
    Raises UserError where the file or the split does not exist, or has no class names; what is
    wrong with single images is in the table's `problems`.
    """
    content = _content(file)
    found = Found(file, _names(content, file))
    found.files = list(_files(content, file, split, root))
    if not found.files:
        raise UserError(f"{file}: {split}: {shown(content[split])} has no images")
    labels = [label_file(image) for image in found.files]
    there = [path for path in labels if is_file(path)]
    images = [path for path in found.files if is_file(path)]
    kind = "\0".join(["yolo", split])
    return kept(kind, [file, *there, *images], lambda: _read(found, labels))


def label_file(image: str) -> str:
    """Where the boxes of an image stand: `labels` for the last `images` in its path, and .txt."""
    before, images, after = image.rpartition(f"{os.sep}images{os.sep}")
    path = f"{before}{os.sep}labels{os.sep}{after}" if images else image
    return os.path.splitext(path)[0] + ".txt"  # noqa: PTH122 (of many files)


def _content(file: str) -> dict[str, Any]:
    if not is_file(file):
        raise UserError(
            f"there is no file {shown(file)}; correct `annotation`, or look at the data set with "
            "`ppcls-lite prepare yolo <folder>`"
        )
    try:
        content = read_yaml(read_text(file))
    except yaml.YAMLError as error:
        raise UserError(in_file(file, error)) from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a map with names, train and val, found {shown(content)}")
    return content


def _names(content: dict[str, Any], file: str) -> list[str]:
    names = content.get("names")
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise UserError(f"{file}: names: its numbers are not 0 to {len(names) - 1}, each once")
        names = [name for _, name in sorted(names.items(), key=lambda item: int(item[0]))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: names: expected {_NAMES}, found {shown(names)}")
    count = content.get("nc", len(names))
    if count != len(names):
        raise UserError(f"{file}: nc is {shown(count)}, but there are {len(names)} names")
    return [str(name) for name in names]


def _files(content: dict[str, Any], file: str, split: str, given: str | None) -> Iterator[str]:
    """The images of a split: of folders, and of lists of paths."""
    if not content.get(split):
        known = ", ".join(key for key in ("train", "val", "test") if content.get(key))
        raise UserError(f"{file}: there is no {split!r}; it has {known or 'no split at all'}")
    beside = Path(file).absolute().parent
    root = Path(given).absolute() if given else beside / str(content.get("path") or "")
    if not root.is_dir() and not given:
        root = beside  # the file was written for another machine
    places = content[split] if isinstance(content[split], list) else [content[split]]
    for place in map(str, places):
        path = str(root / place)
        others = (beside / place, root / place.removeprefix("../"))  # Roboflow's, of another place
        for other in map(str, others):
            if not is_folder(path) and not is_file(path):
                path = other
        if is_folder(path):
            yield from (f"{path}{os.sep}{name}" for name in walk_images(path))
        elif is_file(path):
            for _, line in read_lines(path):
                yield str(Path(path).parent / line)
        else:
            raise UserError(
                f"{file}: {split}: there is no folder or list {shown(str(root / place))}; correct "
                "`path` or the split"
            )


def _read(found: Found, labels: list[str]) -> BoxTable:
    for place, (image, label) in enumerate(zip(found.files, labels)):
        found.image_ids.append(place)
        found.sizes.append(image_size(image))
        if is_file(label):
            _boxes(label, place, found)
    return checked(found)


def image_size(path: str) -> tuple[int, int]:
    """(width, height) of an image as it is shown, from its header; (1, 1) if it has none."""
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return image.size[::-1] if turned else image.size
    except Exception:  # for damaged bytes Pillow raises nearly anything; the loader will name it
        return 1, 1


def _boxes(label: str, place: int, found: Found) -> None:
    width, height = found.sizes[place]
    for number, line in read_lines(label):
        where = f"{label}:{number}"
        try:
            values = [float(word) for word in line.split()]
        except ValueError:
            values = []
        if len(values) < 5 or (len(values) > 5 and len(values) % 2 == 0):
            found.wrong("lines are not `class x y width height`", where)
            continue
        kind, shares = values[0], np.array(values[1:])
        if kind not in range(len(found.names)):
            text = f"lines have a class that is not in 0..{len(found.names) - 1} of names"
            found.wrong(text, f"{where}: {line.split()[0]}")
        elif not (np.isfinite(shares).all() and -_SLACK <= shares.min() <= shares.max() <= 1.001):
            text = "lines have numbers that are no shares from 0 to 1 of the image's size"
            found.wrong(text, f"{where}: {line[:60]}")
        else:
            found.add(place, _corners(shares, width, height), int(kind))


def _corners(shares: np.ndarray, width: float, height: float) -> tuple[float, ...]:
    if len(shares) == 4:
        x, y, w, h = shares
        box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    else:
        points = shares.reshape(-1, 2)
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    return tuple((box * [width, height, width, height]).tolist())
