"""Objects in the files that other tools read: COCO's results, and YOLO's labels.

`predict --save coco FILE [ANNOTATION]`, `predict --save yolo DIR`. Boxes are in the photograph's
pixels (COCO) or shares of its edges (YOLO). Read before: base.py (`forms`), detect.py.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_lite.errors import UserError
from ppcls_lite.inference.output_names import OutputNames
from ppcls_lite.inference.postprocess.base import Result, Write
from ppcls_lite.system.files import atomic_text, write_text


@contextlib.contextmanager
def coco_results(
    labels: Sequence[str] | None, images: Sequence[Path], arguments: Sequence[str]
) -> Iterator[Write]:
    """One JSON list of `image_id`, `category_id`, `bbox` (x, y, width, height), `score`.

    arguments: the file, and the annotations (COCO's JSON) whose ids it takes by file and class
    names. Without these an image's id is the number that it is called, where all are, or else its
    place; a class's its place: both from 1. `file_name` is beside them. The file is there when all
    is written.
    """
    if len(arguments) not in (1, 2):
        raise UserError("--save coco: expected FILE.json and at most the JSON of the annotations")
    path = Path(arguments[0])
    if path.suffix.lower() != ".json":
        raise UserError(f"--save coco {path}: expected a name that ends in .json")
    named = OutputNames(images)
    if len(arguments) == 2:
        image_ids, classes = _ids_in(Path(arguments[1]), labels, named, images)
    else:
        image_ids, classes = _plain_ids(images), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_text(path) as file:
            begin = "["

            def write(result: Result) -> None:
                nonlocal begin
                for entry in _entries(result, image_ids, classes, named):
                    file.write(f"{begin}\n{json.dumps(entry)}")
                    begin = ","

            yield write
            file.write("[]\n" if begin == "[" else "\n]\n")
    except OSError as error:
        raise UserError(f"--save coco {path}: cannot be written: {error.strerror}") from error


def _entries(
    result: Result, image_ids: dict[str, int], classes: list[int] | None, named: OutputNames
) -> Iterator[dict[str, Any]]:
    items = zip(result["class_ids"], result["scores"], result["boxes"], strict=True)
    for kind, score, (left, top, right, bottom) in items:
        yield {
            "image_id": image_ids[str(result["file"])],
            "category_id": classes[kind] if classes else kind + 1,
            "bbox": [left, top, round(right - left, 2), round(bottom - top, 2)],
            "score": score,
            "file_name": named.name(result["file"]).as_posix(),
        }


def _plain_ids(images: Sequence[Path]) -> dict[str, int]:
    stems = {str(image): image.stem for image in images}
    numbers = [int(stem) for stem in stems.values() if stem.isdecimal() and len(stem) < 19]
    if len({*numbers}) == len(stems):
        return dict(zip(stems, numbers, strict=True))
    return {file: place for place, file in enumerate(stems, start=1)}


def _ids_in(
    annotation: Path, labels: Sequence[str] | None, named: OutputNames, images: Sequence[Path]
) -> tuple[dict[str, int], list[int]]:
    """The ids of images, by their paths, and of classes, in the network's order."""
    where = f"--save coco: {annotation}"
    try:
        tree = json.loads(annotation.read_text(encoding="utf-8"))
        files = {str(item["file_name"]): int(item["id"]) for item in tree["images"]}
        categories = {str(item["name"]): int(item["id"]) for item in tree["categories"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: expected COCO's annotations as JSON: {error}") from error
    if labels is None:
        raise UserError(f"{where}: the network's classes have no names: set label_list (--set)")
    missing = [name for name in labels if name not in categories]
    if missing:
        raise UserError(f"{where}: has no category {missing[0]!r}, which the network answers")
    short = Counter(Path(file).name for file in files)
    by_name = {Path(f).name: number for f, number in files.items() if short[Path(f).name] == 1}
    found = {}
    for image in images:
        number = files.get(named.name(image).as_posix(), by_name.get(image.name))
        if number is None:
            raise UserError(f"{where}: names no image {image.name}, or several; leave it out")
        found[str(image)] = number
    return found, [categories[name] for name in labels]


@contextlib.contextmanager
def yolo_labels(
    labels: Sequence[str] | None, images: Sequence[Path], arguments: Sequence[str]
) -> Iterator[Write]:
    """A text file an image, with a line `class x y width height score` for each object.

    Places are those of the boxes' centres, and all lengths are shares of the image's edges. An
    image without objects has an empty file, an unreadable one none. arguments: the folder.
    """
    if len(arguments) != 1:
        raise UserError("--save yolo: expected one folder")
    folder, named = Path(arguments[0]), OutputNames(images)
    named.require_other(folder)

    def write(result: Result) -> None:
        path = folder / f"{named.stem(result['file'])}.txt"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, "".join(_lines(result)))
        except OSError as error:
            raise UserError(f"--save yolo {path}: cannot be written: {error.strerror}") from error

    yield write


def _lines(result: Result) -> Iterator[str]:
    height, width = result["size"]
    items = zip(result["class_ids"], result["scores"], result["boxes"], strict=True)
    for kind, score, (left, top, right, bottom) in items:
        place = (left + right) / 2 / width, (top + bottom) / 2 / height
        size = (right - left) / width, (bottom - top) / height
        yield f"{kind} {' '.join(f'{number:.6f}' for number in (*place, *size))} {score}\n"
