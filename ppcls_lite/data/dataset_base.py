"""What all data sets share: `dataset[SampleKey(index, epoch, size)]` reads and augments a sample.

Its random numbers depend on (seed, epoch, index) only, so that a run sees the same images whatever
the number of workers, and after a resume.
Read before: image_list.py. Read next: datasets.py, transforms/compose.py, loader.py.
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

from ppcls_lite.data.cache import DecodedCache
from ppcls_lite.data.findings import Findings
from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.data.transforms.compose import Compose, Normalizer
from ppcls_lite.data.transforms.decode import DecodeImage
from ppcls_lite.errors import UserError


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
