"""Data sets of object detection: COCO, VOC, YOLO and LabelMe annotations.

A batch has `boxes` (N, rows, 4) float32, x1 y1 x2 y2 in pixels of the network's input, `classes`
(N, rows) int64 and `count` (N,), what is behind them -1. An evaluation's has also what a score
needs: the way back to the photograph, and the objects as they are annotated there.
Read before: dataset_base.py, annotations/table.py. Read next: transforms/geometry.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PositiveInt, Probability, Seed, TransformSpec
from ppcls_lite.data.annotations.coco import read_coco, write_coco
from ppcls_lite.data.annotations.labelme import read_labelme
from ppcls_lite.data.annotations.table import CROWD, DIFFICULT, BoxTable
from ppcls_lite.data.annotations.voc import VOC_CLASSES, read_voc
from ppcls_lite.data.annotations.yolo import read_yolo
from ppcls_lite.data.box_pictures import draw_boxes
from ppcls_lite.data.dataset_base import ImageDataset, filled_up
from ppcls_lite.data.image_list import PathList, require_folder, some
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import ImageError

SMALL, MANY = 8, 0.25  # pixels of an object's edge, and the share of small ones worth a warning
_NAMES = "leave out label_file"


class BoxDataset(ImageDataset):
    """Images and the boxes of a table.

    What an evaluation's batches have besides: `image_id` (N,), `original` (N, 2) height and width
    of the photograph, `source` (N, 2, 3) as in geometry.Meta, and in rows of `truth` (N, rows, 4)
    pixels of the photograph, `truth_classes`, `truth_areas`, `truth_crowd` and `truth_difficult`.
    Crowds are objects that nobody counted: they are neither trained nor scored.

    Args:
        allow_empty: keep the images without boxes, as pictures on which nothing is to be found.
        empty_ratio: which share of all images these may be; the others are left out by chance.
        sample_num: the first so many images only; null: all.
        rows: of a batch; null: as many as the image with the most boxes has.
    """

    batch_keys = ("image", "boxes", "classes", "count")
    counted = "boxes"

    def __init__(
        self,
        source: str,
        table: BoxTable,
        root: str,
        transform_ops: list[Any],
        class_num: int | None,
        seed: int,
        allow_empty: bool,
        empty_ratio: float,
        sample_num: int | None,
        rows: int | None,
    ) -> None:
        problems, warnings = list(table.problems), list(table.warnings)
        table = table.images(np.arange(min(sample_num or len(table), len(table))))
        table, note = _without_empty(table, empty_ratio if allow_empty else 0.0, seed)
        names = table.names
        if class_num is not None and len(names) > class_num:
            problems.append(
                f"{source}: {len(names)} classes ({some(names)}), but Arch.class_num is "
                f"{class_num}: set it to {len(names)}"
            )
        if not len(table):
            problems.append(f"{source}: there are no images to use")
        count = class_num or max(1, len(names))
        paths = PathList(table.files, root)
        super().__init__(source, paths, transform_ops, count, seed, problems)
        self.table = dataclasses.replace(table, files=[])  # workers share no list of texts
        self.warnings = [*warnings, *note]
        self.class_keys, self.numbers_classes = names, True
        most = int(table.counts().max(initial=0))
        self.rows = max(1, most)
        trained = rows or max(1, int(table.counts(table.flags & CROWD == 0).max(initial=0)))
        self.fixed_rows = {"boxes": trained, "classes": trained}
        if rows is not None and most > rows:
            self.problems.append(
                f"{source}: an image has {most} boxes, but `rows` is {rows}: leave it out"
            )
        self.scores = False

    def without_chance(self) -> None:
        super().without_chance()
        if not self.scores:
            self.scores = True
            truth = ("", "_classes", "_areas", "_crowd", "_difficult")
            keys = ("image_id", "original", "source", *(f"truth{name}" for name in truth))
            self.batch_keys = (*self.batch_keys, *keys)

    def annotate(self, index: int) -> dict[str, Any]:
        table = self.table
        its = slice(table.starts[index], table.starts[index + 1])
        boxes, classes, flags = table.boxes[its], table.classes[its], table.flags[its]
        trained = flags & CROWD == 0
        known = {"boxes": boxes[trained], "classes": classes[trained], "meta": Meta()}
        known["stated_size"] = table.sizes[index]
        if self.scores:
            truth = {
                "truth": boxes,
                "truth_classes": classes,
                "truth_areas": table.areas[its],
                "truth_crowd": (flags & CROWD > 0).astype(np.int64),
                "truth_difficult": (flags & DIFFICULT > 0).astype(np.int64),
            }
            known |= {name: filled_up(values, self.rows) for name, values in truth.items()}
            known["image_id"] = table.image_ids[index]
        return known

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        meta, (width, height) = sample["meta"], sample["stated_size"]
        if width != height and (width, height) == (meta.height, meta.width):
            raise ImageError(
                f"{sample['path']}: the annotations are of an image of {width}x{height} pixels, "
                f"but it is shown turned, {meta.width}x{meta.height} (EXIF orientation): the boxes "
                "would be elsewhere. Store it as it is shown, or annotate it anew"
            )
        sample["original"] = np.array([meta.height, meta.width])
        sample["source"] = meta.source
        seen = (sample["boxes"][:, 2:] > sample["boxes"][:, :2]).all(axis=1)
        sample["boxes"], sample["classes"] = sample["boxes"][seen], sample["classes"][seen]
        return super().finish(sample)

    def write_list(
        self, images: Sequence[tuple[ImageDataset, int]], root: Path, file: Path
    ) -> dict[str, Any]:
        json_file = file.with_suffix(".json")
        parts = [(Path(d.paths[i]).relative_to(root).as_posix(), d.table, i) for d, i in images]
        write_coco(json_file, parts)
        return {"name": "COCODataset", "image_root": str(root), "annotation": str(json_file)}

    def counts(self) -> np.ndarray:
        known = self.table.classes[self.table.classes >= 0]
        return np.bincount(known, minlength=len(self.table.names))

    def draw(self, image: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
        kinds = known["classes"][: int(known["count"])].tolist()
        names = self.table.names
        texts = [names[kind] if kind < len(names) else str(kind) for kind in kinds]
        return draw_boxes(image, known["boxes"][: len(kinds)].tolist(), kinds, texts)

    def number_as(self, train: ImageDataset) -> None:
        theirs = train.class_keys
        if theirs is None or list(theirs) == list(self.table.names):
            return
        numbers = {name: i for i, name in enumerate(theirs)}
        used = [self.table.names[i] for i in np.unique(self.table.classes)]
        unknown = [name for name in used if name not in numbers]
        if unknown:
            self.problems.append(
                f"{self.source}: {len(unknown):,} classes are not in the training set "
                f"{train.source}: {some(unknown)}; it has {some(theirs)}. Correct the names, or "
                "leave these boxes out"
            )
        table = np.array([numbers.get(name, -1) for name in self.table.names], np.int64)
        self.table.classes = table[self.table.classes]
        self.table.names = list(theirs)
        self.class_keys = theirs

    def digests(self) -> dict[str, str]:
        arrays = (self.table.starts, self.table.boxes, self.table.classes, self.table.flags)
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays))
        return super().digests() | {"boxes": digest.hexdigest()}

    def gaps(self) -> list[str]:
        found = []
        trained = self.table.classes[self.table.flags & CROWD == 0]
        names = self.table.names
        unseen = np.setdiff1d(np.arange(len(names)), trained)
        if len(unseen):
            missing = some([names[i] for i in unseen])
            found.append(f"{len(unseen):,} of {len(names):,} classes have no box: {missing}")
        if self.class_num > len(names):
            found.append(
                f"{len(names):,} classes, but Arch.class_num is {self.class_num:,}: the others are "
                "never learnt"
            )
        return found

    def imbalance(self) -> list[str]:
        """Objects that are too small for a network once the image is resized."""
        sizes = [op.size for op in self.transforms.ops if getattr(op, "follows_size", False)]
        known = (self.table.sizes > 0).all(axis=1)  # (n,)
        if not sizes or sizes[-1] is None or not known.any() or not len(self.table.boxes):
            return []
        scale = np.array(sizes[-1]) / np.maximum(self.table.sizes, 1)  # (n, 2)
        scale = np.where(known[:, None], scale, np.inf)
        boxes = self.table.boxes
        edges = (boxes[:, 2:] - boxes[:, :2]) * np.repeat(scale, self.table.counts(), axis=0)
        share = float((edges < SMALL).any(axis=1).mean())
        if share < MANY:
            return []
        width, height = sizes[-1]
        return [
            f"{share:.0%} of the boxes are narrower or lower than {SMALL} pixels once an image has "
            f"{width}x{height}: such objects are mostly missed. Train and predict with a larger "
            "size, or cut the images into parts"
        ]


def _without_empty(table: BoxTable, ratio: float, seed: int) -> tuple[BoxTable, list[str]]:
    """The table with at most that share of images without trained boxes, and what was done."""
    empty = np.flatnonzero(table.counts(table.flags & CROWD == 0) == 0)
    if not len(empty):
        return table, []
    full = len(table) - len(empty)
    room = len(empty) if ratio >= 1 else min(int(full * ratio / (1 - ratio)), len(empty))
    gone = np.random.default_rng((seed, 0, 0, 0, 5)).permutation(empty)[room:]
    text = f"{len(empty):,} of {len(table):,} images have no boxes: "
    if not len(gone):
        return table, [f"{text}kept, nothing is to be found there (or set allow_empty: false)"]
    kept = np.setdiff1d(np.arange(len(table)), gone)
    return table.images(kept), [f"{text}{room:,} kept, {len(gone):,} left out"]


@register("dataset", aliases=("COCODataSet",))
class COCODataset(BoxDataset):
    """COCO's instances file. The classes are numbered as it lists its categories.

    An evaluation's classes get the numbers that the training set gives to their names.

    Args: as BoxDataset, and
        image_root: the folder of the images.
        annotation: the JSON file.
    """

    def __init__(
        self,
        image_root: str,
        annotation: str,
        transform_ops: list[TransformSpec],
        allow_empty: bool = True,
        empty_ratio: Probability = 1.0,
        sample_num: PositiveInt | None = None,
        rows: PositiveInt | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        table = read_coco(annotation)
        require_folder(image_root)
        limits = (allow_empty, empty_ratio, sample_num, rows)
        super().__init__(annotation, table, image_root, transform_ops, class_num, seed, *limits)


@register("dataset", aliases=("VOCDataSet",))
class VOCDataset(BoxDataset):
    """Pascal VOC: a list with lines `image xml`, both below `image_root`.

    Args: as COCODataset, and
        annotation: the list.
        label_file: class names in their order, one a line; null: VOC's own twenty.
    """

    def __init__(
        self,
        image_root: str,
        annotation: str,
        transform_ops: list[TransformSpec],
        label_file: str | None = None,
        allow_empty: bool = True,
        empty_ratio: Probability = 1.0,
        sample_num: PositiveInt | None = None,
        rows: PositiveInt | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        names = read_label_file(label_file, remedy=_NAMES) if label_file else VOC_CLASSES
        require_folder(image_root)
        table = read_voc(annotation, image_root, names)
        limits = (allow_empty, empty_ratio, sample_num, rows)
        super().__init__(annotation, table, image_root, transform_ops, class_num, seed, *limits)


@register("dataset")
class YOLODataset(BoxDataset):
    """The layout of Ultralytics' YOLO, whose data.yaml says where the images are.

    Args: as COCODataset, and
        annotation: the data.yaml.
        split: which of its splits.
        image_root: where its paths begin; null: where it says, or its own folder.
    """

    def __init__(
        self,
        annotation: str,
        transform_ops: list[TransformSpec],
        split: Literal["train", "val", "test"] = "train",
        image_root: str | None = None,
        allow_empty: bool = True,
        empty_ratio: Probability = 1.0,
        sample_num: PositiveInt | None = None,
        rows: PositiveInt | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        table = read_yolo(annotation, split, image_root)
        limits = (allow_empty, empty_ratio, sample_num, rows)
        source = f"{annotation} ({split})"
        super().__init__(source, table, "", transform_ops, class_num, seed, *limits)


@register("dataset")
class LabelMeDataset(BoxDataset):
    """LabelMe's JSON files, one an image.

    Args: as COCODataset, and
        image_root: the folder of the JSON files, which say where their images are.
        annotation: a list of JSON files below it, one a line; null: all.
        label_file: class names in their order, one a line; null: those that occur, sorted.
    """

    def __init__(
        self,
        image_root: str,
        transform_ops: list[TransformSpec],
        annotation: str | None = None,
        label_file: str | None = None,
        allow_empty: bool = True,
        empty_ratio: Probability = 1.0,
        sample_num: PositiveInt | None = None,
        rows: PositiveInt | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        names = read_label_file(label_file, remedy=_NAMES) if label_file else None
        table = read_labelme(image_root, annotation, names)
        limits = (allow_empty, empty_ratio, sample_num, rows)
        source = annotation or image_root
        super().__init__(source, table, "", transform_ops, class_num, seed, *limits)
