"""Non-maximum suppression: of boxes that overlap and show the same class, the surest stays.

Read before: boxes.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ppcls_lite.ops.boxes import iou

_BLOCK = 512  # boxes that are compared at once


def multiclass_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    nms_threshold: float,
    nms_top_k: int = 1000,
    keep_top_k: int = 100,
    across_classes: bool = False,
) -> np.ndarray:
    """What an image shows: rows of class, score, x1, y1, x2, y2, (n, 6) float32.

    Args:
        boxes: (L, 4), scores: (C, L), the probability of each class in each box.
        score_threshold: only scores above it count.
        nms_threshold: a box goes whose IoU with a surer one that stays is above it.
        nms_top_k: so many of each class are looked at; keep_top_k: so many boxes of all classes
            stay. -1: all.
        across_classes: boxes of other classes count as overlapping, too.

    The rows are ordered by class, those of a class by falling score. A location may appear under
    several classes. Meaning and order of PaddleDetection's MultiClassNMS: it looks at one class
    after the other, which gives the same boxes.
    """
    classes, places = np.nonzero(scores > score_threshold)
    found = scores[classes, places]
    order = np.lexsort((-found, classes))  # stable: by class, then by score
    if nms_top_k >= 0:
        starts = np.searchsorted(classes[order], np.arange(len(scores)))
        order = order[np.arange(len(order)) - starts[classes[order]] < nms_top_k]
    order = order[np.argsort(-found[order], kind="stable")]  # of all classes, the surest first
    classes, places, found = classes[order], places[order], found[order]
    candidates = boxes[places]
    kept = _suppressed(candidates, None if across_classes else classes, nms_threshold, keep_top_k)
    kept = kept[np.argsort(classes[kept], kind="stable")]
    rows = [classes[kept, None], found[kept, None], candidates[kept]]
    return np.concatenate(rows, axis=1, dtype=np.float32)


def _suppressed(
    boxes: np.ndarray, classes: np.ndarray | None, threshold: float, most: int
) -> np.ndarray:
    """The places of the boxes (n, 4), the surest first, that no surer one of their class covers.

    In blocks: a network that has learnt little gives a hundred thousand boxes of which the first
    few hundred decide.
    """
    kept: list[int] = []
    for start in range(0, len(boxes), _BLOCK):
        alive = np.arange(start, min(start + _BLOCK, len(boxes)))
        covered = _covered(boxes, classes, alive[:, None], np.array(kept, int), threshold)  # (b, k)
        alive = alive[~covered.any(axis=1)]
        while len(alive) and len(kept) != most:
            first, alive = alive[0], alive[1:]
            kept.append(int(first))
            alive = alive[~_covered(boxes, classes, alive, first, threshold)]
        if len(kept) == most:
            break
    return np.array(kept, np.int64)


def _covered(
    boxes: np.ndarray, classes: np.ndarray | None, some: Any, others: Any, threshold: float
) -> np.ndarray:
    """Whether boxes at the places `some` overlap with `others` of their class by more than that."""
    covered = iou(boxes[some], boxes[others]) > threshold
    return covered if classes is None else covered & (classes[some] == classes[others])
