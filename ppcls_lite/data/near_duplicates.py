"""Near-duplicates by perceptual hash: the same picture in another size, format, quality or light.

The hash has 64 bits: which of the lowest frequencies of the gray picture, shrunk to 32x32, lie
above their median, as in `phash` of the package imagehash (Zauner, "Implementation and Benchmarking
of Perceptual Image Hash Functions", 2010). Two pictures count as one if at most `DISTANCE` bits
differ; where many images are compared with each other, the shrunk pictures have to agree as well,
because simple ones (digits, icons) share hashes by chance. docs/data.md and docs/distillation.md
have what that finds and misses. Read next: image_census.py, ../distill/select_unlabeled.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

DISTANCE = 6  # bits
BITS = 64
ALIKE = 0.985  # correlation of two shrunk pictures from which they are one, at 16x16
EDGE = 32  # of the shrunk picture
_BLOCK = 2**22  # pairs that are compared at once
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
_LOW = 8  # frequencies along each axis
_POINTS = np.arange(EDGE)
# rows of the discrete cosine transform (DCT-II): (8, 32)
_WAVES = 2 * np.cos(np.pi * (2 * _POINTS[None] + 1) * _POINTS[:_LOW, None] / (2 * EDGE))


class Match(NamedTuple):
    """A known image, and how many bits differ."""

    index: int
    distance: int


def shrunk(image: np.ndarray) -> np.ndarray:
    """An (H, W, 3) uint8 RGB image in gray, (32, 32) uint8."""
    gray = Image.fromarray(image).convert("L")
    return np.asarray(gray.resize((EDGE, EDGE), Image.Resampling.LANCZOS))


def hash_of(small: np.ndarray) -> int:
    """The 64-bit hash of a `shrunk` image."""
    low = _WAVES @ small @ _WAVES.T  # (8, 8)
    bits = np.packbits(low > np.median(low))
    return int.from_bytes(bits.tobytes(), "big")


def perceptual_hash(image: np.ndarray) -> int:
    """The 64-bit hash of an (H, W, 3) uint8 RGB image."""
    return hash_of(shrunk(image))


def distances(hashes: np.ndarray, other: int | np.ndarray) -> np.ndarray:
    """How many bits of each hash (n,) uint64 differ from `other`: (n,) integers.

    other: one hash, or those (m, 1) of several, for (m, n).
    """
    different = hashes ^ np.uint64(other)
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(different)
    ones = _ONES[np.ascontiguousarray(different).view(np.uint8)]
    return ones.reshape(*different.shape, BITS // 8).sum(axis=-1)


class KnownImages:
    """Finds which of the known images, given by their hashes, an image is near to."""

    def __init__(self, hashes: Sequence[int], distance: int = DISTANCE) -> None:
        self._hashes = np.array(hashes, np.uint64)
        self._distance = distance

    def match(self, hash_: int) -> Match | None:
        """The nearest known image, if it is near enough."""
        if not len(self._hashes):
            return None
        found = distances(self._hashes, hash_)
        nearest = int(found.argmin())
        if found[nearest] > self._distance:
            return None
        return Match(nearest, int(found[nearest]))


def near_pairs(hashes: np.ndarray, small: np.ndarray) -> Iterator[tuple[int, int]]:
    """The pairs i < j of pictures that are one, given their hashes (n,) uint64 and `small`, the
    shrunk pictures (n, 32, 32) uint8.

    Every pair is looked at: 10,000 pictures take a second, 100,000 some minutes.
    """
    rows = max(1, _BLOCK // max(len(hashes), 1))
    for start in range(0, len(hashes), rows):
        mine = hashes[start : start + rows]
        near = distances(hashes[None, start:], mine[:, None]) <= DISTANCE  # (rows, n - start)
        for i, j in zip(*np.nonzero(near)):
            first, second = start + int(i), start + int(j)
            if first < second and correlation(halved(small[first]), halved(small[second])) >= ALIKE:
                yield first, second


def halved(small: np.ndarray) -> np.ndarray:
    """A shrunk picture as (16, 16): what is left of one that was 16 pixels wide once."""
    return small.reshape(EDGE // 2, 2, EDGE // 2, 2).mean(axis=(1, 3))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Of two gray pictures of one shape, from -1 to 1, whatever their brightness and contrast; 0
    where one of them has a single gray."""
    a, b = (x.astype(np.float64).ravel() - x.mean() for x in (first, second))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size else 0.0


def groups_of(count: int, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """(count,) the group of each item, named by its first member; pairs belong together."""
    parents = list(range(count))

    def first(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for i, j in pairs:
        low, high = sorted((first(i), first(j)))
        parents[high] = low
    return np.array([first(i) for i in range(count)], np.int64)
