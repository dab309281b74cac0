"""Lists in which copies of a picture are on one side of the split. `ppcls-lite check --fix`.

Read before: image_doctor.py, prepare/split.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ppcls_lite.data.image_doctor import Examined
from ppcls_lite.data.prepare.split import stratified_split


@dataclass(frozen=True)
class Grouped:
    """keep: places of the images that are listed; in_val (len(keep),) bool. left_out: how many
    cannot be read, and how many are in two classes at once."""

    keep: np.ndarray
    in_val: np.ndarray
    unreadable: int
    contradicting: int


def grouped_split(found: Examined, share: float, seed: int) -> Grouped:
    """A split of images that keeps copies together.

    An image for validation that is also among those for training goes there; images that have no
    split yet get one, `share` of each class for validation. Unreadable ones and copies with
    different classes are left out; images without classes (of boxes or masks) count as of one.
    """
    labels = found.labels if (found.labels >= 0).any() else np.zeros_like(found.labels)
    groups = found.census.groups()
    readable = np.array([look.problem is None for look in found.census.looks])
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) > 0])
    low = np.minimum.reduceat(labels[order], starts)
    high = np.maximum.reduceat(labels[order], starts)
    clear = np.isin(groups, groups[order][starts][low == high]) & (labels >= 0)
    keep = np.flatnonzero(readable & clear)
    in_val = _by_splits(found.splits, groups, keep, share, seed, labels)
    left = int((~readable).sum()), int((readable & ~clear).sum())
    return Grouped(keep, in_val, *left)


def _by_splits(
    splits: Sequence[str],
    groups: np.ndarray,
    keep: np.ndarray,
    share: float,
    seed: int,
    labels: np.ndarray,
) -> np.ndarray:
    if "Eval" not in splits:
        firsts, inverse = np.unique(groups[keep], return_inverse=True)
        return stratified_split(labels[firsts], share, seed)[inverse]
    own = np.array([split == "Eval" for split in splits])
    taught = np.unique(groups[keep][~own[keep]])
    return own[keep] & ~np.isin(groups[keep], taught)
