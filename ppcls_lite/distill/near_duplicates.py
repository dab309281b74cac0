"""Near-duplicates by perceptual hash: the same picture in another size, format or quality.

The hash is `phash` of the package imagehash: 64 bits, the signs of the lowest frequencies of the
gray picture shrunk to 32x32. Two pictures count as one if at most `DISTANCE` bits differ.
docs/distillation.md has what that finds and misses. Read next: select_unlabeled.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

DISTANCE = 6  # bits
BITS = 64
_ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


class Match(NamedTuple):
    """A known image, and how many bits differ."""

    index: int
    distance: int


def perceptual_hash(image: np.ndarray) -> int:
    """The 64-bit hash of an (H, W, 3) uint8 RGB image."""
    import imagehash

    return int(str(imagehash.phash(Image.fromarray(image))), 16)


def distances(hashes: np.ndarray, other: int) -> np.ndarray:
    """How many bits of each hash (n,) uint64 differ from `other`: (n,) integers."""
    different = hashes ^ np.uint64(other)
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(different)
    return _ONES[different.view(np.uint8)].reshape(-1, BITS // 8).sum(axis=1)


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
