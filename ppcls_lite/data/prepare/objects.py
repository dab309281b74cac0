"""`ppcls-lite prepare coco|voc|yolo|labelme DIR`: what a training on boxes reads.

The annotations are looked through as a training does it; all mistakes come in one report.
Read before: ../annotations/table.py. Read next: next_step.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_lite.data.annotations.coco import read_coco, read_json
from ppcls_lite.data.annotations.labelme import json_files, read_labelme
from ppcls_lite.data.annotations.table import BoxTable
from ppcls_lite.data.annotations.voc import VOC_CLASSES, names_in, read_voc
from ppcls_lite.data.annotations.yolo import read_yolo
from ppcls_lite.data.files import walk_files, walk_images
from ppcls_lite.data.image_list import read_lines, require_folder, write_lines
from ppcls_lite.data.prepare.next_step import OBJECTS, NextStep, labels_at, with_data
from ppcls_lite.data.scan import missing_files
from ppcls_lite.errors import UserError, joined
from ppcls_lite.system.files import write_text

LABELS = "label_list.txt"  # of the names alone, as VOCDataset and LabelMeDataset take them
_INSTANCES = "instances_"
_MAIN = Path("ImageSets", "Main")  # where VOC keeps its splits
_RESULTS = "results"  # COCO's detections, which are no annotations


def prepare_objects(
    kind: str, folder: str, output: str | Path | None, val: float, seed: int
) -> NextStep:
    """Write what is missing for a training on `folder` there, or into the folder `output`.

    kind: coco, voc, yolo or labelme. val: the share of the images for validation, where the folder
    has no split of its own. Raises UserError for a folder without such annotations, and with all
    mistakes in them.
    """
    if not 0 < val < 1:
        raise UserError(f"--val is {val:g}; expected a share between 0 and 1, e.g. 0.2")
    require_folder(folder)
    root, place = Path(folder), Path(output or folder)
    place.mkdir(parents=True, exist_ok=True)
    sources, name, own_split = _KINDS[kind](root, place, val, np.random.default_rng(seed))
    tables = {split: read() for split, (read, _) in sources.items()}
    problems = [text for table in tables.values() for text in table.problems]
    for split, (_, arguments) in sources.items():
        below = Path(str(arguments.get("image_root") or ""))
        gone = missing_files([str(below / file) for file in tables[split].files])
        if gone:
            text = f"{split}: {len(gone):,} of {len(tables[split]):,} images do not exist"
            problems.append(f"{text}: {', '.join(gone[:3])}")
    if problems:
        head = f"{folder}: mistakes in the annotations, to be corrected first:"
        raise UserError(joined([head, *problems], "\n  "))
    for split, table in tables.items():
        for text in table.warnings:
            print(f"warning: {split}: {text}")
    names = tables["Train"].names
    write_lines(place / LABELS, names)
    for split, table in tables.items():
        empty = int((table.counts() == 0).sum())
        boxes = f"{len(table.boxes):,} boxes, {empty:,} images without"
        print(f"{split}: {len(table):,} images, {boxes}")
    print(_counts(tables))
    splits = {split: {"name": name, **arguments} for split, (_, arguments) in sources.items()}
    print(f"wrote {place / LABELS}")
    more = f"Arch.class_num={len(names)}", labels_at(place, LABELS)
    return with_data(OBJECTS, splits, *more, own_split=own_split)


Sources = dict[str, tuple[Callable[[], BoxTable], dict[str, Any]]]
Prepared = tuple[Sources, str, bool]  # its splits, the data set, whether the split is its own


def _counts(tables: dict[str, BoxTable]) -> str:
    """How many boxes each class has in each split."""
    names = tables["Train"].names
    columns = [np.bincount(t.classes, minlength=len(t.names)) for t in tables.values()]
    width = max(map(len, ["class", *names]))
    lines = [f"{'class':<{width}}" + "".join(f"  {split:>9}" for split in tables)]
    for number, name in enumerate(names[:100]):
        cells = (f"  {c[number] if number < len(c) else 0:9,}" for c in columns)
        lines.append(f"{name:<{width}}{''.join(cells)}")
    return "\n".join(lines)


def _coco(root: Path, place: Path, val: float, rng: np.random.Generator) -> Prepared:
    files = [root / f for f in walk_files(root) if f.lower().endswith(".json")]
    # COCO's own folder has key points and captions as well
    files = [file for file in files if file.name.startswith(_INSTANCES)] or files
    files = [file for file in files if _RESULTS not in file.name and _is_coco(file)]
    train = [file for file in files if "train" in file.stem]
    evaluation = [file for file in files if "val" in file.stem and file not in train]
    if not files:
        raise UserError(
            f"{root}: there is no JSON file with `images`, `annotations` and `categories`; "
            "ppcls-lite prepare voc|yolo|labelme read other annotations"
        )
    if len(files) == 1:
        train, evaluation = _split_coco(files[0], place, val, rng)
    elif len(train) != 1 or len(evaluation) != 1:
        found = ", ".join(str(file.relative_to(root)) for file in files[:10])
        raise UserError(
            f"{root}: expected one file, or one with train and one with val in its name; found "
            f"{found}: move the others away"
        )
    sources: Sources = {}
    for split, (file,) in (("Train", train), ("Eval", evaluation)):
        images = _images_of(file, root)
        arguments = {"image_root": images, "annotation": file}
        sources[split] = (lambda file=file: read_coco(str(file))), arguments
    return sources, "COCODataset", len(files) > 1


def _is_coco(file: Path) -> bool:
    with file.open("rb") as stream:  # a file of gigabytes is not read for this
        head = stream.read(2**16)
    if b'"images"' not in head and b'"annotations"' not in head and b'"info"' not in head:
        return False
    content = read_json(str(file))
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys()


def _images_of(file: Path, root: Path) -> Path:
    """The folder that an annotation file's images are in."""
    table = read_coco(str(file))
    stem = file.stem.removeprefix(_INSTANCES)
    usual = (root, root / stem, root / "images" / stem, root / "images", file.parent)
    usual += (root / "train", root / "val", root / "JPEGImages")
    for folder in usual:
        if table.files and (folder / table.files[0]).is_file():
            return folder
    first = table.files[0] if table.files else "no image"
    raise UserError(
        f"{file}: its first image, {first}, is in none of {', '.join(map(str, usual[:4]))}; move "
        "the images there"
    )


def _split_coco(
    file: Path, place: Path, val: float, rng: np.random.Generator
) -> tuple[list[Path], list[Path]]:
    """One file as two in the folder `place`."""
    content = read_json(str(file))
    ids = [image["id"] for image in content["images"] if isinstance(image, dict) and "id" in image]
    chosen = {ids[i] for i in _chosen(len(ids), val, rng)}
    paths = []
    for split in ("train", "val"):
        kept = {
            name: [
                entry
                for entry in content[name]
                if isinstance(entry, dict) and (entry.get(key) in chosen) == (split == "val")
            ]
            for name, key in (("images", "id"), ("annotations", "image_id"))
        }
        paths.append(place / f"boxes_{split}.json")
        text = json.dumps({**kept, "categories": content["categories"]})
        write_text(paths[-1], text)
    return [paths[0]], [paths[1]]


def _voc(root: Path, place: Path, val: float, rng: np.random.Generator) -> Prepared:
    images = {Path(file).stem: file for file in walk_images(root)}
    xmls = {Path(f).stem: f for f in walk_files(root) if f.lower().endswith(".xml")}
    both = sorted(images.keys() & xmls.keys())
    if not both:
        raise UserError(
            f"{root}: no image has an XML file of its name; expected JPEGImages/a.jpg and "
            "Annotations/a.xml"
        )
    stems = _voc_splits(root, both, val, rng)
    for split, its in stems.items():
        unknown = [stem for stem in its if stem not in images or stem not in xmls]
        if unknown:
            raise UserError(
                f"{root}: {len(unknown):,} names of the {split} split have no image and XML file: "
                f"{', '.join(unknown[:5])}"
            )
        write_lines(place / f"{split}_list.txt", [f"{images[s]} {xmls[s]}" for s in its])
    names = names_in([str(root / xmls[stem]) for stem in both])
    if set(names) <= set(VOC_CLASSES) and len(names) > len(VOC_CLASSES) // 2:
        names = list(VOC_CLASSES)
    labels = place / LABELS
    sources: Sources = {}
    for split, stem in (("Train", "train"), ("Eval", "val")):
        file = place / f"{stem}_list.txt"
        arguments = {"image_root": root, "annotation": file, "label_file": labels}
        read = lambda file=file: read_voc(str(file), str(root), names)  # noqa: E731
        sources[split] = read, arguments
    return sources, "VOCDataset", _has_split(root)


def _has_split(root: Path) -> bool:
    return all((root / _MAIN / f"{split}.txt").is_file() for split in ("train", "val"))


def _voc_splits(
    root: Path, both: list[str], val: float, rng: np.random.Generator
) -> dict[str, list[str]]:
    """The names of each split: of ImageSets/Main where it has them, else by chance."""
    if _has_split(root):
        files = {split: root / _MAIN / f"{split}.txt" for split in ("train", "val")}
        return {s: [line.split()[0] for _, line in read_lines(str(f))] for s, f in files.items()}
    chosen = set(_chosen(len(both), val, rng))
    return {
        "train": [stem for i, stem in enumerate(both) if i not in chosen],
        "val": [stem for i, stem in enumerate(both) if i in chosen],
    }


def _yolo(root: Path, place: Path, val: float, rng: np.random.Generator) -> Prepared:
    files = [root / file for file in walk_files(root) if file.lower().endswith((".yaml", ".yml"))]
    named = [file for file in files if file.stem == "data"] or files
    if len(named) != 1:
        found = ", ".join(str(file.relative_to(root)) for file in named[:5]) or "none"
        raise UserError(f"{root}: expected one data.yaml, found {found}")
    sources: Sources = {}
    for split, name in (("Train", "train"), ("Eval", "val")):
        arguments = {"image_root": None, "annotation": named[0], "split": name}
        sources[split] = (lambda name=name: read_yolo(str(named[0]), name)), arguments
    return sources, "YOLODataset", True


def _labelme(root: Path, place: Path, val: float, rng: np.random.Generator) -> Prepared:
    files = json_files(root)
    if not files:
        raise UserError(f"{root}: there are no JSON files of LabelMe")
    names = read_labelme(str(root), None, None).names
    chosen = set(_chosen(len(files), val, rng))
    sources: Sources = {}
    for split, stem in (("Train", "train"), ("Eval", "val")):
        file = place / f"{stem}_list.txt"
        write_lines(file, [f for i, f in enumerate(files) if (i in chosen) == (stem == "val")])
        arguments = {"image_root": root, "annotation": file, "label_file": place / LABELS}
        read = lambda file=file: read_labelme(str(root), str(file), names)  # noqa: E731
        sources[split] = read, arguments
    return sources, "LabelMeDataset", False


_KINDS: dict[str, Callable[[Path, Path, float, np.random.Generator], Prepared]] = {
    "coco": _coco,
    "voc": _voc,
    "yolo": _yolo,
    "labelme": _labelme,
}


def _chosen(count: int, val: float, rng: np.random.Generator) -> list[int]:
    """Places for validation: at least one on either side, where there are two."""
    number = min(max(round(count * val), 1), max(count - 1, 0))
    return sorted(rng.permutation(count)[:number].tolist())
