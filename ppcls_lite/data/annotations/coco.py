"""COCO's instances file: `images`, `categories` and `annotations` with boxes [x, y, width, height].

The classes are numbered as `categories` lists them; their ids may begin anywhere and have gaps.
Source: cocodataset.org, "Data format". Read before: table.py.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.config.file import is_file
from ppcls_lite.data.annotations.kept import kept
from ppcls_lite.data.annotations.table import CROWD, DIFFICULT, BoxTable, Found, checked
from ppcls_lite.errors import UserError, shown
from ppcls_lite.system.files import write_text

_HARD = "difficult"  # of an annotation: VOC's mark, which COCO's own files do not have
_SHAPE = 'expected `{"images": [...], "categories": [...], "annotations": [...]}` as COCO has it'


def read_coco(file: str) -> BoxTable:
    """The boxes of a file; its images in the order of their ids.

    Raises UserError where the file is missing or is no such file at all; mistakes of single entries
    are in the table's `problems`.
    """
    if not is_file(file):
        raise UserError(
            f"there is no annotation file {shown(file)}; correct `annotation`, or write one with "
            "`ppcls-lite prepare coco <folder>`"
        )
    return kept("coco", [file], lambda: _read(file))


def write_coco(file: Path, images: Sequence[tuple[str, BoxTable, int]]) -> None:
    """Write an instances file that `read_coco` reads as the same boxes.

    images: of each its file name, and the table and the place there that its boxes are in; all
    tables have the same classes.
    """
    names = images[0][1].names if images else []
    rows: list[dict[str, Any]] = []
    listed = []
    for number, (name, table, place) in enumerate(images, 1):
        width, height = map(int, table.sizes[place])
        listed.append({"id": number, "file_name": name, "width": width, "height": height})
        for row in range(table.starts[place], table.starts[place + 1]):
            x1, y1, x2, y2 = map(float, table.boxes[row])
            own = {"id": len(rows) + 1, "image_id": number, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            own |= {"category_id": int(table.classes[row]) + 1, "area": float(table.areas[row])}
            flags = int(table.flags[row])
            own["iscrowd"] = int(flags & CROWD > 0)
            rows.append(own | ({_HARD: 1} if flags & DIFFICULT else {}))
    kinds = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    content = {"images": listed, "categories": kinds, "annotations": rows}
    write_text(file, json.dumps(content, ensure_ascii=False))


def _read(file: str) -> BoxTable:
    content = read_json(file)
    lists = ("images", "categories")
    if not isinstance(content, dict) or any(
        not isinstance(content.get(name), list) for name in lists
    ):
        kind = "a list (of results?)" if isinstance(content, list) else shown(content, 60)
        raise UserError(f"{file}: found {kind}; {_SHAPE}")
    found = Found(file)
    kinds = _categories(content["categories"], found)
    places = _images(content["images"], found)
    _annotations(content.get("annotations") or [], found, kinds, places)
    return checked(found)


def read_json(file: str) -> Any:
    """The content of a JSON file; UserError with the place where it ends being one."""
    try:
        with _uncollected():
            return json.loads(Path(file).read_bytes(), object_hook=_lean)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON: {error}; copy or write the file again") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error


def _lean(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what is large and has no boxes: outlines of COCO, the image itself of LabelMe."""
    entry.pop("segmentation", None)
    entry.pop("imageData", None)
    return entry


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles, which takes half of the time that a large file needs."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _categories(entries: list[Any], found: Found) -> dict[Any, int]:
    """Category id -> class number."""
    kinds: dict[Any, int] = {}
    for entry in entries:
        try:
            key, name = entry["id"], str(entry["name"])
            known = key in kinds
        except (KeyError, TypeError):
            found.wrong("categories have no id or no name", shown(entry, 60))
            continue
        if known or name in found.names:
            found.wrong("categories have the id or the name of another one", shown(name, 60))
        else:
            kinds[key] = len(found.names)
            found.names.append(name)
    return kinds


def _images(entries: list[Any], found: Found) -> dict[Any, int]:
    """Image id -> place in `found.files`."""
    known: dict[Any, tuple[str, tuple[float, float]]] = {}
    for entry in entries:
        try:
            key, name = entry["id"], entry["file_name"]
            size = float(entry.get("width") or 0), float(entry.get("height") or 0)
            if key in known:
                found.wrong("images have the id of another one", f"{shown(name)}, id {key}")
            else:
                known[key] = str(name), size
        except (KeyError, TypeError, ValueError, AttributeError):
            found.wrong("images have no id or no file_name", shown(entry, 60))
    with contextlib.suppress(TypeError):  # ids of several types keep their order
        known = {key: known[key] for key in sorted(known)}
    found.files = [name for name, _ in known.values()]
    found.sizes = [size for _, size in known.values()]
    numbers = all(type(key) is int and abs(key) < 2**63 for key in known)
    found.image_ids = list(known) if numbers else list(range(len(known)))
    return {key: place for place, key in enumerate(known)}


def _annotations(
    entries: list[Any], found: Found, kinds: dict[Any, int], places: dict[Any, int]
) -> None:
    for entry in entries:
        try:
            box, image, category = entry["bbox"], entry["image_id"], entry["category_id"]
            x, y, width, height = map(float, box)
            area = float(entry.get("area", width * height))
            crowd = bool(entry.get("iscrowd")) or bool(entry.get("ignore"))
            flags = (CROWD if crowd else 0) | (DIFFICULT if entry.get(_HARD) else 0)
            place, kind = places.get(image), kinds.get(category)
        except (KeyError, TypeError, ValueError, AttributeError):
            text = "annotations lack image_id, category_id or bbox [x, y, width, height]"
            found.wrong(text, shown(entry, 80))
            continue
        if place is None:
            found.wrong("annotations are of images that are not listed", f"image_id {image}")
        elif kind is None:
            text = "annotations are of categories that are not listed"
            found.wrong(text, f"category_id {category} of {found.files[place]}")
        else:
            corners = (x, y, x + width, y + height)
            found.add(place, corners, kind, flags, area)
