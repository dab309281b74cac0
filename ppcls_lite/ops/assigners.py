"""Which places of a detector learn which boxes, for a batch at once; nothing here has a gradient.

Places (L, 3) are x, y and stride; truth (N, G, 4) are the boxes of each image in pixels, classes
(N, G) theirs, -1 in rows that only fill up; predictions are boxes (N, L, 4) and scores (N, C, L).
All are Paddle tensors, and nothing is a loop over boxes or images. Read before: boxes.py.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ppcls_lite.ops.boxes import centres, depth, giou, iou

_FAR = 1e5  # more than any cost
_INSIDE = 1e-9
_TINY = 1e-9
_LEAST = 1e-7  # under a logarithm


class Assignment(NamedTuple):
    """What each place learns, all (N, L).

    row: of the truth, -1 for background. quality: the score that the row's class should have.
    weight: how much the place counts for the box. count: how much for the divisor of the scores.
    """

    row: Tensor
    quality: Tensor
    weight: Tensor
    count: Tensor


def background(scores: Tensor) -> Assignment:
    """Where no image has a box."""
    row = paddle.full([scores.shape[0], scores.shape[2]], -1, dtype="int64")
    nothing = paddle.zeros(row.shape, dtype="float32")
    return Assignment(row, nothing, nothing, nothing)


def simota(
    scores: Tensor,
    boxes: Tensor,
    places: Tensor,
    truth: Tensor,
    classes: Tensor,
    center_radius: float = 2.5,
    candidate_topk: int = 10,
    cls_weight: float = 1.0,
    iou_weight: float = 6.0,
    use_vfl: bool = True,
) -> Assignment:
    """SimOTA (YOLOX, arXiv 2107.08430, section 2): each box takes the cheapest places.

    A box takes as many as its `candidate_topk` best overlaps add up to. What a place costs is its
    error in class and overlap; one that is not both inside the box and within `center_radius`
    strides of its centre is taken only where none is. quality: the overlap; every place counts 1
    for the scores, and its best score for the box. use_vfl: these errors are varifocal loss and
    GIoU; else cross entropy and the logarithm of the overlap, as in YOLOX.
    """
    real = (classes >= 0).unsqueeze(-1)  # (N, G, 1)
    points, strides = places[:, :2], places[:, 2]
    inside = depth(points, truth.unsqueeze(2)) > 0  # (N, G, L)
    reach = (center_radius * strides).unsqueeze(-1)  # (L, 1)
    around = paddle.concat([points - reach, points + reach], axis=-1)  # (L, 4)
    central = depth(centres(truth).unsqueeze(2), around) > 0
    candidate = ((inside | central) & real).any(axis=1, keepdim=True)  # (N, 1, L)
    overlap = iou(boxes.unsqueeze(1), truth.unsqueeze(2))
    if use_vfl:
        kind = _class_cost(scores, classes, overlap)
        apart = 1 - giou(boxes.unsqueeze(1), truth.unsqueeze(2))
    else:
        kind, apart = _entropy(scores, classes), -(overlap + _LEAST).log()
    cost = cls_weight * kind + iou_weight * apart
    cost = cost + _FAR * (1 - (inside & central).astype("float32"))
    cost = paddle.where(candidate & real, cost, paddle.full_like(cost, 100 * _FAR))

    most = min(candidate_topk, places.shape[0])
    best = (overlap * candidate.astype("float32")).topk(most, axis=-1)[0].sum(axis=-1)
    numbers = best.astype("int64").clip(min=1).unsqueeze(-1)  # (N, G, 1)
    cheapest = cost.topk(most, axis=-1, largest=False)[1]
    taken = (paddle.arange(most) < numbers).astype("float32")  # (N, G, most)
    match = paddle.put_along_axis(paddle.zeros_like(cost), cheapest, taken, axis=2)
    match = match * (candidate & real).astype("float32")
    row = _one_row(match, -cost)
    quality = _of_row(overlap, row)
    positive = (row >= 0).astype("float32")
    return Assignment(row, quality, scores.max(axis=1) * positive, positive)


def _class_cost(scores: Tensor, classes: Tensor, overlap: Tensor) -> Tensor:
    """Varifocal loss of all classes where a box's own should have its overlap, (N, G, L)."""
    clipped = scores.clip(1e-12, 1 - 1e-7)
    others = clipped.square() * (1 - clipped).log() * -0.75  # (N, C, L): what should be 0
    own = _of_class(scores, classes).clip(1e-12, 1 - 1e-7)
    entropy = -(overlap * own.log() + (1 - overlap) * (1 - own).log())
    unwanted = _of_class(others, classes)
    wanted = paddle.where(overlap > 0, entropy * overlap, unwanted)
    return others.sum(axis=1, keepdim=True) - unwanted + wanted


def _entropy(scores: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of all classes where only a box's own is right, (N, G, L)."""
    clipped = scores.clip(1e-12, 1 - 1e-7)
    others = -(1 - clipped).log()  # (N, C, L)
    own = _of_class(clipped, classes).clip(min=1e-12)
    return others.sum(axis=1, keepdim=True) - _of_class(others, classes) - own.log()


def atss(
    scores: Tensor,
    boxes: Tensor,
    places: Tensor,
    truth: Tensor,
    classes: Tensor,
    topk: int = 9,
    anchor_scale: float = 5.0,
    force_gt_matching: bool = False,
) -> Assignment:
    """ATSS (arXiv 1912.02424, section 3.2): a threshold for each box, of its own statistics.

    Each place has an anchor, a square of `anchor_scale` strides. Of every stride the `topk` nearest
    places are candidates (all of a stride that has fewer); positive are those whose anchor overlaps
    by more than mean + deviation of all candidates, and that lie inside. With `force_gt_matching` a
    box also takes the place whose anchor it overlaps most, unless it is another box's as well.
    quality: how far the predicted box overlaps.
    """
    real = (classes >= 0).unsqueeze(-1)  # (N, G, 1)
    points, half = places[:, :2], places[:, 2:] * (anchor_scale / 2)
    anchors = paddle.concat([points - half, points + half], axis=-1)  # (L, 4)
    overlap = iou(anchors, truth.unsqueeze(2))  # (N, G, L)
    x, y = centres(truth).unsqueeze(2).unstack(axis=-1)
    away = (points[:, 0] - x).square() + (points[:, 1] - y).square()
    nearest, begin = [], 0
    for length in _lengths(places):
        level = away[:, :, begin : begin + length]
        nearest.append(level.topk(min(topk, length), axis=-1, largest=False)[1] + begin)
        begin += length
    nearest = paddle.concat(nearest, axis=-1)  # (N, G, candidates)
    near = paddle.take_along_axis(overlap, nearest, axis=2)
    threshold = near.mean(axis=-1, keepdim=True) + near.std(axis=-1, keepdim=True)
    match = paddle.put_along_axis(
        paddle.zeros_like(overlap), nearest, (near > threshold).astype("float32"), axis=2
    )
    match = match * (_inside(points, truth) & real).astype("float32")
    row = _one_row(match, paddle.where(real, overlap, paddle.full_like(overlap, -1)))
    if force_gt_matching:
        best = F.one_hot(overlap.argmax(axis=-1), overlap.shape[2]) * real.astype("float32")
        row = paddle.where(best.sum(axis=1) == 1, best.argmax(axis=1), row)
    quality = _of_row(iou(boxes.unsqueeze(1), truth.unsqueeze(2)), row)
    return Assignment(row, quality, quality, quality)


def task_aligned(
    scores: Tensor,
    boxes: Tensor,
    places: Tensor,
    truth: Tensor,
    classes: Tensor,
    topk: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> Assignment:
    """Task-aligned learning (TOOD, arXiv 2108.07755, section 3.2): what is right in both respects.

    A place's alignment is score^alpha * overlap^beta. Each box takes the `topk` best aligned places
    inside it. quality: the alignment, scaled so that each box's best one is its largest overlap.
    """
    real = (classes >= 0).unsqueeze(-1)  # (N, G, 1)
    overlap = iou(boxes.unsqueeze(1), truth.unsqueeze(2))  # (N, G, L)
    allowed = (_inside(places[:, :2], truth) & real).astype("float32")
    aligned = _of_class(scores, classes) ** alpha * overlap**beta * allowed
    best = aligned.topk(min(topk, places.shape[0]), axis=-1)[1]
    match = paddle.put_along_axis(paddle.zeros_like(aligned), best, 1.0, axis=2) * allowed
    row = _one_row(match, paddle.where(real, overlap, paddle.full_like(overlap, -1)))

    own = (row.unsqueeze(1) == paddle.arange(truth.shape[1]).unsqueeze(-1)).astype("float32")
    highest = (aligned * own).max(axis=-1, keepdim=True)  # of each box, (N, G, 1)
    closest = (overlap * own).max(axis=-1, keepdim=True)
    quality = _of_row(aligned / (highest + _TINY) * closest, row)
    return Assignment(row, quality, quality, quality)


def _inside(points: Tensor, truth: Tensor) -> Tensor:
    """Whether points (L, 2) lie within boxes (N, G, 4): (N, G, L)."""
    return depth(points, truth.unsqueeze(2)) > _INSIDE


def _of_class(scores: Tensor, classes: Tensor) -> Tensor:
    """The scores (N, C, L) of each box's class (N, G): (N, G, L)."""
    return F.one_hot(classes.clip(min=0), scores.shape[1]) @ scores


def _one_row(match: Tensor, rank: Tensor) -> Tensor:
    """The row that a place learns (N, L), of those that want it, `match` (N, G, L); -1: none does.

    Where several do, it is the one of the highest rank among all, those that do not included.
    """
    wanted = match.sum(axis=1)  # (N, L)
    row = paddle.where(wanted > 1, rank.argmax(axis=1), match.argmax(axis=1))
    return paddle.where(wanted > 0, row, paddle.full_like(row, -1))


def _of_row(values: Tensor, row: Tensor) -> Tensor:
    """Of values (N, G, L) those of each place's row (N, L); 0 for background."""
    found = paddle.take_along_axis(values, row.clip(min=0).unsqueeze(1), axis=1).squeeze(1)
    return found * (row >= 0).astype("float32")


def _lengths(places: Tensor) -> list[int]:
    """How many places each stride has, in their order."""
    strides = places[:, 2].numpy()
    ends = (strides[1:] != strides[:-1]).nonzero()[0] + 1
    ends = [0, *ends.tolist(), len(strides)]
    return [end - begin for begin, end in itertools.pairwise(ends)]
