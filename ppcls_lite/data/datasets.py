"""What all data sets share, and those on list files; names and arguments as in PaddleClas.

`dataset[SampleKey(index, epoch, size)]` reads, augments and returns one sample. Its random numbers
depend on (seed, epoch, index) only, so that a run sees the same images whatever the number of
workers, and after a resume.
Read before: image_list.py. Read next: folder.py, transforms/compose.py, loader.py.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, Seed, TransformSpec
from ppcls_lite.data.cache import DecodedCache
from ppcls_lite.data.findings import Findings
from ppcls_lite.data.image_list import SHOWN, ImageList, read_image_list, some
from ppcls_lite.data.labels import caption_of
from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.data.transforms.compose import Compose, Normalizer
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.errors import UserError

LOPSIDED = 0.8  # share of one class from which top-1 says little about the others


class ImageDataset:
    """What all data sets share: files, transforms, and reproducible access.

    A data set of one's own hands its images over to this constructor and says in `annotate` what is
    known about each of them: `label`, a class or attributes; `mask` (H, W) uint8, the class of each
    pixel; `boxes` (n, 4) float32 with `classes` (n,), as in transforms/geometry.py, in the pixels
    of the decoded image. Transforms that move the image move masks and boxes as well.

    Attributes:
        paths: the image files, a sequence of str.
        class_num: number of classes or attributes; None where the annotations do not tell.
        problems: mistakes in the list; scan.py reports them and the loader refuses to start.
        warnings: what was left out of the list, or looks strange; scan.py reports it as well.
        source: the list file or folder, for messages.
        batch_keys: what of a sample goes into a batch, all of one shape each.
        fixed_rows: name -> rows in a batch, of arrays with as many rows as an image happens to
            have: they are filled up with -1, and `count` says how many are real.
        default_metrics: what an evaluation computes beside the recipe's metrics.
        closer_metrics: what `eval`, which looks closer than a training's evaluations, adds to them.
        labels: class ids or attributes of the images; None where they are something else.
        all_labelled: whether every image is known to have a label, none of them -1.
        none_labelled: whether no image at all has a label.
        has_unlabeled: whether some labels stand for images without one.
        class_keys: what the class numbers 0, 1, ... stand for, names or a list's labels; None where
            the list itself says the numbers.
        numbers_classes: whether it gave these numbers itself, to the classes that it has.
        counted: what `counts` counts, in words.
        views: None, or of how many augmentations of each image the epochs take turns: epoch e
            sees what epoch e % views saw, and a batch has `view` (N,) int64 as well.
    """

    batch_keys: tuple[str, ...] = ("image",)
    fixed_rows: Mapping[str, int] = MappingProxyType({})
    default_metrics: tuple[str, ...] = ()
    closer_metrics: tuple[str, ...] = ()
    labels: np.ndarray | None = None
    all_labelled: bool = False
    none_labelled: bool = False
    has_unlabeled: bool = False
    class_keys: Sequence[str | int] | None = None
    numbers_classes: bool = False
    counted: str = "images"
    views: int | None = None
    warnings: Sequence[str] = ()
    draws: bool = True  # whether the transforms may draw random numbers

    def __init__(
        self,
        source: str,
        paths: Sequence[str],
        transform_ops: list[Any],
        class_num: int | None,
        seed: int,
        problems: list[str],
    ) -> None:
        self.source = source
        self.paths = paths
        self.transforms = Compose(transform_ops)
        self.class_num = class_num
        self.seed = seed
        self.problems = problems
        self._cache: DecodedCache | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def annotate(self, index: int) -> dict[str, Any]:
        """What is known about an image, for its sample: before the transforms, in new arrays.

        Raises ImageError where a file of the annotation, as a mask, cannot be read.
        """
        return {}

    def files(self) -> Iterable[str]:
        """All files that have to exist: the images, and where annotations lie in files, those."""
        return self.paths

    def digests(self) -> dict[str, str]:
        """What it holds, as texts by which a resume notices other data."""
        return {"number of images": str(len(self.paths)), "images": digest_of(self.paths)}

    def imbalance(self) -> list[str]:
        """What makes a score of these samples easy to misread; worth a warning at every start."""
        return []

    def number_as(self, train: ImageDataset) -> None:
        """Take over the class numbers of the training set, where both know what theirs stand for.

        A class that the training set does not have becomes one of the `problems`.
        """

    def counts(self) -> np.ndarray | None:
        """How often each class or attribute is annotated, (class_num,); None: not known here."""
        return None

    def gaps(self) -> list[str]:
        """What these samples can neither teach nor test; worth a warning at every start."""
        return []

    def write_list(
        self, images: Sequence[tuple[ImageDataset, int]], root: Path, file: Path
    ) -> dict[str, Any]:
        """Write annotations of some images, of data sets of this kind and their numbers there.

        root: the folder that all of them lie below. file: its path without a suffix. Returns the
        name and arguments of the data set that reads them. Raises UserError where there is no file
        that could hold them.
        """
        raise UserError(
            f"{self.source}: new lists cannot be written for these annotations; leave each of the "
            "copies named above in one split: take it out of the other one, and check again"
        )

    def inspect(self, thorough: bool = False) -> Findings:
        """What only a look into the annotation files tells, all of which exist.

        `thorough` looks at all of them, however long it takes, and not at what a start waits for.
        """
        return Findings()

    def fix_views(self, views: int) -> None:
        """Let the epochs take turns among that many augmentations of each image."""
        self.views = views
        self.batch_keys = (*self.batch_keys, "view")

    def without_chance(self) -> None:
        """From now on a transform that draws random numbers is an error: for evaluations."""
        self.draws = False

    def locate(self, key: SampleKey) -> SampleKey:
        """From a place in the epoch, as samplers draw it, to a place in `paths`: here the same."""
        return key

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        """The finished sample of a located key; an int stands for `locate(SampleKey(index))`.

        Raises ImageError where the file is missing or is no readable image.
        """
        if not isinstance(key, SampleKey):
            key = self.locate(SampleKey(range(len(self))[key]))
        sample = {"image": self._image(key.index), "path": self.paths[key.index]}
        sample |= self.annotate(key.index)
        if self.views is not None:
            key = key._replace(epoch=key.epoch % self.views)
            sample["view"] = key.epoch
        if key.size is not None:
            sample["size"] = key.size  # the cropping and resizing transforms follow it
        chance = (self.seed, key.epoch, key.index, *((key.copy, 0, 5) if key.copy else ()))
        rng = np.random.default_rng(chance) if self.draws else _NoChance()
        return self.finish(self.transforms(sample, rng))

    def finish(self, sample: dict[str, Any]) -> dict[str, Any]:
        """The last step of every sample, after the transforms: what a batch needs of it."""
        for name, rows in self.fixed_rows.items():
            found = np.asarray(sample[name])
            if len(found) > rows:
                raise UserError(
                    f"the image has {len(found)} {name}, but a batch has room for {rows} rows; "
                    f"give {type(self).__name__} more rows"
                )
            sample["count"] = len(found)
            sample[name] = filled_up(found, rows)
        return sample

    def keep_decoded(self, cache: DecodedCache) -> None:
        """Decode every image only once, from now on."""
        self.decoder()
        self._cache = cache

    def decoder(self) -> DecodeImage:
        """The transform whose results a cache may keep; UserError where there is none."""
        first = next(iter(self.transforms.ops), None)
        if not isinstance(first, DecodeImage) or first.reduced:
            found = "reduced: True" if isinstance(first, DecodeImage) else type(first).__name__
            raise UserError(
                "cache: keeps whole decoded images, so transform_ops has to begin with "
                f"DecodeImage without reduced; found {found}"
            )
        return first

    def _image(self, index: int) -> str | np.ndarray:
        """What the transforms begin with: a path, or the pixels if they are kept."""
        path = self.paths[index]
        if self._cache is None:
            return path
        image = self._cache.get(index)
        if image is None:
            image = self.decoder().read(path)
            self._cache.put(index, image)
        return image

    def draw(self, image: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
        """An image of a batch, (H, W, 3) uint8, with what is `known` about it; here the image.

        known: the batch's arrays by name, of this image alone.
        """
        return image

    def caption(self, known: Mapping[str, np.ndarray], names: Sequence[str] | None) -> str:
        """What is written below an image of a batch, of what is `known` about it; here nothing."""
        return ""

    def split_tail(self) -> tuple[ImageDataset, Normalizer | None]:
        """A copy that leaves out the final normalisation, and that normalisation for a batch.

        The copy's images are uint8 (H, W, 3); None and a plain copy without a normalisation.
        """
        other = copy.copy(self)
        other.transforms, normalizer = self.transforms.split_tail()
        return other, normalizer


def filled_up(found: np.ndarray, rows: int) -> np.ndarray:
    """(n, ...) as (rows, ...), with -1 behind."""
    filled = np.full((rows, *found.shape[1:]), -1, found.dtype)
    filled[: len(found)] = found
    return filled


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


def digest_of(paths: Sequence[str]) -> str:
    """A check sum of the files' names below the folder that all of them share."""
    ends = [end for part in _parts(paths) for end in (min(part), max(part))]
    bounds = [min(ends), max(ends)] if ends else []
    below = os.path.commonprefix(bounds).rfind("/") + 1  # noqa: RUF071 (cut at a slash)
    digest, between = hashlib.sha256(), ""
    for part in _parts(paths):
        digest.update(os.fsencode(between + "\n".join(path[below:] for path in part)))
        between = "\n"
    return digest.hexdigest()


def _parts(paths: Iterable[str]) -> Iterator[list[str]]:
    """A few thousand at a time: as many strings as a large list has take gigabytes."""
    paths = iter(paths)
    while part := list(itertools.islice(paths, 1 << 14)):
        yield part


class _NoChance:
    """In place of the random generator where nothing may be drawn."""

    def __getattr__(self, name: str) -> Any:
        raise UserError(
            "transform_ops of an evaluation draw random numbers, so that other images are scored "
            "than those of the list; leave out what is for training (RandCropImage, RandFlipImage, "
            "AutoAugment, RandomErasing, interpolation: random, ...): ResizeImage and CropImage "
            "are for evaluation"
        )


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
