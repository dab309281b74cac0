"""Data sets for segmentation: images, and masks that say the class of each pixel.

A batch has `mask` (N, H, W) uint8, 255 where a pixel counts nowhere; what the files call ignored
becomes 255. An evaluation's has the way back to the photograph as well. Layouts are those of
PaddleSeg's data sets.
Read before: dataset_base.py, mask_file.py, mask_rules.py, mask_pairs.py.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, Level, Seed, TransformSpec
from ppcls_lite.data.annotations.voc import VOC_CLASSES
from ppcls_lite.data.dataset_base import ImageDataset, digest_of
from ppcls_lite.data.findings import Findings
from ppcls_lite.data.image_list import PathList, read_image_list, write_lines
from ppcls_lite.data.labels import read_label_file
from ppcls_lite.data.mask_census import AT_START, take_census
from ppcls_lite.data.mask_doctor import diagnose
from ppcls_lite.data.mask_file import Palette, read_mask, read_palette
from ppcls_lite.data.mask_pairs import Pairs, ends_with, pair, read_keys
from ppcls_lite.data.mask_rules import MaskRules
from ppcls_lite.data.mask_shares import Masks
from ppcls_lite.data.transforms.geometry import Meta
from ppcls_lite.errors import UserError
from ppcls_lite.ops.palettes import colours_of, over, voc_colours

# labelId -> trainId of Cityscapes' 19 classes (its scripts' table of labels); the others count
# nowhere.
CITYSCAPES_TRAIN_IDS = {
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9},
    **{23: 10, 24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}
CITYSCAPES_LABELS = "cityscapes_label_list.txt"  # which comes with the package
VOC_NAMES = ("background", *VOC_CLASSES)


class MaskDataset(ImageDataset):
    """Images with a mask file each, read by `rules`.

    What an evaluation's batches have besides: `original` (N, 2), height and width of the
    photograph, and `source` (N, 2, 3) as in geometry.Meta.

    names: of the classes, if they are known.
    """

    batch_keys = ("image", "mask")
    default_metrics = ("MaskPictures",)
    closer_metrics = ("MaskAnswers",)
    by_list = False  # whether a list file may say which images and masks it has

    def __init__(
        self,
        source: str,
        pairs: Pairs,
        transform_ops: list[Any],
        rules: MaskRules,
        seed: int,
        names: Sequence[str] | None = None,
    ) -> None:
        count = rules.class_num
        super().__init__(source, pairs.paths, transform_ops, count, seed, pairs.problems)
        self.masks, self.rules, self.warnings = pairs.masks, rules, pairs.notes
        if names is not None and count is not None and len(names) < count:
            self.problems.append(
                f"{source}: {len(names)} classes have names, but Arch.class_num is {count}"
            )
        self.class_keys = list(names[:count]) if names is not None else None
        self.scores = False

    def without_chance(self) -> None:
        super().without_chance()
        if not self.scores:
            self.scores = True
            self.batch_keys = (*self.batch_keys, "original", "source")

    def annotate(self, index: int) -> dict[str, Any]:
        found = read_mask(self.masks[index])
        mask = self.rules.classes(found, self.masks[index])  # (H, W)
        mask = self.rules.upright(found, mask, self.paths[index])
        return {"mask": mask, **({"meta": Meta()} if self.scores else {})}

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.scores:
            meta = sample["meta"]
            sample["original"] = np.array([meta.height, meta.width])
            sample["source"] = meta.source
        return super().finish(sample)

    def files(self) -> list[str]:
        return [*self.paths, *self.masks]

    def draw(self, image: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
        colours = colours_of("auto", self.class_keys)
        return over(image, known["mask"].astype(np.uint8), colours, 0.5)

    def digests(self) -> dict[str, str]:
        meaning = hashlib.sha256(self.rules.table.tobytes()).hexdigest()
        return super().digests() | {"masks": digest_of(self.masks), "classes in masks": meaning}

    def write_list(
        self, images: Sequence[tuple[ImageDataset, int]], root: Path, file: Path
    ) -> dict[str, Any]:
        if not self.by_list:
            return super().write_list(images, root, file)
        list_file = file.with_suffix(".txt")
        base = Path(os.path.commonpath([root, *(Path(d.masks[i]).parent for d, i in images)]))
        both = ((data.paths[i], data.masks[i]) for data, i in images)
        write_lines(
            list_file,
            ("\t".join(Path(p).relative_to(base).as_posix() for p in pair) for pair in both),
        )
        means = {"image_root": str(base), "list_path": str(list_file), "separator": "\t"}
        return {"name": "SegDataset", **means}

    def inspect(self, thorough: bool = False) -> Findings:
        if not len(self.masks):
            return Findings()
        limit = None if thorough else AT_START
        census = take_census(self.paths, self.masks, self.rules.palette, limit)
        return diagnose(Masks(self.masks, self.rules, self.class_keys), census)


@register("dataset")
class SegDataset(MaskDataset):
    """Images and masks from a list file, or from two folders in which they have the same names.

    Args:
        image_root: the folder that all paths start from.
        list_path: lines `image mask`; null: all images of `image_dir` with the masks of `mask_dir`
            that have the same name up to the suffix.
        separator: between the two paths of a line; null: the last space or tab.
        split_file: without a list: the images to use, one a line, with or without suffix.
        ignore_index: the number, or numbers, in the masks that count nowhere.
        label_map: {number in the mask: class, or 255}. `{255: 1}` reads masks of 0 and 255 as
            background and foreground; `{7: 0, 8: 1, other: 255}` picks two classes.
        reduce_zero_label: 0 counts nowhere, and 1, 2, ... are the classes 0, 1, ...
        palette: for masks of colours: a text file with a line `r g b name` for each class, or voc.
        label_file: class names, one a line, `name` or `id name`.
        mask_pixels: whether masks lie on an image's pixels as they are stored, or upright, as EXIF
            turns them; auto: as the mask's size says, stored where it says nothing.
        class_num: number of classes; null: as many as `label_file` or the palette names.
    """

    by_list = True

    def __init__(
        self,
        image_root: str,
        transform_ops: list[TransformSpec],
        list_path: str | None = None,
        separator: str | None = None,
        image_dir: str = "images",
        mask_dir: str = "masks",
        split_file: str | None = None,
        ignore_index: Level | list[Level] = 255,
        label_map: dict[str, Level] | None = None,
        reduce_zero_label: bool = False,
        palette: str | None = None,
        label_file: str | None = None,
        mask_pixels: Literal["auto", "stored", "upright"] = "auto",
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        if list_path is not None:
            if split_file is not None:
                raise UserError("SegDataset: give list_path or split_file, not both")
            pairs, source = _listed(list_path, image_root, separator), list_path
        else:
            folders = str(Path(image_root, image_dir)), str(Path(image_root, mask_dir))
            only = None if split_file is None else read_keys(split_file)
            pairs, source = pair(*folders, only=only), image_root
        colours = _palette(palette)
        names = colours.names if colours else None
        if label_file:
            names = read_label_file(label_file, remedy="without label_file, classes are numbers")
        if names and not label_map and not reduce_zero_label:
            known = [ignore_index] if isinstance(ignore_index, int) else ignore_index
            while names and len(names) - 1 in known:  # `11 unlabelled` is no class
                names = names[:-1]
        count = class_num or (len(names) if names else None)
        rules = MaskRules(count, ignore_index, label_map, reduce_zero_label, colours, mask_pixels)
        super().__init__(source, pairs, transform_ops, rules, seed, names)


@register("dataset")
class CityscapesDataset(MaskDataset):
    """Cityscapes as its archives unpack: leftImg8bit/SPLIT/CITY/*.png, gtFine/SPLIT/CITY/*.png.

    Args:
        image_root: the folder that holds leftImg8bit and gtFine.
        split: train or val.
        labels: which masks; labelIds are read as trainIds by Cityscapes's own table.
    """

    def __init__(
        self,
        image_root: str,
        transform_ops: list[TransformSpec],
        split: Literal["train", "val", "test"] = "train",
        labels: Literal["trainIds", "labelIds"] = "trainIds",
        class_num: ClassCount | None = 19,
        seed: Seed = 0,
    ) -> None:
        _require_count(class_num, 19, "Cityscapes")
        folders = (str(Path(image_root, part, split)) for part in ("leftImg8bit", "gtFine"))
        ending = "TrainIds" if labels == "trainIds" else "Ids"
        keys = ends_with("_leftImg8bit.png"), ends_with(f"_gtFine_label{ending}.png")
        pairs = pair(*folders, *keys)
        if pairs.problems and not len(pairs.masks) and labels == "trainIds":
            pairs.problems.append(
                f"{image_root}: no file ends in _gtFine_labelTrainIds.png: make them with "
                f"`ppcls-lite prepare cityscapes {image_root}`, or set dataset.labels: labelIds"
            )
        table = None if labels == "trainIds" else {**CITYSCAPES_TRAIN_IDS, "other": 255}
        rules = MaskRules(19, label_map=table)
        names = read_label_file(CITYSCAPES_LABELS)
        super().__init__(image_root, pairs, transform_ops, rules, seed, names)


@register("dataset")
class VOCSegDataset(MaskDataset):
    """PASCAL VOC 2012's segmentation: 21 classes, 0 the background; edges (255) count nowhere.

    Args:
        image_root: the folder that holds JPEGImages, SegmentationClass and ImageSets.
        split: train, val, trainval; trainaug is train and aug.txt with SegmentationClassAug.
    """

    def __init__(
        self,
        image_root: str,
        transform_ops: list[TransformSpec],
        split: Literal["train", "val", "trainval", "trainaug"] = "train",
        class_num: ClassCount | None = 21,
        seed: Seed = 0,
    ) -> None:
        _require_count(class_num, 21, "PASCAL VOC")
        lists = Path(image_root, "ImageSets", "Segmentation")
        folders = {"train": "SegmentationClass"}
        if split == "trainaug":
            folders["aug"] = "SegmentationClassAug"
        else:
            folders = {split: "SegmentationClass"}
        parts = [
            pair(
                str(Path(image_root, "JPEGImages")),
                str(Path(image_root, folder)),
                only=read_keys(lists / f"{name}.txt"),
            )
            for name, folder in folders.items()
        ]
        super().__init__(image_root, _joined(parts), transform_ops, MaskRules(21), seed, VOC_NAMES)


@register("dataset")
class ADE20KDataset(MaskDataset):
    """ADE20K's scene parsing: 150 classes; 0 in the files counts nowhere, and 1 is class 0.

    Args:
        image_root: the folder that holds images and annotations.
        split: train (the folder training) or val (validation).
        label_file: class names, one a line.
    """

    def __init__(
        self,
        image_root: str,
        transform_ops: list[TransformSpec],
        split: Literal["train", "val"] = "train",
        label_file: str | None = None,
        class_num: ClassCount | None = 150,
        seed: Seed = 0,
    ) -> None:
        _require_count(class_num, 150, "ADE20K")
        part = {"train": "training", "val": "validation"}[split]
        pairs = pair(*(str(Path(image_root, kind, part)) for kind in ("images", "annotations")))
        rules = MaskRules(150, reduce_zero_label=True)
        names = read_label_file(label_file) if label_file else None
        super().__init__(image_root, pairs, transform_ops, rules, seed, names)


def _require_count(found: int | None, expected: int, name: str) -> None:
    if found not in (None, expected):
        raise UserError(
            f"{name} has {expected} classes, but Arch.class_num is {found}: set it to {expected}; "
            "for other classes of the same images use SegDataset with a label_map"
        )


def _listed(file: str, root: str, separator: str | None) -> Pairs:
    listed = read_image_list(file, root, separator, parse_label=str.strip)
    return Pairs(listed.paths, PathList(listed.labels, root), listed.problems)


def _joined(parts: list[Pairs]) -> Pairs:
    return Pairs(
        PathList(path for part in parts for path in part.paths),
        PathList(path for part in parts for path in part.masks),
        [problem for part in parts for problem in part.problems],
        [note for part in parts for note in part.notes],
    )


def _palette(name: str | None) -> Palette | None:
    if name is None:
        return None
    return Palette(voc_colours(256), list(VOC_NAMES)) if name == "voc" else read_palette(name)
