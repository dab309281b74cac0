"""Data sets of images with labels, from list files; names and arguments as in PaddleClas.

Read before: dataset_base.py, image_list.py. Read next: folder.py, datasets_segmentation.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, Seed, TransformSpec
from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.image_list import SHOWN, ImageList, read_image_list, some
from ppcls_lite.data.labels import caption_of
from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.errors import UserError

LOPSIDED = 0.8  # share of one class from which top-1 says little about the others


class LabeledDataset(ImageDataset):
    """Images with one label each.

    labels: (n,) int64 class ids, or (n, class_num) float32 attributes.
    """

    batch_keys = ("image", "label")

    def __init__(
        self,
        source: str,
        paths: Sequence[str],
        labels: np.ndarray,
        transform_ops: list[Any],
        class_num: int,
        seed: int,
        problems: list[str],
    ) -> None:
        super().__init__(source, paths, transform_ops, class_num, seed, problems)
        self.labels = labels
        self.all_labelled = bool((labels >= 0).all())
        self.none_labelled = bool((labels < 0).all())
        self._one_class_each = labels.ndim == 1
        if self._one_class_each:
            self.default_metrics = ("ConfusionMatrix",)
        self.closer_metrics = ("ClassAnswers" if self._one_class_each else "AttributeAnswers",)

    def annotate(self, index: int) -> dict[str, Any]:
        label = self.labels[index]
        return {"label": int(label) if self._one_class_each else label}

    def caption(self, known: Mapping[str, np.ndarray], names: Sequence[str] | None) -> str:
        return caption_of(np.asarray(known["label"]), self._one_class_each, names)

    def number_as(self, train: ImageDataset) -> None:
        own, theirs = self.class_keys, train.class_keys
        if own is None or theirs is None or list(own) == list(theirs):
            return
        numbers = {key: i for i, key in enumerate(theirs)}
        used = [own[i] for i in np.unique(self.labels[self.labels >= 0])]
        unknown = [key for key in used if key not in numbers]
        if unknown:
            self.problems.append(
                f"{self.source}: {len(unknown):,} classes are not in the training set "
                f"{train.source}: {some(unknown)}; it has {some(theirs)}. Correct the names, or "
                "leave these images out"
            )
        else:
            table = np.array([numbers.get(key, -1) for key in own], np.int64)
            self.labels = np.where(self.labels >= 0, table[self.labels], self.labels)
        self.class_keys = theirs

    def digests(self) -> dict[str, str]:
        labels = np.ascontiguousarray(self.labels)
        return super().digests() | {"labels": hashlib.sha256(labels.tobytes()).hexdigest()}

    def imbalance(self) -> list[str]:
        known = self.labels[self.labels >= 0]
        if not self._one_class_each or not len(known) or self.class_num < 2:
            return []
        counts = np.bincount(known)
        largest, share = int(counts.argmax()), counts.max() / len(known)
        if share < LOPSIDED:
            return []
        return [
            f"{share:.1%} of the images are of class {largest}: always answering it has top1 "
            f"{share:.4f}; look at macro_recall, or at the table of all classes, as well"
        ]

    def counts(self) -> np.ndarray:
        if not self._one_class_each:
            return (self.labels > 0).sum(axis=0)
        known = self.labels[(self.labels >= 0) & (self.labels < self.class_num)]
        return np.bincount(known, minlength=self.class_num)

    def gaps(self) -> list[str]:
        """The classes that no image has."""
        if not self._one_class_each or not len(self):
            return []
        unseen = np.setdiff1d(np.arange(self.class_num), self.labels)
        names = self.class_keys if self.class_keys is not None else range(self.class_num)
        shown = some([names[i] if i < len(names) else i for i in unseen.tolist()])
        text = f"{len(unseen):,} of {self.class_num:,} classes have no image: {shown}"
        return [text] if len(unseen) else []


@register("dataset", aliases=("ClsDataset",))
class ImageNetDataset(LabeledDataset):
    """One class per image, from a list of `path label` lines.

    Args:
        image_root: the folder that relative paths start from.
        cls_label_path: the list file.
        delimiter: between path and label; null: the last space or tab.
        relabel: number the labels that occur from 0 in ascending order; those of an evaluation get
            the training set's numbers.
        class_num: number of classes; null: as many as the list has.
        seed: of the augmentations.
    """

    def __init__(
        self,
        image_root: str,
        cls_label_path: str,
        transform_ops: list[TransformSpec],
        delimiter: str | None = None,
        relabel: bool = False,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        listed = read_image_list(cls_label_path, image_root, delimiter)
        labels = np.asarray(listed.labels)
        keys = None
        if relabel:  # a negative label is no class, and found below
            keys = np.unique(labels[labels >= 0])
            labels = np.where(labels >= 0, np.searchsorted(keys, labels), labels)
        found = int(labels.max(initial=0)) + 1
        problems = listed.problems + label_problems(listed, labels, class_num)
        super().__init__(
            cls_label_path, listed.paths, labels, transform_ops, class_num or found, seed, problems
        )
        self.numbers_classes = relabel
        self.class_keys = None if keys is None else keys.tolist()


@register("dataset")
class MultiScaleDataset(ImageNetDataset):
    """ImageNetDataset whose image size follows the batch, for MultiScaleSampler.

    RandCropImage, ResizeImage and CropImage take the batch's size in place of their own; one of
    them must be there. Args: as ImageNetDataset.
    """

    def __init__(
        self,
        image_root: str,
        cls_label_path: str,
        transform_ops: list[TransformSpec],
        delimiter: str | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        if not any(getattr(op, "follows_size", False) for op in transform_ops):
            raise UserError(
                "MultiScaleDataset sets the size of RandCropImage, ResizeImage, CropImage; "
                "transform_ops has none of them: add RandCropImage"
            )
        listed = (image_root, cls_label_path, transform_ops, delimiter)
        super().__init__(*listed, class_num=class_num, seed=seed)


@register("dataset", aliases=("MLClsDataset",))
class MultiLabelDataset(LabeledDataset):
    """Several yes/no attributes per image, from a list of `path<TAB>0,1,0` lines.

    An attribute is 1 (yes), 0 (no) or -1 (unknown).

    Args: as ImageNetDataset, and
        label_ratio: also give each attribute's share of positives in this list, with which
            MultiLabelLoss(weight_ratio: True) balances its terms: labels are then (2, class_num),
            the attributes and their shares, and the shares are in the attribute `label_ratio`.
        class_num: number of attributes; null: as many as the first line has.
    """

    def __init__(
        self,
        image_root: str,
        cls_label_path: str,
        transform_ops: list[TransformSpec],
        label_ratio: bool = False,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        listed = read_image_list(cls_label_path, image_root, "\t", _attributes)
        width = class_num or (len(listed.labels[0]) if listed.labels else 1)
        wrong = [i for i, label in enumerate(listed.labels) if len(label) != width]
        reason = "Arch.class_num" if class_num else "the first line"
        problems = listed.problems + [
            f"{cls_label_path}:{listed.lines[i]}: expected {width} attributes as in {reason}, "
            f"found {len(listed.labels[i])}"
            for i in wrong[:SHOWN]
        ]
        if len(wrong) > SHOWN:
            problems.append(f"{cls_label_path}: {len(wrong) - SHOWN:,} more of the kind")
        rows = [(label + [0] * width)[:width] for label in listed.labels]
        labels = np.array(rows, np.float32).reshape(len(rows), width)
        super().__init__(cls_label_path, listed.paths, labels, transform_ops, width, seed, problems)
        self.label_ratio: np.ndarray | None = None
        if label_ratio:
            known = np.maximum((labels >= 0).sum(axis=0), 1)
            self.label_ratio = ((labels > 0).sum(axis=0) / known).astype(np.float32)

    def annotate(self, index: int) -> dict[str, Any]:
        if self.label_ratio is None:
            return super().annotate(index)  # (class_num,)
        return {"label": np.stack([self.labels[index], self.label_ratio])}  # (2, class_num)


@register("dataset")
class CustomLabelDataset(ImageDataset):
    """Images without labels: a transform makes the label (how far RandomRot90 turned the image).

    Args: as ImageNetDataset, and
        sample_list_path: the list file, one path a line.
        label_key: what the transform calls its label; null: the batches hold images only.
        delimiter: a line's path ends there; null: the line is the path.
    """

    def __init__(
        self,
        image_root: str,
        sample_list_path: str,
        transform_ops: list[TransformSpec],
        label_key: str | None = None,
        delimiter: str | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        listed = read_image_list(sample_list_path, image_root, delimiter, parse_label=None)
        found = (class_num, seed, listed.problems)
        super().__init__(sample_list_path, listed.paths, transform_ops, *found)
        self.label_key = label_key
        if label_key is not None:
            self.batch_keys = ("image", "label")

    def without_chance(self) -> None:
        """Chance stays where it makes the labels: it is the same in every evaluation."""
        self.draws = self.label_key is not None

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        sample = super().__getitem__(key)
        if self.label_key is None:
            return sample
        if self.label_key not in sample:
            raise UserError(
                f"label_key: {self.label_key!r}: no transform made such a label; the sample "
                f"has {', '.join(sorted(sample))}"
            )
        return sample | {"label": int(sample[self.label_key])}


def label_problems(listed: ImageList, labels: np.ndarray, class_num: int | None) -> list[str]:
    """The lines whose label is not in 0..class_num-1 (or is negative)."""
    wrong = np.flatnonzero((labels < 0) | (labels >= (class_num or np.inf)))
    if not len(wrong):
        return []
    top = "" if class_num is None else f"{class_num - 1}"
    first = ", ".join(
        f"{listed.paths[i]} {labels[i]} (line {listed.lines[i]})" for i in wrong[:SHOWN]
    )
    advice = "labels count from 0: correct the list, or set dataset.relabel: True"
    if class_num is not None and labels.min() >= 0:
        advice = (
            f"Arch.class_num is {class_num}: set it to {labels.max() + 1}, or correct the list "
            "(labels count from 0)"
        )
    count = f"{len(wrong):,} label{'s' if len(wrong) > 1 else ''}"
    return [f"{listed.file}: {count} outside 0..{top}: {first}; {advice}"]


def _attributes(text: str) -> list[int]:
    values = [value.strip() for value in text.split(",")]
    if not set(values) <= {"0", "1", "-1"}:
        raise ValueError(
            f"expected 1, 0 or -1 for each attribute, as in 0,1,0, found {text[:80]!r}"
        )
    return [int(value) for value in values]
