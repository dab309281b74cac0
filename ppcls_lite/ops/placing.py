"""What a network found in the pixels that it saw, in those of the photograph.

What was padded is cut off, what was resized is resized back: the one rule of predictions and of
their scores. Read before: ../data/transforms/geometry.py (`Meta`, a `Way`).
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from ppcls_lite.ops.masks import MASK_FILL

_EXACT = 1e-6  # pixels


class Way(Protocol):
    """From a network's pixels to the photograph's.

    `height` and `width` are the photograph's; `source` (2, 3) is the affine map that sends a point
    (x, y) of what the network saw to its place there.
    """

    height: int
    width: int
    source: np.ndarray


def classes_in_photograph(classes: np.ndarray, meta: Way) -> np.ndarray:
    """Class ids (h, w) as (height, width) uint8; MASK_FILL where the network saw nothing.

    Of a resized image each pixel takes the nearest class.
    """
    classes = classes.astype(np.uint8)
    window = _window(classes.shape, meta)
    if window is None:
        return _warped(classes, meta, cv2.INTER_NEAREST)
    seen = classes[window]
    if seen.shape == (meta.height, meta.width):
        return seen
    return cv2.resize(seen, (meta.width, meta.height), interpolation=cv2.INTER_NEAREST_EXACT)


def scores_in_photograph(scores: np.ndarray, meta: Way) -> tuple[np.ndarray, np.ndarray]:
    """Scores (C, h, w) as the best class, (height, width) uint8, and its score, float32.

    Of a resized image the scores are resized back linearly before the best one is taken, class by
    class, so that memory does not grow with their number. MASK_FILL where the network saw nothing.
    """
    window = _window(scores.shape[1:], meta)
    best = np.full((meta.height, meta.width), -np.inf, np.float32)
    classes = np.full(best.shape, MASK_FILL, np.uint8)
    for number, plane in enumerate(scores):
        if window is None:
            plane = _warped(plane.astype(np.float32), meta, cv2.INTER_LINEAR, -np.inf)
        else:
            size = meta.width, meta.height
            plane = cv2.resize(plane[window].astype(np.float32), size)
        better = plane > best
        classes[better], best[better] = number, plane[better]
    return classes, best


def _window(shape: tuple[int, ...], meta: Way) -> tuple[slice, slice] | None:
    """The rows and columns that the whole photograph lies in, where it lies in such."""
    (wide, turn, left), (other_turn, high, top) = meta.source
    if turn or other_turn or wide <= 0 or high <= 0:
        return None
    down = -top / high, (meta.height - top) / high
    across = -left / wide, (meta.width - left) / wide
    ends = np.array([down, across])
    whole = np.rint(ends)
    inside = (whole[:, 0] >= 0).all() and (whole[:, 1] <= shape[:2]).all()
    if not inside or np.abs(ends - whole).max() > _EXACT * max(shape):
        return None
    (first, last), (begin, end) = whole.astype(int).tolist()
    return slice(first, last), slice(begin, end)


def _warped(plane: np.ndarray, meta: Way, method: int, fill: float = MASK_FILL) -> np.ndarray:
    """A plane (h, w) moved into the photograph, which it covers in part, mirrored or turned."""
    back = cv2.invertAffineTransform(meta.source)  # the photograph's points in the plane
    (wide, turn, left), (other_turn, high, top) = back
    if turn or other_turn:
        back[:, 2] += back[:, :2].sum(axis=1) * 0.5 - 0.5  # OpenCV counts from a pixel's centre
        size, flags = (meta.width, meta.height), method | cv2.WARP_INVERSE_MAP
        border = cv2.BORDER_CONSTANT
        return cv2.warpAffine(plane, back, size, flags=flags, borderMode=border, borderValue=fill)
    rows, columns = (
        (np.arange(length) + 0.5) * scale + start
        for length, scale, start in ((meta.height, high, top), (meta.width, wide, left))
    )
    inside = [(p >= 0) & (p <= n) for p, n in zip((rows, columns), plane.shape)]
    for axis, places in enumerate((rows, columns)):
        plane = _along(plane, places, axis, method)
    return np.where(inside[0][:, None] & inside[1], plane, plane.dtype.type(fill))


def _along(plane: np.ndarray, places: np.ndarray, axis: int, method: int) -> np.ndarray:
    """The values at `places` of one axis, which count from a pixel's edge."""
    last = plane.shape[axis] - 1
    if method == cv2.INTER_NEAREST:
        return plane.take(np.floor(places).clip(0, last).astype(np.int64), axis)
    places = (places - 0.5).clip(0, last)
    low = np.floor(places).astype(np.int64)
    share = (places - low).astype(np.float32)
    first, second = plane.take(low, axis), plane.take(np.minimum(low + 1, last), axis)
    return first + (second - first) * (share[:, None] if axis == 0 else share)
