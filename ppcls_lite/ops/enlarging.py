"""The class of each pixel from scores at a fraction of the size, without enlarging all scores.

Linear interpolation mixes four neighbours with weights that sum to one. So where one class has the
highest score at all four it wins everywhere between them, and elsewhere no class can win whose
largest of the four is below another one's smallest. Only where classes meet, and of the few classes
that can win there, are scores interpolated; the answer is that of enlarging them all. PP-MobileSeg
(https://arxiv.org/abs/2304.05152, section 3.4) enlarges the classes that win somewhere, which is
nearly the same. Read before: interpolation.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ppcls_lite.ops.interpolation import linear_neighbours


def enlarged_classes(scores: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The best class of scores (C, h, w) interpolated to `size` (H, W), as (H, W) int32.

    Half-pixel centres, as `interpolate` without aligned corners. Of equal scores the first class.
    """
    count, high, wide = scores.shape
    winners = _best(scores)  # (h, w)
    (top, _, down), (left, _, across) = (
        linear_neighbours(*lengths) for lengths in zip((high, wide), size)
    )
    classes = winners[top][:, left]  # right where one class wins at all four neighbours
    below, right = (np.minimum(np.arange(n) + 1, n - 1) for n in (high, wide))
    same = (winners == winners[below]) & (winners == winners[:, right])
    same &= winners == winners[below][:, right]
    cells = np.flatnonzero(~same)  # where classes meet: places of upper left neighbours
    if not len(cells):
        return classes
    y, x = np.divmod(cells, wide)
    places = [y * wide + x, y * wide + right[x], below[y] * wide + x, below[y] * wide + right[x]]
    flat = scores.reshape(count, -1)
    corners = np.stack([flat[:, place] for place in places])  # (4, C, cells)
    may_win = corners.max(axis=0) >= corners.min(axis=0).max(axis=0)  # (C, cells)

    number = np.zeros(high * wide, np.int64)
    number[cells] = np.arange(len(cells))
    rows, columns = np.nonzero(~same[top][:, left])  # the pixels between them
    cell = number[top[rows] * wide + left[columns]]
    down, across = down[rows], across[columns]
    best = np.full(len(cell), -np.inf, np.float32)
    found = np.zeros(len(cell), np.int32)
    for kind in np.flatnonzero(may_win.any(axis=1)).tolist():
        pixels = np.flatnonzero(may_win[kind][cell])
        own, step, slope = cell[pixels], across[pixels], down[pixels]
        a, b, c, d = corners[:, kind][:, own]
        upper, lower = a + (b - a) * step, c + (d - c) * step
        value = upper + (lower - upper) * slope
        better = value > best[pixels]
        found[pixels[better]], best[pixels[better]] = kind, value[better]
    classes[rows, columns] = found
    return classes


def _best(scores: np.ndarray) -> np.ndarray:
    """The best class of (C, h, w), (h, w) int32; faster than `argmax` along the first axis."""
    best, classes = scores[0].copy(), np.zeros(scores.shape[1:], np.int32)
    for number, plane in enumerate(scores[1:], start=1):
        classes[plane > best] = number
        np.maximum(best, plane, out=best)
    return classes
