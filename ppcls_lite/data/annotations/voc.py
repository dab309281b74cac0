"""Pascal VOC: one XML file an image, and a list with lines `image xml`.

A box is [xmin, ymin, xmax, ymax] as it is written, without the pixel that VOC counts more.
Source: "The PASCAL Visual Object Classes Challenge", development kit. Read before: table.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

from ppcls_lite.config.file import is_file
from ppcls_lite.data.annotations.kept import kept
from ppcls_lite.data.annotations.table import DIFFICULT, BoxTable, Found, checked, of_classes
from ppcls_lite.data.image_list import read_lines
from ppcls_lite.errors import UserError, shown

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_ENTITY = b"<!ENTITY"  # with it a small file may stand for gigabytes


def read_voc(file: str, root: str, names: Sequence[str]) -> BoxTable:
    """The boxes of the images in a list, with paths below the folder `root`.

    Raises UserError where the list does not exist; what is wrong with single files is in the
    table's `problems`.
    """
    found = Found(file, list(names))
    xmls = []
    for number, line in read_lines(file):
        words = line.rsplit(None, 1)
        if len(words) != 2:
            found.wrong("lines are not `image xml`", f"line {number}: {shown(line, 80)}")
            continue
        found.files.append(words[0])
        xmls.append(os.path.join(root, words[1]))  # noqa: PTH118 (of many files)
    missing = [path for path in xmls if not is_file(path)]
    for path in missing:
        found.wrong("annotation files do not exist", path)
    there = [path for path in xmls if is_file(path)] if missing else xmls
    return kept("\0".join(["voc", *names]), [file, *there], lambda: _read(found, xmls))


def _read(found: Found, xmls: list[str]) -> BoxTable:
    number_of = of_classes(found.names)
    for place, path in enumerate(xmls):
        found.image_ids.append(place)
        found.sizes.append((0, 0))
        if is_file(path):
            _image(path, place, found, number_of)
    return checked(found)


def parse_xml(path: str) -> ElementTree.Element:
    """The root of an XML file; ValueError for what is none, or would grow when it is read."""
    data = Path(path).read_bytes()
    if _ENTITY in data:
        raise ValueError("declares entities")
    try:
        return ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error


def _image(path: str, place: int, found: Found, number_of: Callable[[str], int | None]) -> None:
    try:
        root = parse_xml(path)
    except (OSError, ValueError) as error:
        found.wrong("annotation files are no XML", f"{path}: {error}")
        return
    found.sizes[place] = _number(root, "size/width"), _number(root, "size/height")
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        kind = number_of(name)
        try:
            box = tuple(float(item.findtext(f"bndbox/{corner}") or "") for corner in _CORNERS)
        except ValueError:
            found.wrong("objects have no box xmin, ymin, xmax, ymax", f"{path}: {name!r}")
            continue
        if kind is None:
            found.wrong("objects have names that are not in label_file", f"{path}: {name!r}")
        else:
            difficult = _number(item, "difficult") > 0
            found.add(place, box, kind, DIFFICULT if difficult else 0)


def _number(element: ElementTree.Element, name: str) -> float:
    try:
        return float(element.findtext(name) or 0)
    except ValueError:
        return 0.0


def names_in(xmls: Sequence[str]) -> list[str]:
    """The class names that occur in XML files, sorted; files that are none are passed over."""
    names: set[str] = set()
    for path in xmls:
        try:
            objects = parse_xml(path).iter("object")
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: is no XML: {error}; repair it or move it away") from error
        names |= {(item.findtext("name") or "").strip() for item in objects}
    return sorted(names - {""})
