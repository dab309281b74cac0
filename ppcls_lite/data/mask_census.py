"""What is in the mask files of a data set: values, colours, sizes, kinds, counted file by file.

Nothing is judged here; mask_doctor.py does that. What was found is kept in the user's folder until
a file changes. Read before: mask_file.py, kept_files.py.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from ppcls_lite.data.kept_files import Arrays, kept_arrays
from ppcls_lite.data.mask_file import MaskFile, Palette, colour_codes, read_mask
from ppcls_lite.data.transforms.exif import Orientation, read_orientation
from ppcls_lite.errors import ImageError
from ppcls_lite.system.machine import usable_cores

AT_START = 1000  # pairs that are looked at before a training; `check` looks at all
COLOURED = 20  # files of colours whose colours are counted
COLOURS = 256  # of them that are kept, the most frequent ones
_VERSION = "1"  # a change of what is counted has to change it
_WORTH = 2**20  # bytes
_FLOAT_COUNTS = 2**24  # pixels up to which OpenCV's float32 counts are exact
NUMBERS, IN_COLOURS, UNREADABLE = range(3)  # what a file is


@dataclass(frozen=True)
class Census:
    """n pairs that were looked at.

    Attributes:
        places: (n,) int64, which pairs of the data set.
        kinds: (n,) uint8: NUMBERS, IN_COLOURS (and no palette says what they mean), UNREADABLE.
        counts: (n, 256) int64, pixels of each number in the file.
        sizes: (n, 2) int64, width and height of the mask, upright by its own EXIF orientation.
        images: (n, 3) int64, orientation (1 to 8), width and height of the image as it is stored;
            0 where the image could not be read.
        marks: (n, 3) bool: the mask's own orientation was applied, it is lossy, it is a palette's.
        colours: (m, 2) int64, a colour's code and its pixels, in some files of colours.
        problems: why files could not be read.
    """

    places: np.ndarray
    kinds: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    images: np.ndarray
    marks: np.ndarray
    colours: np.ndarray
    problems: list[str]

    @property
    def upright(self) -> np.ndarray:
        """(n, 2) int64, width and height of each image as it is shown."""
        shown = [Orientation(*row).upright for row in self.images.tolist()]
        return np.array(shown, np.int64).reshape(-1, 2)

    @property
    def as_stored(self) -> np.ndarray:
        """(n,) bool: the mask has the size of the image as it is stored."""
        return (self.sizes == self.images[:, 1:]).all(axis=1)

    @property
    def as_shown(self) -> np.ndarray:
        """(n,) bool: the mask has the size of the image as it is shown."""
        return (self.sizes == self.upright).all(axis=1)


class _Found(NamedTuple):
    kind: int
    counts: np.ndarray
    size: tuple[int, int]
    image: tuple[int, int, int]
    marks: tuple[bool, bool, bool]
    problem: str


def take_census(
    paths: Sequence[str], masks: Sequence[str], palette: Palette | None, limit: int | None
) -> Census:
    """Look at the pairs, or at an even sample of `limit` of them.

    Raises OSError for a file that is not there.
    """
    step = 1 if limit is None else max(1, -(-len(masks) // limit))
    places = np.arange(0, len(masks), step)
    chosen = [(paths[i], masks[i]) for i in places]
    table = "" if palette is None else str(palette.colours.tolist())
    files = [file for both in chosen for file in both]
    make = functools.partial(_count, chosen, palette)
    found = kept_arrays("masks", f"{_VERSION}\0{table}", files, _WORTH, make)
    problems = json.loads(found.pop("problems").tobytes())
    return Census(places, problems=problems, **found)


def _count(pairs: list[tuple[str, str]], palette: Palette | None) -> Arrays:
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoding runs outside the interpreter's lock
        found = list(pool.map(functools.partial(_look, palette=palette), *zip(*pairs)))
    coloured = [mask for (_, mask), one in zip(pairs, found) if one.kind == IN_COLOURS]
    problems = json.dumps([one.problem for one in found if one.problem])
    return {
        "kinds": np.array([one.kind for one in found], np.uint8),
        "counts": np.stack([one.counts for one in found]),
        "sizes": np.array([one.size for one in found], np.int64),
        "images": np.array([one.image for one in found], np.int64),
        "marks": np.array([one.marks for one in found], bool),
        "colours": _colours(coloured[:: -(-len(coloured) // COLOURED) or 1]),
        "problems": np.frombuffer(problems.encode(), np.uint8),
    }


def _look(path: str, mask: str, palette: Palette | None) -> _Found:
    counts = np.zeros(256, np.int64)
    orientation = read_orientation(path)
    image = (0, 0, 0) if orientation is None else tuple(orientation)
    try:
        file = read_mask(mask)
        size = (file.numbers if file.colours is None else file.colours).shape[1::-1]
        marks = (file.turned, file.lossy, file.shown_as is not None)
        numbers = _numbers(file, palette, mask)
    except ImageError as error:
        return _Found(UNREADABLE, counts, (0, 0), image, (False, False, False), str(error))
    if numbers is None:
        return _Found(IN_COLOURS, counts, size, image, marks, "")
    return _Found(NUMBERS, pixels_of(numbers), size, image, marks, "")


def _numbers(file: MaskFile, palette: Palette | None, name: str) -> np.ndarray | None:
    return file.numbers if palette is None else palette.indices(file.in_colours(), name)


def pixels_of(numbers: np.ndarray) -> np.ndarray:
    """How many pixels of (H, W) uint8 have each number, (256,) int64."""
    if numbers.size > _FLOAT_COUNTS:
        return np.bincount(numbers.ravel(), minlength=256)
    return cv2.calcHist([numbers], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def _colours(masks: Sequence[str]) -> np.ndarray:
    total: dict[int, int] = {}
    for mask in masks:
        codes, counts = np.unique(colour_codes(read_mask(mask).in_colours()), return_counts=True)
        for code, count in zip(codes.tolist(), counts.tolist()):
            total[code] = total.get(code, 0) + count
    most = sorted(total.items(), key=lambda item: -item[1])[:COLOURS]
    return np.array(most, np.int64).reshape(-1, 2)
