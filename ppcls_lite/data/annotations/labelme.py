"""LabelMe: one JSON file an image, with `shapes` that have a label and points in pixels.

Rectangles and circles give their box, outlines the box around them; points and lines have none.
Source: github.com/wkentaro/labelme, version 5. Read before: table.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ppcls_lite.data.annotations.coco import read_json
from ppcls_lite.data.annotations.kept import kept
from ppcls_lite.data.annotations.table import BoxTable, Found, checked, of_classes
from ppcls_lite.data.files import walk_files
from ppcls_lite.data.image_list import read_lines, require_folder
from ppcls_lite.errors import UserError, shown

_NO_BOX = ("point", "points", "line", "linestrip")


def read_labelme(root: str, file: str | None, names: Sequence[str] | None) -> BoxTable:
    """The boxes of the JSON files below `root`: of those in the list `file`, or of all of them.

    names: of the classes; None: those that occur, sorted. Raises UserError where there is no such
    folder or list; what is wrong with single files is in the table's `problems`.
    """
    require_folder(root)
    lines = [line for _, line in read_lines(file)] if file else json_files(root)
    paths = [os.path.join(root, line) for line in lines]  # noqa: PTH118 (of many files)
    source = file or root
    if not paths:
        raise UserError(f"{source}: there are no JSON files of LabelMe")
    there = [path for path in paths if os.path.isfile(path)]  # noqa: PTH113
    kind = "\0".join(["labelme", *(["?"] if names is None else names)])
    return kept(kind, there, lambda: _read(source, paths, names))


def json_files(root: str) -> list[str]:
    """The JSON files below a folder, as paths from there."""
    return sorted(path for path in walk_files(root) if path.lower().endswith(".json"))


def labels_in(content: Any) -> set[str]:
    """The labels of a file's content that have boxes; none where it is no file of LabelMe."""
    shapes = content.get("shapes") if isinstance(content, dict) else None
    return {
        str(shape["label"]).strip()
        for shape in shapes or ()
        if isinstance(shape, dict) and "label" in shape and shape.get("shape_type") not in _NO_BOX
    }


def _read(source: str, paths: list[str], names: Sequence[str] | None) -> BoxTable:
    found, contents = Found(source), {}
    for path in paths:
        try:
            content = read_json(path)
        except UserError as error:
            found.wrong("annotation files cannot be read", str(error))
            continue
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            contents[path] = content
        else:
            found.wrong("files are none of LabelMe: they have no `shapes`", path)
    occurring = sorted(set().union(*map(labels_in, contents.values())))
    found.names = list(occurring if names is None else names)
    number_of = of_classes(found.names)
    for path, content in contents.items():
        found.image_ids.append(len(found.files))
        found.files.append(_image(path, content))
        size = content.get("imageWidth"), content.get("imageHeight")
        found.sizes.append(tuple(v if isinstance(v, (int, float)) else 0 for v in size))
        _shapes(path, content, found, number_of)
    return checked(found)


def _image(path: str, content: dict[str, Any]) -> str:
    """The image of a JSON file: what it names, from its own folder, or else one of its name."""
    name = PureWindowsPath(str(content.get("imagePath") or "")).as_posix()
    return os.path.normpath(Path(path).parent / name)


def _shapes(
    path: str, content: dict[str, Any], found: Found, number_of: Callable[[str], int | None]
) -> None:
    place = len(found.files) - 1
    for shape in content["shapes"]:
        try:
            label, points = str(shape["label"]), np.array(shape["points"], float).reshape(-1, 2)
            kind = shape.get("shape_type") or "polygon"
            if len(points) < (1 if kind in _NO_BOX else 2):
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError):
            found.wrong("shapes have no label or no points", f"{path}: {shown(shape, 60)}")
            continue
        number = number_of(label)
        if kind in _NO_BOX:
            found.strange("shapes are points or lines, which have no box: left out", path)
        elif number is None:
            found.wrong("shapes have labels that are not in label_file", f"{path}: {label!r}")
        else:
            found.add(place, _corners(kind, points), number)


def _corners(kind: str, points: np.ndarray) -> tuple[float, ...]:
    if kind == "circle":  # its centre, and a point on it
        radius = float(np.hypot(*(points[1] - points[0])))
        points = np.stack([points[0] - radius, points[0] + radius])
    return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
