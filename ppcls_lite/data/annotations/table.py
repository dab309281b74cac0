"""The boxes of a whole data set as flat arrays, with everything that is wrong with them.

A reader (coco.py, voc.py, yolo.py, labelme.py) collects what a file says, `checked` looks at all
boxes at once. Flat arrays, because worker processes share them with their parent and because a
hundred thousand images are checked in a second. Read next: kept.py, ../datasets_detection.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ppcls_lite.data.image_list import SHOWN

CROWD, DIFFICULT = 1, 2  # of a box's flags: a group of objects (COCO), hard to see (VOC)
SMALLEST = 1e-5  # pixels; a box with a shorter edge has no area
OUTSIDE = 1.0  # pixels by which a box may leave its image without a word


@dataclass
class BoxTable:
    """n images and their m boxes; image i has the boxes `starts[i]` to `starts[i + 1]`.

    Attributes:
        names: of the classes, in the order of their numbers.
        files: of the images, below the data set's image folder, or whole paths.
        image_ids: (n,) int64, what the annotations call the images.
        sizes: (n, 2) int64, width and height as the annotations state them; 0: not stated.
        starts: (n + 1,) int64.
        boxes: (m, 4) float32, x1, y1, x2, y2 in pixels of the image, not clipped.
        classes: (m,) int64.
        areas: (m,) float32, pixels of the object; of its outline where the annotation has one.
        flags: (m,) uint8, sums of CROWD and DIFFICULT.
        problems: mistakes that stop a training.
        warnings: what was left out or looks strange, with counts.
    """

    names: list[str]
    files: list[str]
    image_ids: np.ndarray
    sizes: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    flags: np.ndarray
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.image_ids)

    def counts(self, which: np.ndarray | None = None) -> np.ndarray:
        """(n,) int64: the boxes of each image; with `which` (m,) bool, those of them alone."""
        if which is None:
            return np.diff(self.starts)
        return np.diff(np.concatenate([[0], np.cumsum(which)])[self.starts])

    def images(self, keep: np.ndarray) -> BoxTable:
        """The table of some images: `keep` are their places (k,), ascending."""
        counts = self.counts()
        chosen = np.zeros(len(self), bool)
        chosen[keep] = True
        boxes = np.repeat(chosen, counts)
        return BoxTable(
            self.names,
            [self.files[i] for i in keep.tolist()],
            self.image_ids[keep],
            self.sizes[keep],
            np.concatenate([[0], np.cumsum(counts[keep])]),
            *(a[boxes] for a in (self.boxes, self.classes, self.areas, self.flags)),
            self.problems,
            self.warnings,
        )


@dataclass
class Found:
    """What a reader finds, box by box; `checked` makes a table of it.

    Attributes:
        source: the file, for messages.
        problems, warnings: mistakes by kind; the texts of one kind are shown up to a limit.
    """

    source: str
    names: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)
    images: list[int] = field(default_factory=list)  # of each box, its image's place in `files`
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    classes: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    warnings: dict[str, list[str]] = field(default_factory=dict)

    def wrong(self, kind: str, what: str) -> None:
        """Note a mistake that stops a training: `kind` names it in the plural, and the remedy."""
        self.problems.setdefault(kind, []).append(what)

    def strange(self, kind: str, what: str) -> None:
        """Note something that is left out and does no harm."""
        self.warnings.setdefault(kind, []).append(what)

    def add(
        self,
        image: int,
        box: tuple[float, float, float, float],
        kind: int,
        flags: int = 0,
        area: float | None = None,
    ) -> None:
        """A box x1, y1, x2, y2 of class `kind`; `area` None: the box's own."""
        self.images.append(image)
        self.boxes.append(box)
        self.classes.append(kind)
        self.flags.append(flags)
        self.areas.append((box[2] - box[0]) * (box[3] - box[1]) if area is None else area)


def checked(found: Found) -> BoxTable:
    """The table of what was found, in the order of the images, without boxes that are none."""
    boxes = np.array(found.boxes, np.float64).reshape(-1, 4)
    image = np.array(found.images, np.int64)
    classes = np.array(found.classes, np.int64)
    areas, flags = np.array(found.areas, np.float64), np.array(found.flags, np.uint8)
    sizes = np.array(found.sizes, np.float64).reshape(-1, 2)
    sizes = np.where(np.isfinite(sizes) & (sizes > 0), sizes, 0)

    def texts(which: np.ndarray) -> list[str]:
        return [_text(found.files[image[i]], boxes[i]) for i in which[:SHOWN].tolist()]

    finite = np.isfinite(boxes).all(axis=1) & (np.abs(boxes) < 1e9).all(axis=1)
    problems = _lines(found.source, found.problems)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        problems.append(_line(found.source, "boxes are no numbers of pixels", texts(bad), len(bad)))
    warnings = [_line("", kind, seen[:SHOWN], len(seen)) for kind, seen in found.warnings.items()]
    good = finite.copy()

    def leave_out(which: np.ndarray, kind: str) -> None:
        bad = np.flatnonzero(good & which)
        if len(bad):
            warnings.append(_line("", kind, texts(bad), len(bad)))
            good[bad] = False

    boxes = np.where(finite[:, None], boxes, 0)
    edges = boxes[:, 2:] - boxes[:, :2]
    leave_out((edges < SMALLEST).any(axis=1) | (areas <= 0), "boxes have no area: left out")
    size = np.where(sizes[image] > 0, sizes[image], np.inf)  # (m, 2)
    outside = (boxes[:, :2] >= size) | (boxes[:, 2:] <= 0)
    leave_out(outside.any(axis=1), "boxes lie outside their image: left out")
    leave_out(_repeated(image, classes, flags, boxes), "boxes are there twice: left out once")
    over = (boxes[:, :2] < -OUTSIDE) | (boxes[:, 2:] > size + OUTSIDE)
    bad = np.flatnonzero(good & over.any(axis=1))
    if len(bad):
        text = "boxes reach beyond their image: trained as far as they are inside"
        warnings.append(_line("", text, texts(bad), len(bad)))
    order = np.flatnonzero(good)
    order = order[np.argsort(image[order], kind="stable")]
    counts = np.bincount(image[order], minlength=len(found.files))
    return BoxTable(
        found.names,
        found.files,
        np.array(found.image_ids, np.int64),
        sizes.astype(np.int64),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes[order].astype(np.float32),
        classes[order],
        areas[order].astype(np.float32),
        flags[order],
        problems,
        warnings,
    )


def _repeated(
    image: np.ndarray, classes: np.ndarray, flags: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """(m,) bool: the boxes that an earlier one of the image equals, class and flags too."""
    columns = (*boxes.T, flags, classes, image)
    order = np.lexsort(columns)  # stable: of equal ones the first comes first
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in columns:
        same &= column[order][1:] == column[order][:-1]
    repeated = np.zeros(len(order), bool)
    repeated[order[1:][same]] = True
    return repeated


def of_classes(names: Sequence[str]) -> Callable[[str], int | None]:
    """From a class's name to its number; None for an unknown one. Blanks around it do not count."""
    numbers = {name.strip(): i for i, name in enumerate(names)}
    return lambda name: numbers.get(name.strip())


def _text(file: str, box: np.ndarray) -> str:
    return f"{file} [{', '.join(f'{v:g}' for v in box)}]"


def _lines(source: str, problems: dict[str, list[str]]) -> list[str]:
    return [_line(source, kind, seen[:SHOWN], len(seen)) for kind, seen in problems.items()]


def _line(source: str, kind: str, shown: Sequence[str], count: int) -> str:
    """`FILE: 12 boxes have no area: left out (a.jpg [0, 0, 3, 0], ... and 7 more)`."""
    more = f" and {count - len(shown):,} more" if count > len(shown) else ""
    start = f"{source}: " if source else ""
    return f"{start}{count:,} {kind} ({', '.join(shown)}{more})"
