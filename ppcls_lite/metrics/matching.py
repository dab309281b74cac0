"""Which detection found which object, for all images of a data set at once.

Read before: objects.py. Read next: coco_ap.py, voc_ap.py, detection_report.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ppcls_lite.metrics.objects import Found, Truth
from ppcls_lite.ops.boxes import area, intersection


class Pairs(NamedTuple):
    """Detections and objects of one image that overlap, p rows: their places, and how much.

    `inside` is the share of the detection that lies in the object, by which crowds count.
    """

    found: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    inside: np.ndarray


def pairs_of(found: Found, truth: Truth, same_class: bool = True, pixel: int = 0) -> Pairs:
    """All pairs that overlap; of one class only unless `same_class` is false.

    pixel: by how much every edge is longer, 1 as VOC counts.
    """
    kinds = 1 + max(found.kind.max(initial=0), truth.kind.max(initial=0)) if same_class else 1
    key = truth.image * kinds + (truth.kind if same_class else 0)
    wanted = found.image * kinds + (found.kind if same_class else 0)
    order = np.argsort(key, kind="stable")
    first = np.searchsorted(key[order], wanted)
    count = np.searchsorted(key[order], wanted, side="right") - first
    a = np.repeat(np.arange(len(wanted)), count)
    ends = np.cumsum(count)
    b = order[np.repeat(first, count) + np.arange(len(a)) - np.repeat(ends - count, count)]
    longer = np.array([0, 0, pixel, pixel], np.float64)
    boxes, others = found.box[a] + longer, truth.box[b] + longer
    shared = intersection(boxes, others)
    own = area(boxes)
    union = np.maximum(own + area(others) - shared, 1e-9)
    over = shared > 0
    inside = shared / np.maximum(own, 1e-9)
    return Pairs(a[over], b[over], (shared / union)[over], inside[over])


def matched(found: Found, truth: Truth, pairs: Pairs, overlap: float = 0.5) -> np.ndarray:
    """(k,) int64: the object that each detection found; -1: none, -2: what does not count.

    As COCO has it: by falling score, each detection takes the object of largest IoU, at least
    `overlap`, that is still free. Objects that are ignored are taken last, and by any number.
    """
    result = np.full(len(found.score), -1, np.int64)
    counts = ~truth.ignored[pairs.truth]
    close = pairs.iou >= overlap - 1e-9
    real = np.flatnonzero(counts & close)
    # Detections propose to their objects by falling IoU; an object prefers the highest score. The
    # stable result is unique: what a loop over the scores gives.
    order = real[np.lexsort((-pairs.iou[real], pairs.found[real]))]
    proposals, objects = pairs.found[order], pairs.truth[order]
    starts = np.searchsorted(proposals, np.arange(len(found.score)))
    ends = np.searchsorted(proposals, np.arange(len(found.score)), side="right")
    rank = np.empty(len(found.score), np.int64)
    rank[np.argsort(-found.score, kind="stable")] = np.arange(len(found.score))
    holder = np.full(len(truth.image), -1, np.int64)
    following = starts.copy()
    free = np.flatnonzero(ends > starts)
    while len(free):
        target = objects[following[free]]
        following[free] += 1
        best = np.lexsort((rank[free], target))
        head = np.ones(len(best), bool)
        head[1:] = target[best][1:] != target[best][:-1]
        suitor, wanted = free[best[head]], target[best[head]]
        before = holder[wanted]
        wins = (before < 0) | (rank[suitor] < rank[np.maximum(before, 0)])
        result[before[wins & (before >= 0)]] = -1
        holder[wanted[wins]] = suitor[wins]
        result[suitor[wins]] = wanted[wins]
        refused = np.concatenate([free, before[wins & (before >= 0)]])
        refused = refused[result[refused] < 0]
        free = refused[following[refused] < ends[refused]]
    crowd = truth.crowd[pairs.truth]
    excused = np.where(crowd, pairs.inside >= overlap, close & ~counts)
    passed = np.zeros(len(result), bool)
    passed[pairs.found[excused]] = True
    result[passed & (result == -1)] = -2
    return result


class Operating(NamedTuple):
    """Precision, recall and F1 of all detections from a score on, for falling scores."""

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray

    def at(self, threshold: float) -> tuple[float, float, float]:
        """Precision, recall and F1 of the detections with a score of at least `threshold`."""
        count = int(np.searchsorted(-self.score, -threshold, side="right"))
        if not count:
            return 0.0, 0.0, 0.0
        return tuple(float(v[count - 1]) for v in (self.precision, self.recall, self.f1))

    def best(self) -> tuple[float, float]:
        """The threshold of the largest F1, and that F1; 0 where nothing was found."""
        if not len(self.score):
            return 0.0, 0.0
        # only where a lower score follows: detections of one score come together
        last = np.append(self.score[1:] < self.score[:-1], True)
        place = np.flatnonzero(last)[self.f1[last].argmax()]
        return float(self.score[place]), float(self.f1[place])


def operating(score: np.ndarray, match: np.ndarray, objects: int) -> Operating:
    """The curves of detections whose `match` is as in `matched`, for so many objects."""
    counted = match != -2
    order = np.argsort(-score[counted], kind="stable")
    score, right = score[counted][order], (match[counted] >= 0)[order]
    hits, all_ = np.cumsum(right), np.arange(1, len(right) + 1)
    recall = hits / max(objects, 1)
    return Operating(score, hits / all_, recall, 2 * hits / (all_ + max(objects, 1)))
