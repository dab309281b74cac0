"""Images without labels, alone or beside a labelled list, for losses that follow a teacher.

Their label is -1 (`UNLABELED`); losses and metrics that compare with labels pass over them. Which
images of the pool an epoch sees is a function of (seed, epoch).
Cui et al., SSLD (arXiv 2103.05959). Read before: datasets.py.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ppcls_lite.config.registry import register
from ppcls_lite.config.schema import ClassCount, PositiveFloat, Seed, TransformSpec
from ppcls_lite.data.datasets import LabeledDataset, label_problems
from ppcls_lite.data.files import path_in, walk_images
from ppcls_lite.data.image_list import PathList, read_image_list, read_lines, require_folder
from ppcls_lite.data.samplers import SampleKey
from ppcls_lite.errors import UserError

UNLABELED = -1  # the label of an image without one


@register("dataset")
class UnlabeledDataset(LabeledDataset):
    """Images without labels, and beside them, as in ImageNetDataset, those of a list with labels.

    `paths` and `labels` are those of the labelled images, then those of the whole pool. `len`
    counts the images of an epoch, which are fewer with `ratio`. Raises UserError where a file or
    folder is missing, or `ratio` asks for more than the pool has.

    Args: as ImageNetDataset, and
        unlabeled_root: the pool: the images in this folder and below it, in a fixed order, or the
            folder that the list's relative paths start from.
        unlabeled_list: the images of the pool, a path a line; whatever follows the image's
            suffix and a space, tab, comma or semicolon (a label, a score) is passed over.
        ratio: unlabelled images for each labelled one in an epoch. The epochs go through the
            whole pool in a random order before an image comes again. null: each epoch has the
            whole pool.
        cls_label_path: the list with labels; null: all images are unlabelled.
    """

    def __init__(
        self,
        transform_ops: list[TransformSpec],
        unlabeled_root: str,
        unlabeled_list: str | None = None,
        ratio: PositiveFloat | None = None,
        image_root: str = ".",
        cls_label_path: str | None = None,
        delimiter: str | None = None,
        class_num: ClassCount | None = None,
        seed: Seed = 0,
    ) -> None:
        labels, paths, problems = np.zeros(0, np.int64), PathList([]), []
        if cls_label_path is not None:
            listed = read_image_list(cls_label_path, image_root, delimiter)
            paths, labels = listed.paths, np.asarray(listed.labels)
            problems = listed.problems + label_problems(listed, labels, class_num)
        pool = pool_of(unlabeled_root, unlabeled_list)
        source = unlabeled_list or unlabeled_root
        if not len(pool):
            problems.append(f"{source}: there are no images in the pool without labels")
        self.labeled, self.pooled = len(paths), len(pool)
        self.has_unlabeled = self.pooled > 0
        self.drawn = _drawn(ratio, len(paths), len(pool), source)
        super().__init__(
            f"{cls_label_path} and {source}" if cls_label_path else source,
            _Both(paths, pool),
            np.concatenate([labels, np.full(len(pool), UNLABELED, np.int64)]),
            transform_ops,
            class_num or int(labels.max(initial=0)) + 1,
            seed,
            problems,
        )
        self._orders = functools.lru_cache(maxsize=2)(functools.partial(_order, seed, len(pool)))

    def __len__(self) -> int:
        """Images an epoch."""
        return self.labeled + self.drawn

    def locate(self, key: SampleKey) -> SampleKey:
        """From a place in the epoch to the image that is there in this epoch."""
        if key.index < self.labeled or self.drawn == self.pooled:
            return key
        turn, place = divmod(key.epoch * self.drawn + key.index - self.labeled, self.pooled)
        return key._replace(index=self.labeled + int(self._orders(turn)[place]))


class _Both(Sequence[str]):
    """Two sequences of paths as one."""

    def __init__(self, first: PathList, second: PathList) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        count = len(self.first)
        return self.first[index] if index < count else self.second[index - count]

    def __iter__(self) -> Iterator[str]:
        yield from self.first
        yield from self.second


def _order(seed: int, length: int, turn: int) -> np.ndarray:
    """In which order the pool is gone through for the turn-th time."""
    # the last number keeps this stream apart from those of the samples and of the sampler
    order = np.arange(length, dtype=np.uint32)
    return np.random.default_rng((seed, turn, 0, 0, 5)).permutation(order)


def pool_of(root: str, list_file: str | None = None) -> PathList:
    """The images of a pool: of a list, or all below a folder (UserError where there is none)."""
    require_folder(root)
    if list_file is None:
        return PathList(walk_images(root), root)
    return PathList((path_in(line) for _, line in read_lines(list_file)), root)


def _drawn(ratio: float | None, labeled: int, pooled: int, source: str) -> int:
    """How many unlabelled images an epoch takes."""
    if ratio is None:
        return pooled
    if not labeled:
        raise UserError(
            "ratio: counts unlabelled images for each labelled one, but there is no list with "
            "labels: give cls_label_path, or leave ratio out to take the whole pool in each epoch"
        )
    drawn = max(1, round(ratio * labeled))
    if drawn > pooled:
        raise UserError(
            f"ratio: {ratio:g} for each of {labeled:,} labelled images asks for {drawn:,} "
            f"unlabelled ones an epoch, but {source} has {pooled:,}: at most "
            f"{pooled / labeled:.4g}, or leave ratio out to take the whole pool"
        )
    return drawn
