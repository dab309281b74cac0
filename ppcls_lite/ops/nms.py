"""Non-maximum suppression: of boxes that overlap and show the same class, the surest stays.

Read before: boxes.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ppcls_lite.ops.boxes import area, intersection, iou

_BLOCK = 512  # boxes that are compared at once
_ALL = -1
_NEAR = 0.02  # of a part's edge: how near to it a box ends that may go on
_TINY = 1e-9  # pixels


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


def cut_off(
    boxes: np.ndarray, window: tuple[int, int, int, int], size: tuple[int, int]
) -> np.ndarray:
    """(n,) bool: which boxes (n, 4) of a part of an image end where the part does.

    They may show a piece of an object that goes on. window: left, top, right and bottom of the part
    in an image of `size` (H, W), whose own edges cut nothing.
    """
    left, top, right, bottom = window
    wide, high = right - left, bottom - top
    near = np.array([wide, high, wide, high]) * _NEAR
    inner = np.array([left > 0, top > 0, right < size[1], bottom < size[0]])
    return ((np.abs(boxes - [0, 0, wide, high]) <= near) & inner).any(axis=1)


def merged_slices(
    rows: np.ndarray,
    unsure: np.ndarray,
    nms_threshold: float,
    keep_top_k: int = 100,
    across_classes: bool = False,
) -> np.ndarray:
    """The places of the rows that stay, where parts of an image have shown objects several times.

    Args:
        rows: class, score, x1, y1, x2, y2 in the image, (n, 6), of all parts.
        unsure: (n,) bool, which may be pieces (`cut_off`), or coarse.
        nms_threshold, keep_top_k, across_classes: as of `multiclass_nms`, by which the whole
            objects are chosen. Of the others one goes where more than `nms_threshold` of the
            smaller of it and what stays lies in the other, however high its score is: IoU does not
            tell that a piece belongs to its object.

    In the order of `multiclass_nms`.
    """
    kept = np.zeros(0, np.int64)
    for measure, chosen in ((iou, ~unsure), (_inside, unsure)):
        places = np.nonzero(chosen)[0]
        places = places[np.argsort(-rows[places, 1], kind="stable")]
        if measure is _inside:
            places = places[~_shown(rows, places, kept, nms_threshold, across_classes)]
        classes = None if across_classes else rows[places, 0]
        own = _suppressed(rows[places, 2:], classes, nms_threshold, _ALL, measure)
        kept = np.concatenate([kept, places[own]])
    kept = kept[np.argsort(-rows[kept, 1], kind="stable")][: None if keep_top_k < 0 else keep_top_k]
    return kept[np.argsort(rows[kept, 0], kind="stable")]


def _shown(
    rows: np.ndarray, some: np.ndarray, others: np.ndarray, threshold: float, across: bool
) -> np.ndarray:
    """Which of the rows `some` lie in any of the rows `others`, (n,) bool; in blocks."""
    classes = None if across else rows[:, 0]
    blocks = [some[start : start + _BLOCK] for start in range(0, len(some), _BLOCK)]
    found = [
        _covered(rows[:, 2:], classes, block[:, None], others, threshold, _inside).any(axis=1)
        for block in blocks
    ]
    return np.concatenate([np.zeros(0, bool), *found])


def _inside(a: Any, b: Any) -> Any:
    """The share of the smaller of two boxes that lies in the other."""
    return intersection(a, b) / np.maximum(np.minimum(area(a), area(b)), _TINY)


def _suppressed(
    boxes: np.ndarray,
    classes: np.ndarray | None,
    threshold: float,
    most: int,
    measure: Callable[[Any, Any], Any] = iou,
) -> np.ndarray:
    """The places of the boxes (n, 4), the surest first, that no surer one of their class covers.

    In blocks: a network that has learnt little gives a hundred thousand boxes of which the first
    few hundred decide.
    """
    kept: list[int] = []
    for start in range(0, len(boxes), _BLOCK):
        alive = np.arange(start, min(start + _BLOCK, len(boxes)))
        others = np.array(kept, int)
        covered = _covered(boxes, classes, alive[:, None], others, threshold, measure)  # (b, k)
        alive = alive[~covered.any(axis=1)]
        while len(alive) and len(kept) != most:
            first, alive = alive[0], alive[1:]
            kept.append(int(first))
            alive = alive[~_covered(boxes, classes, alive, first, threshold, measure)]
        if len(kept) == most:
            break
    return np.array(kept, np.int64)


def _covered(
    boxes: np.ndarray,
    classes: np.ndarray | None,
    some: Any,
    others: Any,
    threshold: float,
    measure: Callable[[Any, Any], Any],
) -> np.ndarray:
    """Whether boxes at the places `some` overlap with `others` of their class by more than that."""
    covered = measure(boxes[some], boxes[others]) > threshold
    return covered if classes is None else covered & (classes[some] == classes[others])
