"""Writes scenes as images, masks, COCO's JSON and VOC's XML. Read before: scenes.py."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ppcls_lite.data.image_list import write_lines
from ppcls_lite.data.prepare.digits import DIGITS
from ppcls_lite.ops.palettes import voc_colours
from ppcls_lite.system.files import write_text


class Annotated(Protocol):
    """An image with a mask and boxes; scenes.py says the shapes."""

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    digits: np.ndarray
    areas: np.ndarray


def write_scenes(root: Path, split: str, scenes: Iterable[Annotated]) -> None:
    """Write a split below `root`.

    images/SPLIT/0000.jpg, masks/SPLIT/0000.png (palette files, whose colours are for the eye) and
    SPLIT_list.txt with `image mask` lines; instances_SPLIT.json, COCO's format;
    xml/SPLIT/0000.xml and voc_SPLIT.txt with `image xml` lines, VOC's; labels.txt, the masks'
    classes with the background, and label_list.txt, the boxes'.
    """
    for kind in ("images", "masks", "xml"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    palette = voc_colours(256).ravel().tolist()
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    names = []
    for number, scene in enumerate(scenes):
        name = f"{split}/{number:04d}"
        names.append(name)
        file = f"images/{name}.jpg"
        Image.fromarray(scene.image).save(root / file, quality=92)
        mask = Image.fromarray(scene.mask)
        mask.putpalette(palette)
        mask.save(root / "masks" / f"{name}.png")
        height, width = scene.mask.shape
        images.append({"id": number + 1, "file_name": file, "width": width, "height": height})
        for (x1, y1, x2, y2), digit, area in zip(
            scene.boxes.tolist(), scene.digits.tolist(), scene.areas.tolist(), strict=True
        ):
            boxes.append(
                {
                    **{"id": len(boxes) + 1, "image_id": number + 1, "category_id": digit + 1},
                    **{"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": 0},
                }
            )
        ElementTree.ElementTree(_xml(file, scene)).write(root / "xml" / f"{name}.xml")
    write_lines(root / f"{split}_list.txt", [f"images/{n}.jpg masks/{n}.png" for n in names])
    write_lines(root / f"voc_{split}.txt", [f"images/{n}.jpg xml/{n}.xml" for n in names])
    kinds = [{"id": i + 1, "name": name} for i, name in enumerate(DIGITS)]
    text = json.dumps({"images": images, "annotations": boxes, "categories": kinds})
    write_text(root / f"instances_{split}.json", text)
    classes = enumerate(("background", *DIGITS))
    write_lines(root / "labels.txt", [f"{i} {name}" for i, name in classes])
    write_lines(root / "label_list.txt", DIGITS)


def _xml(file: str, scene: Annotated) -> ElementTree.Element:
    """VOC's description of an image; coordinates count from 0, as the boxes do."""
    tree = ElementTree.Element("annotation")
    ElementTree.SubElement(tree, "filename").text = file
    height, width = scene.mask.shape
    _add(tree, "size", width=width, height=height, depth=3)
    for box, digit in zip(scene.boxes.tolist(), scene.digits.tolist(), strict=True):
        thing = _add(tree, "object", name=DIGITS[digit], difficult=0)
        _add(thing, "bndbox", **dict(zip(("xmin", "ymin", "xmax", "ymax"), box)))
    return tree


def _add(parent: ElementTree.Element, tag: str, **values: Any) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag)
    for name, value in values.items():
        ElementTree.SubElement(element, name).text = str(value)
    return element
