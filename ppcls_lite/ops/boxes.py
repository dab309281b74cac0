"""Geometry of boxes `(..., 4)`, x1 y1 x2 y2: overlaps, and distances from a point to the sides.

Every function takes NumPy arrays or Paddle tensors, and gives what it was given. Shapes are
broadcast: `iou(a[:, None], b[None])` compares all pairs of (n, 4) and (m, 4).
Read next: nms.py, assigners.py.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # np.ndarray or paddle.Tensor
EPSILON = 1e-9  # square pixels, in the place of a union of nothing


def area(boxes: Array) -> Array:
    """(..., 4) -> (...); a box that ends before it begins has none."""
    x1, y1, x2, y2 = _edges(boxes)
    return (x2 - x1).clip(0, None) * (y2 - y1).clip(0, None)


def intersection(a: Array, b: Array) -> Array:
    """Shared area of boxes (..., 4) -> (...)."""
    library = _library(a)
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _edges(a), _edges(b)
    width = (library.minimum(ax2, bx2) - library.maximum(ax1, bx1)).clip(0, None)
    return width * (library.minimum(ay2, by2) - library.maximum(ay1, by1)).clip(0, None)


def iou(a: Array, b: Array) -> Array:
    """Shared area over joint area, (..., 4) -> (...) in 0..1; 0 where both boxes are empty."""
    shared = intersection(a, b)
    return shared / (area(a) + area(b) - shared + EPSILON)


def giou(a: Array, b: Array, epsilon: float = 1e-10) -> Array:
    """Generalized IoU in -1..1 (Rezatofighi et al. 2019, arXiv 1902.09630), (..., 4) -> (...).

    IoU less the share of the smallest box around both that neither of them covers.
    """
    library = _library(a)
    shared = intersection(a, b)
    joint = area(a) + area(b) - shared + epsilon
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = _edges(a), _edges(b)
    width = library.maximum(ax2, bx2) - library.minimum(ax1, bx1)
    around = width * (library.maximum(ay2, by2) - library.minimum(ay1, by1)) + epsilon
    return shared / joint - (around - joint) / around


def centres(boxes: Array) -> Array:
    """(..., 4) -> (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def distances(points: Array, boxes: Array) -> Array:
    """From points (..., 2) to the left, top, right and bottom sides of boxes, (..., 4).

    All are positive where the point is inside.
    """
    near, far = points - boxes[..., :2], boxes[..., 2:] - points
    return _library(near).concatenate([near, far], -1)


def depth(points: Array, boxes: Array) -> Array:
    """How far inside boxes (..., 4) points (..., 2) are: the least of their `distances`, (...)."""
    lower = _library(points).minimum
    x, y = points[..., 0], points[..., 1]
    x1, y1, x2, y2 = _edges(boxes)
    return lower(lower(x - x1, x2 - x), lower(y - y1, y2 - y))


def boxes_around(points: Array, sides: Array) -> Array:
    """Boxes (..., 4) whose sides are that far from points (..., 2): the inverse of `distances`."""
    near, far = points - sides[..., :2], points + sides[..., 2:]
    return _library(near).concatenate([near, far], -1)


def around(boxes: np.ndarray, move: np.ndarray) -> np.ndarray:
    """The boxes (n, 4) float32 around boxes (n, 4) whose corners the affine map (2, 3) moved."""
    corners = boxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]  # (n, 4, 2)
    moved = corners @ move[:, :2].T + move[:, 2]  # (n, 4, 2)
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)], axis=1).astype(np.float32)


def clipped(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """Boxes (n, 4) as far as they are in an image."""
    return boxes.clip(0, np.array([width, height, width, height], np.float32))


def _edges(boxes: Array) -> list[Array]:
    """x1, y1, x2, y2 apart: faster than to compute with rows of two."""
    return [boxes[..., edge] for edge in range(4)]


def _library(array: Array) -> ModuleType:
    """NumPy, or Paddle where a tensor is given: only then is Paddle needed."""
    if isinstance(array, np.ndarray):
        return np
    import paddle

    return paddle
