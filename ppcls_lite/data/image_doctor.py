"""What is wrong with the images of a data set: unreadable, copied, odd.

Read before: image_census.py. Read next: grouped_split.py, ../recipe/check.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppcls_lite.data.dataset_base import ImageDataset
from ppcls_lite.data.image_census import Census, Look, take_census

TINY = 16  # pixels of the shorter edge
NARROW = 5  # times the shorter edge that the longer one may have
SHOWN = 20  # findings of one kind that are shown
MEMBERS = 6  # of a group of copies that are shown
BAD_SHARE = 0.01  # of unreadable images that a training lets pass, as Global.max_bad_ratio
_COPIES = {
    "mislabelled": "pictures are there several times, in different classes; one of them is wrong:",
    "shared": "pictures are in several splits, so that the score will be too good (--fix writes "
    "lists without that):",
    "copies": "pictures are there several times:",
}


@dataclass(frozen=True)
class Finding:
    """Something to know about some images.

    kind: what, in a word. items: a line for each image, or group of copies. wrong: whether it stops
    a training or an evaluation.
    """

    kind: str
    text: str
    items: tuple[str, ...]
    wrong: bool = False

    def __str__(self) -> str:
        more = len(self.items) - SHOWN
        shown = [*self.items[:SHOWN], *([f"and {more:,} more"] if more > 0 else [])]
        return "\n    ".join([self.text, *shown])


@dataclass
class Examined:
    """The images of all splits, each file once, with what is known about them.

    splits: of each image; labels: (n,) class of each, -1 for none.
    """

    census: Census
    splits: list[str]
    labels: np.ndarray
    names: Sequence[str]

    def label(self, place: int) -> str:
        """The class of an image in words; nothing where it has none."""
        label = int(self.labels[place])
        return "" if label < 0 else str(self.names[label] if label < len(self.names) else label)


def examine(
    datasets: Mapping[str, ImageDataset],
    limit: int | None = None,
    tell: Callable[[int], None] = lambda number: None,
    names: Sequence[str] | None = None,
) -> Examined:
    """Look at all images, or at `limit` of each split, evenly spread.

    names: of the classes, where the data sets do not know them.
    """
    paths: dict[str, tuple[str, int]] = {}
    for split, data in datasets.items():
        one_each = data.labels is not None and data.labels.ndim == 1
        step = max(1, -(-len(data) // limit)) if limit else 1
        for i in range(0, len(data), step):
            label = int(data.labels[i]) if one_each else -1
            paths.setdefault(data.paths[i], (split, label))
    keys = names or next((d.class_keys for d in datasets.values() if d.class_keys is not None), ())
    return Examined(
        take_census(list(paths), tell),
        [split for split, _ in paths.values()],
        np.array([label for _, label in paths.values()], np.int64),
        [str(key) for key in keys],
    )


def findings(found: Examined) -> list[Finding]:
    """Everything worth a word, mistakes first."""
    looks = found.census.looks
    made = [
        *_unreadable(found),
        *_copies(found),
        _of("blank", "images show a single colour", looks, lambda look: look.blank),
        _of(
            "tiny",
            f"images are smaller than {TINY} pixels; they show next to nothing",
            looks,
            lambda look: 0 < min(look.size) < TINY,
            lambda look: f"{look.path} ({look.size[0]} x {look.size[1]})",
        ),
        _of(
            "narrow",
            f"images are more than {NARROW} times as long as wide; a crop shows a part of them",
            looks,
            lambda look: max(look.size) > NARROW * min(look.size) > 0,
            lambda look: f"{look.path} ({look.size[0]} x {look.size[1]})",
        ),
        _of(
            "misnamed",
            "files are of another format than their names say; they are read all the same",
            looks,
            lambda look: look.misnamed,
            lambda look: f"{look.path} is {look.format}",
        ),
    ]
    return [finding for finding in made if finding.items]


def sizes(looks: Iterable[Look]) -> str:
    """The sizes of images in words; empty without images."""
    known = np.array([look.size for look in looks if look.problem is None]).reshape(-1, 2)
    if not len(known):
        return ""
    order = known.prod(axis=1).argsort(kind="stable")
    small, middle, large = (known[order[i]] for i in (0, len(order) // 2, -1))
    if (small == large).all():
        return f"all {small[0]} x {small[1]} pixels"
    words = [f"{w} x {h}" for w, h in (small, middle, large)]
    return f"{words[0]} to {words[2]} pixels, in the middle {words[1]}"


def _of(
    kind: str,
    text: str,
    looks: Sequence[Look],
    chosen: Callable[[Look], Any],
    shown: Callable[[Look], str] = lambda look: look.path,
) -> Finding:
    items = tuple(shown(look) for look in looks if look.problem is None and chosen(look))
    return Finding(kind, f"{len(items):,} {text}:", items)


def _unreadable(found: Examined) -> list[Finding]:
    """Of an evaluation they stop it; of a training more than a share of them does."""
    made = []
    for split in dict.fromkeys(found.splits):
        mine = [look for look, its in zip(found.census.looks, found.splits) if its == split]
        bad = tuple(look.problem for look in mine if look.problem is not None)
        wrong = split == "Eval" or len(bad) > BAD_SHARE * len(mine) > 0
        what = "an evaluation stops there" if split == "Eval" else "a training stops at so many"
        what = what if wrong else "a training passes over so few"
        text = f"{len(bad):,} of {len(mine):,} images of {split} cannot be read; {what}:"
        made.append(Finding("unreadable", text, bad, wrong))
    return made


def _copies(found: Examined) -> list[Finding]:
    """Groups of copies: with different classes, in several splits, within a split."""
    groups = found.census.groups()
    equal = {i for pair in found.census.same for i in pair}
    places, counts = np.unique(groups, return_counts=True)
    kinds: dict[str, list[str]] = {kind: [] for kind in _COPIES}
    for first in places[counts > 1]:
        members = np.flatnonzero(groups == first).tolist()
        labels = {int(found.labels[i]) for i in members} - {-1}
        splits = {found.splits[i] for i in members}
        kind = "mislabelled" if len(labels) > 1 else "shared" if len(splits) > 1 else "copies"
        same = "same bytes" if all(i in equal for i in members) else "same picture"
        about = _members(found, members, kind == "mislabelled", len(splits) > 1)
        kinds[kind].append(f"{about} ({same})")
    return [
        Finding(kind, f"{len(own):,} {_COPIES[kind]}", tuple(own)) for kind, own in kinds.items()
    ]


def _members(found: Examined, members: Sequence[int], labels: bool, splits: bool) -> str:
    """The files of a group, with what tells them apart."""
    parts = []
    for i in members[:MEMBERS]:
        about = [found.label(i)] if labels else []
        about += [found.splits[i]] if splits else []
        path = found.census.looks[i].path
        parts.append(f"{path} [{', '.join(about)}]" if about else path)
    more = f" and {len(members) - MEMBERS:,} more" if len(members) > MEMBERS else ""
    return " = ".join(parts) + more
